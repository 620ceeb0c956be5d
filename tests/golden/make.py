"""Tiny models of every family and what torch says to them, for machines without torch.

    python -m tests.golden.make

writes <case>.npz beside this file: config.json, the names and shapes of all tensors,
and the logits (of classifiers: scores) that transformers computes in torch, in float32,
of `batch(case)`. The tensors themselves follow from their names, by `tensor`. The
versions that made a file are stored in it.
"""

import json
import pathlib
import zlib

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
VOCAB, LENGTH, PAD = 29, 9, 1
LEFT = 3  # rows of a batch that are padded on the left, if at all
_GPT2 = dict(vocab_size=VOCAB, n_positions=16, n_embd=16, n_layer=2, n_head=4)
_SHAPE = dict(
    vocab_size=VOCAB,
    max_position_embeddings=16,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
)
_LLAMA = _SHAPE | dict(num_key_value_heads=2)
_QWEN3 = _LLAMA | dict(head_dim=8)
_NEOX = _SHAPE | dict(num_attention_heads=2)
_DISTIL = dict(
    vocab_size=VOCAB,
    max_position_embeddings=16,
    dim=16,
    hidden_dim=24,
    n_layers=2,
    n_heads=4,
)
_HALF = dict(rope_type="default", rope_theta=100.0, partial_rotary_factor=0.5)
_STRETCHED = dict(
    rope_type="llama3",
    rope_theta=100.0,
    factor=4.0,
    low_freq_factor=1.0,
    high_freq_factor=2.0,
    original_max_position_embeddings=8,
)
_LINEAR = dict(rope_type="linear", rope_theta=100.0, factor=3.0)
_TIED = dict(tie_word_embeddings=True)
_BIASED = dict(attention_bias=True, mlp_bias=True)
_MIXED = dict(use_sliding_window=True, sliding_window=3, max_window_layers=1)
_GEMMA = _LLAMA | dict(
    head_dim=8, query_pre_attn_scalar=5, sliding_window=3, max_position_embeddings=16
)
# So low that they bind: the logits of these models are below 10.
_CAPS = dict(attn_logit_softcapping=0.5, final_logit_softcapping=2.0)
_ROTATIONS = dict(  # of layers with a window and of those without
    sliding_attention=dict(rope_type="default", rope_theta=10.0),
    full_attention=dict(rope_type="linear", rope_theta=100.0, factor=3.0),
)
_GEMMA3 = _GEMMA | dict(
    rope_parameters=_ROTATIONS, layer_types=["sliding_attention", "full_attention"]
)
_THREE, _ONE = dict(num_labels=3), dict(num_labels=1)

# case: (class name, its configuration)
CASES = {
    "gpt2": ("GPT2LMHeadModel", _GPT2),
    "gpt2_untied": (
        "GPT2LMHeadModel",
        _GPT2 | dict(tie_word_embeddings=False, n_inner=40, activation_function="gelu"),
    ),
    "gpt2_reward": ("GPT2ForSequenceClassification", _GPT2 | _ONE),
    "neox": ("GPTNeoXForCausalLM", _NEOX),
    "neox_sequential": (
        "GPTNeoXForCausalLM",
        _NEOX
        | _TIED
        | dict(
            use_parallel_residual=False, rope_parameters=_HALF, attention_bias=False
        ),
    ),
    "neox_classifier": ("GPTNeoXForSequenceClassification", _NEOX | _THREE),
    "llama": ("LlamaForCausalLM", _LLAMA),
    "llama_tied": ("LlamaForCausalLM", _SHAPE | _TIED),
    "llama_linear": ("LlamaForCausalLM", _LLAMA | dict(rope_parameters=_LINEAR)),
    "llama_stretched": (
        "LlamaForCausalLM",
        _LLAMA
        | _BIASED
        | _TIED
        | dict(num_key_value_heads=1)
        | dict(rope_parameters=_STRETCHED),
    ),
    "llama_classifier": ("LlamaForSequenceClassification", _LLAMA | _THREE),
    "mistral": ("MistralForCausalLM", _LLAMA | dict(head_dim=8, sliding_window=4)),
    "mistral_reward": (
        "MistralForSequenceClassification",
        _LLAMA | _ONE | dict(sliding_window=4),
    ),
    "qwen2": ("Qwen2ForCausalLM", _LLAMA | _TIED),
    "qwen2_mixed": ("Qwen2ForCausalLM", _LLAMA | _MIXED),
    "qwen2_classifier": ("Qwen2ForSequenceClassification", _LLAMA | _THREE),
    "qwen3": ("Qwen3ForCausalLM", _QWEN3 | dict(attention_bias=True)),
    "qwen3_mixed": ("Qwen3ForCausalLM", _QWEN3 | _MIXED | _TIED),
    "qwen3_reward": ("Qwen3ForSequenceClassification", _QWEN3 | _ONE),
    "gemma2": ("Gemma2ForCausalLM", _GEMMA | _CAPS),
    "gemma2_classifier": ("Gemma2ForSequenceClassification", _GEMMA | _THREE),
    "gemma3": ("Gemma3ForCausalLM", _GEMMA3),
    "gemma3_reward": ("Gemma3TextForSequenceClassification", _GEMMA3 | _ONE),
    "distilbert": ("DistilBertForSequenceClassification", _DISTIL),
    "bert": ("BertForSequenceClassification", _SHAPE | _THREE),
    "roberta": (
        "RobertaForSequenceClassification",
        _SHAPE | _ONE | dict(type_vocab_size=1, hidden_act="gelu_new"),
    ),
}
ENCODERS = ("distilbert", "bert", "roberta")


