"""Tiny random models of transformers and their answers, for machines without torch.

    python tests/golden/make_hf.py

writes hf_<case>.npz beside this file: the config.json, every tensor, and the logits
(of classifiers: scores) that torch computes of `batch(case)`. Seed 0; the versions
that made a file are stored in it.
"""

import json
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
VOCAB, ROWS, LENGTH = 29, 3, 7
_GPT2 = dict(vocab_size=VOCAB, n_positions=16, n_embd=16, n_layer=2, n_head=4)
_LLAMA = dict(
    vocab_size=VOCAB,
    max_position_embeddings=16,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
)
_STRETCHED = dict(
    rope_type="llama3",
    rope_theta=100.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=2.0,
    original_max_position_embeddings=8,
)

# case: (class name, its configuration); the first four are kept as files.
CASES = {
    "gpt2": ("GPT2LMHeadModel", _GPT2),
    "llama": ("LlamaForCausalLM", _LLAMA | dict(num_key_value_heads=2)),
    "llama_stretched": (
        "LlamaForCausalLM",
        _LLAMA
        | dict(num_key_value_heads=1, attention_bias=True, mlp_bias=True)
        | dict(rope_parameters=_STRETCHED, tie_word_embeddings=True),
    ),
    "llama_classifier": (
        "LlamaForSequenceClassification",
        _LLAMA | dict(num_labels=3, pad_token_id=0),
    ),
    "gpt2_untied": (
        "GPT2LMHeadModel",
        _GPT2 | dict(tie_word_embeddings=False, n_inner=40, activation_function="gelu"),
    ),
    "gpt2_reward": (
        "GPT2ForSequenceClassification",
        _GPT2 | dict(num_labels=1, pad_token_id=0),
    ),
    "llama_full": ("LlamaForCausalLM", _LLAMA | dict(tie_word_embeddings=True)),
    "mistral": (
        "MistralForCausalLM",
        _LLAMA | dict(num_key_value_heads=2, head_dim=8, sliding_window=12),
    ),
}
KEPT = tuple(CASES)[:4]


def batch(case):
    """Tokens and mask: padded on the left, for classifiers on the right."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, VOCAB, (ROWS, LENGTH))
    mask = np.arange(LENGTH)[None] >= np.array([[0], [2], [4]])
    if "Sequence" in CASES[case][0]:
        mask = mask[:, ::-1]
    return np.where(mask, tokens, 0), mask.astype(np.int64)


def build(case):
    """A random model of transformers, no parameter at a special point."""
    import torch
    import transformers

    name, settings = CASES[case]
    kind = getattr(transformers, name)
    torch.manual_seed(0)
    model = kind(kind.config_class(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    return model


def answers(model, case):
    """What torch says to `batch(case)`: logits [B, T, V], or scores [B, labels]."""
    import torch

    tokens, mask = (torch.tensor(x) for x in batch(case))
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        said = model(tokens, attention_mask=mask, position_ids=positions)
    return said.logits.numpy()


def main():
    import tempfile

    import safetensors.numpy
    import torch
    import transformers

    for case in KEPT:
        model = build(case)
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            described = json.loads((pathlib.Path(folder) / "config.json").read_text())
            tensors = safetensors.numpy.load_file(f"{folder}/model.safetensors")
        versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
        np.savez_compressed(
            HERE / f"hf_{case}.npz",
            versions=versions,
            config=json.dumps(described),
            answers=answers(model, case),
            **{f"tensor {name}": value for name, value in tensors.items()},
        )


if __name__ == "__main__":
    main()
