"""How Hugging Face names what a decoder is made of: configurations and tensors.

Two families: GPT-2, and Llama (with Mistral, whose architecture is the same).
"""

import re
from typing import NamedTuple

from rlhf_jax.models import config


class Tensor(NamedTuple):
    """One parameter here, and where it stands in a file."""

    path: str  # in our tree; leaves under "layers/" are stacked
    name: str  # in the file, {} being the layer
    form: str = "same"  # "transposed"; "query", "key", "value": a third of the columns


# torch.nn.Linear keeps [outputs, inputs], our kernels are [inputs, outputs].
_LLAMA = (
    Tensor("embedding/token", "model.embed_tokens.weight"),
    Tensor(
        "layers/attention_norm/scale",
        "model.layers.{}.input_layernorm.weight",
    ),
    Tensor(
        "layers/mlp_norm/scale",
        "model.layers.{}.post_attention_layernorm.weight",
    ),
    *(
        Tensor(
            f"layers/{ours}/{leaf}",
            f"model.layers.{{}}.{theirs}.{torch_leaf}",
            form,
        )
        for ours, theirs in {
            "attention/query": "self_attn.q_proj",
            "attention/key": "self_attn.k_proj",
            "attention/value": "self_attn.v_proj",
            "attention/output": "self_attn.o_proj",
            "mlp/gate": "mlp.gate_proj",
            "mlp/up": "mlp.up_proj",
            "mlp/down": "mlp.down_proj",
        }.items()
        for leaf, torch_leaf, form in (
            ("kernel", "weight", "transposed"),
            ("bias", "bias", "same"),
        )
    ),
    Tensor("final_norm/scale", "model.norm.weight"),
)

# GPT-2's Conv1D keeps [inputs, outputs] as we do, and query, key, value side by side.
_GPT2 = (
    Tensor("embedding/token", "transformer.wte.weight"),
    Tensor("embedding/position", "transformer.wpe.weight"),
    *(
        Tensor(f"{ours}/{leaf}", f"transformer.{theirs}.{torch_leaf}")
        for ours, theirs, leaf, torch_leaf in (
            ("layers/attention_norm", "h.{}.ln_1", "scale", "weight"),
            ("layers/attention_norm", "h.{}.ln_1", "bias", "bias"),
            ("layers/mlp_norm", "h.{}.ln_2", "scale", "weight"),
            ("layers/mlp_norm", "h.{}.ln_2", "bias", "bias"),
            ("layers/attention/output", "h.{}.attn.c_proj", "kernel", "weight"),
            ("layers/attention/output", "h.{}.attn.c_proj", "bias", "bias"),
            ("layers/mlp/up", "h.{}.mlp.c_fc", "kernel", "weight"),
            ("layers/mlp/up", "h.{}.mlp.c_fc", "bias", "bias"),
            ("layers/mlp/down", "h.{}.mlp.c_proj", "kernel", "weight"),
            ("layers/mlp/down", "h.{}.mlp.c_proj", "bias", "bias"),
            ("final_norm", "ln_f", "scale", "weight"),
            ("final_norm", "ln_f", "bias", "bias"),
        )
    ),
    *(
        Tensor(
            f"layers/attention/{part}/{leaf}",
            f"transformer.h.{{}}.attn.c_attn.{torch_leaf}",
            part,
        )
        for part in ("query", "key", "value")
        for leaf, torch_leaf in (("kernel", "weight"), ("bias", "bias"))
    ),
)

_HEADS = (
    Tensor("unembedding/kernel", "lm_head.weight", "transposed"),
    Tensor("head/kernel", "score.weight", "transposed"),
    Tensor("head/bias", "score.bias"),
)

TENSORS = {
    family: {tensor.path: tensor for tensor in (*table, *_HEADS)}
    for family, table in {"gpt2": _GPT2, "llama": _LLAMA}.items()
}
FAMILIES = {"gpt2": "gpt2", "llama": "llama", "mistral": "llama"}  # by model_type
CLASSES = {"gpt2": "GPT2", "llama": "Llama"}
THIRDS = ("query", "key", "value")

_PREFIX = re.compile(r"^(model|transformer)\.")
# Causal masks and rotary tables that older files carry along.
_BUFFERS = re.compile(r"\.attn\.(masked_)?bias$|\.rotary_emb\.inv_freq$")

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
}


def short(name):
    """A tensor's name without the prefix that the bare trunk's files leave out."""
    return _PREFIX.sub("", name)


def is_buffer(name):
    """Is this a constant that older files store beside the weights?"""
    return _BUFFERS.search(name) is not None