def batch(case):
    """Tokens and mask [4, LENGTH]: nothing padded, 2 and 5 on the left, 3 on the right.

    Encoders of transformers count positions from the first column: right only.
    """
    rng = np.random.default_rng(0)
    tokens = rng.integers(PAD + 1, VOCAB, (LEFT + 1, LENGTH))
    place = np.arange(LENGTH)[None]
    first = np.array([[0], [2], [5], [0]])
    last = np.array([[LENGTH], [LENGTH], [LENGTH], [LENGTH - 3]])
    if case in ENCODERS:
        first, last = 0 * first, last - first
    mask = (place >= first) & (place < last)
    return np.where(mask, tokens, PAD), mask.astype(np.int64)


def tensor(name, shape):
    """A parameter that its name determines: uniform in ±½, about 1 for norms' weights.

    Counters through splitmix64, so that every machine makes the same numbers.
    """
    count = int(np.prod(shape))
    with np.errstate(over="ignore"):
        x = np.uint64(zlib.crc32(name.encode()) << 20) + np.arange(
            count, dtype=np.uint64
        )
        x = x * np.uint64(0x9E3779B97F4A7C15)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        x = (x ^ (x >> np.uint64(31))) >> np.uint64(40)
    value = x.astype(np.float32) / np.float32(2**24) - np.float32(0.5)
    scale = len(shape) == 1 and name.endswith("weight")
    return (value + np.float32(scale)).reshape(shape)


def unpack(case, folder):
    """A golden file as the model directory it was; returns torch's answers."""
    import safetensors.numpy

    with np.load(HERE / f"{case}.npz") as golden:
        content = {name: golden[name] for name in golden}
    (folder / "config.json").write_text(str(content["config"]))
    shapes = json.loads(str(content["shapes"]))
    tensors = {name: tensor(name, shape) for name, shape in shapes.items()}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return content["answers"]


def build(case, folder):
    """A model directory written by transformers, its tensors by `tensor`."""
    import safetensors.numpy
    import transformers

    name, settings = CASES[case]
    kind = getattr(transformers, name)
    ends = dict(pad_token_id=PAD, bos_token_id=2, eos_token_id=3)
    kind(kind.config_class(**(settings | ends))).save_pretrained(folder)
    file = pathlib.Path(folder) / "model.safetensors"
    tensors = {
        name: tensor(name, x.shape)
        for name, x in safetensors.numpy.load_file(file).items()
    }
    safetensors.numpy.save_file(tensors, file, {"format": "pt"})
    return {name: x.shape for name, x in tensors.items()}


def answers(folder, case):
    """What torch says to `batch(case)`: logits [B, T, V], or scores [B, labels]."""
    import torch
    import transformers

    auto = transformers.AutoModelForCausalLM
    if "Sequence" in CASES[case][0]:
        auto = transformers.AutoModelForSequenceClassification
    model, report = auto.from_pretrained(
        folder, output_loading_info=True, dtype=torch.float32
    )
    faults = [report[key] for key in ("missing_keys", "unexpected_keys")]
    if any(faults):
        raise ValueError(f"{case}: missing and unexpected are {faults}")
    tokens, mask = (torch.tensor(x) for x in batch(case))
    more = {}
    if case not in ENCODERS:
        more["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        return model.eval()(tokens, attention_mask=mask, **more).logits.numpy()


def main():
    import tempfile

    import torch
    import transformers

    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            shapes = build(case, folder)
            described = json.loads((pathlib.Path(folder) / "config.json").read_text())
            said = answers(folder, case)
        np.savez_compressed(
            HERE / f"{case}.npz",
            versions=versions,
            config=json.dumps(described),
            shapes=json.dumps(shapes),
            answers=said,
        )


if __name__ == "__main__":
    main()
