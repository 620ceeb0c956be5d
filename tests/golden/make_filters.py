"""Logits after the processors of `transformers`, in the order that it gives them.

    python tests/golden/make_filters.py    # transformers 5.24.0, torch 2.13.0, seed 0

writes filters.npz: logits [R, V], prompts [R, P] with their mask, and for each setting
in `CASES` what is left of the logits, −inf where a token is excluded.
"""

import json
import pathlib

import numpy as np

CASES = (
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.7, "temperature": 0.5},
    {"min_p": 0.1},
    {"min_p": 0.3, "temperature": 2.0},
    {"top_k": 7, "min_p": 0.2},
    {"top_p": 0.8, "min_p": 0.05},
    {"top_k": 20, "top_p": 0.9, "min_p": 0.15, "temperature": 1.7},
    {
        "repetition_penalty": 1.8,
        "temperature": 0.8,
        "top_k": 9,
        "top_p": 0.95,
        "min_p": 0.1,
    },
)
ROWS, VOCABULARY, LENGTH = 6, 40, 5


def main():
    import torch
    import transformers

    rng = np.random.default_rng(0)
    logits = (2 * rng.normal(size=(ROWS, VOCABULARY))).astype(np.float32)
    prompts = rng.integers(1, VOCABULARY, (ROWS, LENGTH))
    mask = np.ones_like(prompts)
    prompts[0, :2] = mask[0, :2] = 0  # padding, which no penalty counts
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=1,
        )
    )
    left = []
    for case in CASES:
        settings = {"top_k": 0, **case}  # whose default is 50
        processors = model._get_logits_processor(
            transformers.GenerationConfig(do_sample=True, **settings),
            input_ids_seq_length=LENGTH,
            model_kwargs={"attention_mask": torch.tensor(mask)},
        )
        left.append(processors(torch.tensor(prompts), torch.tensor(logits)).numpy())
    np.savez_compressed(
        pathlib.Path(__file__).with_name("filters.npz"),
        cases=json.dumps(CASES),
        logits=logits,
        prompts=prompts,
        mask=mask,
        left=np.stack(left),
    )


if __name__ == "__main__":
    main()