def family(c):
    """The family a configuration can be saved as. Raises ValueError when none fits."""
    gpt2 = dict(positions="learned", norm="layer", gated=False, attention_bias=True)
    gpt2 |= dict(mlp_bias=True, kv_heads=c.heads, head_dim=c.width // c.heads)
    llama = dict(positions="rotary", norm="rms", gated=True)
    strange = {}
    for name, wanted in (("gpt2", gpt2), ("llama", llama)):
        odd = {key: value for key, value in wanted.items() if getattr(c, key) != value}
        if not odd:
            return name
        strange[name] = odd
    needs = "; ".join(f"{name} needs {odd}" for name, odd in strange.items())
    raise ValueError(f"no Hugging Face family has this configuration: {needs}")


def decoder(described):
    """The configuration that a config.json describes, given as a dictionary."""
    kind = described.get("model_type")
    if kind not in FAMILIES:
        raise ValueError(f"model_type {kind!r} is not one of {tuple(FAMILIES)}")
    return {"gpt2": _from_gpt2, "llama": _from_llama}[FAMILIES[kind]](described)


def _from_gpt2(described):
    for key, plain in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        if described.get(key, plain) != plain:
            raise ValueError(f"config.json has {key}={described[key]}: not supported")
    width = described["n_embd"]
    return config.gpt2(
        vocab_size=described["vocab_size"],
        width=width,
        layers=described["n_layer"],
        heads=described["n_head"],
        max_length=described["n_positions"],
        hidden=described.get("n_inner") or 4 * width,
        activation=_activation(described.get("activation_function", "gelu_new")),
        norm_eps=described.get("layer_norm_epsilon", 1e-5),
        tied=described.get("tie_word_embeddings", True),
    )


def _from_llama(described):
    width, heads = described["hidden_size"], described["num_attention_heads"]
    rope = described.get("rope_parameters") or described.get("rope_scaling") or {}
    context = described.get("max_position_embeddings", 2048)
    theta = rope.get("rope_theta", described.get("rope_theta", 10000.0))
    return config.Decoder(
        vocab_size=described["vocab_size"],
        width=width,
        layers=described["num_hidden_layers"],
        heads=heads,
        kv_heads=described.get("num_key_value_heads") or heads,
        head_dim=described.get("head_dim") or width // heads,
        hidden=described["intermediate_size"],
        # Within its window, sliding attention is plain attention.
        max_length=min(context, described.get("sliding_window") or context),
        rope_theta=float(theta),
        rope_scaling=_scaling(rope),
        norm_eps=described.get("rms_norm_eps", 1e-6),
        activation=_activation(described.get("hidden_act", "silu")),
        attention_bias=described.get("attention_bias", False),
        mlp_bias=described.get("mlp_bias", False),
        tied=described.get("tie_word_embeddings", False),
    )


def _activation(name):
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation {name!r} is not one of {tuple(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _scaling(rope):
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise ValueError(f"rope_type {kind!r} is not one of ('default', 'llama3')")
    return config.RopeScaling(
        factor=rope["factor"],
        low_frequency=rope["low_freq_factor"],
        high_frequency=rope["high_freq_factor"],
        original_length=rope["original_max_position_embeddings"],
    )


def describe(c):
    """The fields of a config.json for a configuration: the inverse of `decoder`."""
    kind = family(c)
    common = {
        "model_type": kind,
        "vocab_size": c.vocab_size,
        "tie_word_embeddings": c.tied,
    }
    return common | {"gpt2": _to_gpt2, "llama": _to_llama}[kind](c)


def _to_gpt2(c):
    return {
        "n_embd": c.width,
        "n_layer": c.layers,
        "n_head": c.heads,
        "n_inner": c.hidden,
        "n_positions": c.max_length,
        "activation_function": c.activation,
        "layer_norm_epsilon": c.norm_eps,
    }


def _to_llama(c):
    rope = {"rope_type": "default", "rope_theta": c.rope_theta}
    if c.rope_scaling is not None:
        rope |= {
            "rope_type": "llama3",
            "factor": c.rope_scaling.factor,
            "low_freq_factor": c.rope_scaling.low_frequency,
            "high_freq_factor": c.rope_scaling.high_frequency,
            "original_max_position_embeddings": c.rope_scaling.original_length,
        }
    return {
        "hidden_size": c.width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "intermediate_size": c.hidden,
        "max_position_embeddings": c.max_length,
        "rope_parameters": rope,
        "rope_theta": c.rope_theta,
        "rms_norm_eps": c.norm_eps,
        "hidden_act": c.activation,
        "attention_bias": c.attention_bias,
        "mlp_bias": c.mlp_bias,
    }
