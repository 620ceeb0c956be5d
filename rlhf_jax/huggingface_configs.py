"""A config.json and the configuration it describes, both ways, family by family.

A family is a `model_type`. Which one a configuration is saved as follows from its
branches: Mistral is a Llama with a window, Qwen2 one whose queries, keys and values
have a bias and whose output has none, Qwen3 one that normalises each head.
"""

import dataclasses

from rlhf_jax import huggingface_names as names
from rlhf_jax.models import config

_QWEN = ("qwen2", "qwen3")

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "relu": "relu",
    "gelu": "gelu",
    "gelu_new": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
}


# From a config.json


def read(described):
    """The configuration that a config.json describes, given as a dictionary."""
    kind = described.get("model_type")
    if kind not in names.CLASSES:
        raise ValueError(f"model_type {kind!r} is not one of {tuple(names.CLASSES)}")
    special = {"gpt2": _from_gpt2, "gpt_neox": _from_neox, "distilbert": _from_distil}
    if kind in ("bert", "roberta"):
        return _from_bert(described)
    return special.get(kind, _from_llama)(described)


def _refuse(described, *plain):
    """Raise for a setting that computes otherwise; plain: (key, the one value)."""
    for key, value in plain:
        if described.get(key, value) != value:
            raise ValueError(f"config.json has {key}={described[key]!r}: not supported")


def _from_gpt2(described):
    _refuse(
        described,
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    )
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


def _from_neox(described):
    rope = _rope(described)
    width, heads = described["hidden_size"], described["num_attention_heads"]
    part = rope.get("partial_rotary_factor", described.get("rotary_pct", 0.25))
    theta = rope.get("rope_theta", described.get("rotary_emb_base", 10000.0))
    return config.neox(
        vocab_size=described["vocab_size"],
        width=width,
        layers=described["num_hidden_layers"],
        heads=heads,
        max_length=described["max_position_embeddings"],
        hidden=described["intermediate_size"],
        rotary_dim=int(width // heads * part),
        rope_theta=float(theta),
        rope_scaling=_scaling(rope),
        norm_eps=described.get("layer_norm_eps", 1e-5),
        activation=_activation(described.get("hidden_act", "gelu")),
        attention_bias=described.get("attention_bias", True),
        parallel=described.get("use_parallel_residual", True),
        tied=described.get("tie_word_embeddings", False),
    )


def _from_llama(described):
    kind, rope = described["model_type"], _rope(described)
    _refuse(rope, ("partial_rotary_factor", 1.0))
    width, heads = described["hidden_size"], described["num_attention_heads"]
    biased = described.get("attention_bias", False)
    grouped = {"mistral": 8, "qwen2": 32, "qwen3": 32}.get(kind)
    head_dim = described.get("head_dim", 128 if kind == "qwen3" else None)
    window, windowed = _window(described)
    return config.Decoder(
        vocab_size=described["vocab_size"],
        width=width,
        layers=described["num_hidden_layers"],
        heads=heads,
        kv_heads=described.get("num_key_value_heads", grouped) or heads,
        head_dim=head_dim or width // heads,
        hidden=described["intermediate_size"],
        max_length=described["max_position_embeddings"],
        rope_theta=float(rope.get("rope_theta", described.get("rope_theta", 10000.0))),
        rope_scaling=_scaling(rope),
        norm_eps=described.get("rms_norm_eps", 1e-6),
        activation=_activation(described.get("hidden_act", "silu")),
        attention_bias={"mistral": False, "qwen2": True}.get(kind, biased),
        output_bias=False if kind == "qwen2" else None,
        mlp_bias=kind == "llama" and described.get("mlp_bias", False),
        tied=described.get("tie_word_embeddings", False),
        head_norm=kind == "qwen3",
        window=window,
        windowed=windowed,
    )


def _window(described):
    """How far a token sees, and in which layers: (None, None) for everywhere."""
    kind = described["model_type"]
    if kind == "mistral":
        return described.get("sliding_window", 4096), None
    if kind not in _QWEN or not described.get("use_sliding_window", False):
        return None, None
    window, layers = (
        described.get("sliding_window", 4096),
        described["num_hidden_layers"],
    )
    full = described.get("max_window_layers", 28)
    types = described.get("layer_types") or [
        "sliding_attention" if layer >= full else "full_attention"
        for layer in range(layers)
    ]
    strange = set(types) - {"sliding_attention", "full_attention"}
    if strange:
        raise ValueError(f"config.json has layer_types {strange}: not supported")
    windowed = tuple(name == "sliding_attention" for name in types)
    if window is None or not any(windowed):
        return None, None
    return window, None if all(windowed) else windowed


def _from_distil(described):
    return config.Encoder(
        vocab_size=described["vocab_size"],
        width=described["dim"],
        layers=described["n_layers"],
        heads=described["n_heads"],
        hidden=described["hidden_dim"],
        max_length=described["max_position_embeddings"],
        pooling="relu",
        activation=_activation(described.get("activation", "gelu")),
    )


def _from_bert(described):
    _refuse(
        described,
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", False),
    )
    first = 0
    if described["model_type"] == "roberta":
        first = described.get("pad_token_id", 1) + 1
    return config.Encoder(
        vocab_size=described["vocab_size"],
        width=described["hidden_size"],
        layers=described["num_hidden_layers"],
        heads=described["num_attention_heads"],
        hidden=described["intermediate_size"],
        max_length=described["max_position_embeddings"] - first,
        segments=described.get("type_vocab_size", 2),
        first_position=first,
        norm_eps=described.get("layer_norm_eps", 1e-12),
        activation=_activation(described.get("hidden_act", "gelu")),
    )


def _activation(name):
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation {name!r} is not one of {tuple(_ACTIVATIONS)}")
    return _ACTIVATIONS[name]


def _rope(described):
    return described.get("rope_parameters") or described.get("rope_scaling") or {}


def _scaling(rope):
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind == "linear":
        return config.RopeScaling(factor=rope["factor"])
    if kind != "llama3":
        known = ("default", "linear", "llama3")
        raise ValueError(f"rope_type {kind!r} is not one of {known}")
    return config.RopeScaling(
        factor=rope["factor"],
        low_frequency=rope["low_freq_factor"],
        high_frequency=rope["high_freq_factor"],
        original_length=rope["original_max_position_embeddings"],
    )


# To a config.json


def family(c):
    """The family a configuration can be saved as. Raises ValueError when none fits."""
    facts = _facts(c)
    odd = {
        name: {key: wanted[key] for key in wanted if facts[key] != wanted[key]}
        for name, wanted in _needs(c).items()
    }
    nearest = min(odd, key=lambda name: len(odd[name]))
    if odd[nearest]:
        raise ValueError(
            "no Hugging Face family has this configuration; the nearest, "
            f"{nearest}, needs {odd[nearest]}"
        )
    return nearest


def _facts(c):
    """The fields of a configuration, each in one spelling."""
    facts = dataclasses.asdict(c)
    if isinstance(c, config.Encoder):
        return facts | {"segmented": c.segments > 0, "offset": c.first_position > 0}
    bias = c.attention_bias if c.output_bias is None else c.output_bias
    return facts | {
        "output_bias": bias,
        "partial": c.rotary_dim not in (None, c.head_dim),
        "sliding": c.window is not None,
        "mixed": not (all(c.in_window()) or c.window is None),
    }


def _needs(c):
    """What each family demands of the `_facts`, the plainest family first."""
    if isinstance(c, config.Encoder):
        bert = dict(pooling="tanh", segmented=True)
        plain = dict(pooling="relu", segmented=False, offset=False, norm_eps=1e-12)
        return {
            "bert": bert | dict(offset=False),
            "roberta": bert | dict(offset=True),
            "distilbert": plain,
        }
    square = dict(kv_heads=c.heads, head_dim=c.width // c.heads)
    gpt2 = dict(positions="learned", norm="layer", gated=False, attention_bias=True)
    gpt2 |= dict(output_bias=True, mlp_bias=True, parallel=False, head_norm=False)
    neox = dict(positions="rotary", norm="layer", gated=False, mlp_bias=True)
    neox |= dict(output_bias=c.attention_bias, head_norm=False, sliding=False)
    rms = dict(positions="rotary", norm="rms", gated=True, partial=False)
    rms |= dict(parallel=False, head_norm=False)
    even = rms | dict(output_bias=c.attention_bias)
    bare = dict(attention_bias=False, output_bias=False, mlp_bias=False)
    return {
        "gpt2": gpt2 | square | dict(sliding=False),
        "llama": even | dict(sliding=False),
        "mistral": rms | bare | dict(sliding=True, mixed=False),
        "qwen2": rms | bare | dict(attention_bias=True),
        "qwen3": even | dict(mlp_bias=False, head_norm=True),
        "gpt_neox": neox | square,
    }


def describe(c):
    """The fields of a config.json for a configuration: the inverse of `read`."""
    kind = family(c)
    common = {"model_type": kind, "vocab_size": c.vocab_size}
    if isinstance(c, config.Encoder):
        return common | (_to_distil(c) if kind == "distilbert" else _to_bert(c))
    common["tie_word_embeddings"] = c.tied
    special = {"gpt2": _to_gpt2, "gpt_neox": _to_neox}
    return common | special.get(kind, _to_llama)(c)


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


def _to_neox(c):
    turned = c.rotary_dim or c.head_dim
    part = turned / c.head_dim
    if int(part * c.head_dim) != turned:  # transformers rounds down what it reads
        part = (turned + 0.5) / c.head_dim
    rope = _to_rope(c) | {"partial_rotary_factor": part}
    return _sizes(c) | {
        "rope_parameters": rope,
        "rotary_pct": part,
        "rotary_emb_base": c.rope_theta,
        "layer_norm_eps": c.norm_eps,
        "attention_bias": c.attention_bias,
        "use_parallel_residual": c.parallel,
    }


def _to_llama(c):
    described = _sizes(c) | {
        "num_key_value_heads": c.kv_heads,
        "head_dim": c.head_dim,
        "rope_parameters": _to_rope(c),
        "rope_theta": c.rope_theta,
        "rms_norm_eps": c.norm_eps,
        "attention_bias": c.attention_bias,
        "mlp_bias": c.mlp_bias,
    }
    if c.window is None:
        return described
    described["sliding_window"] = c.window
    if family(c) in _QWEN:
        kinds = {True: "sliding_attention", False: "full_attention"}
        described["use_sliding_window"] = True
        described["layer_types"] = [kinds[near] for near in c.in_window()]
    return described


def _sizes(c):
    return {
        "hidden_size": c.width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "intermediate_size": c.hidden,
        "max_position_embeddings": c.max_length,
        "hidden_act": c.activation,
    }


def _to_rope(c):
    rope = {"rope_type": "default", "rope_theta": c.rope_theta}
    if c.rope_scaling is None:
        return rope
    if c.rope_scaling.original_length is None:
        return rope | {"rope_type": "linear", "factor": c.rope_scaling.factor}
    return rope | {
        "rope_type": "llama3",
        "factor": c.rope_scaling.factor,
        "low_freq_factor": c.rope_scaling.low_frequency,
        "high_freq_factor": c.rope_scaling.high_frequency,
        "original_max_position_embeddings": c.rope_scaling.original_length,
    }


def _to_distil(c):
    return {
        "dim": c.width,
        "n_layers": c.layers,
        "n_heads": c.heads,
        "hidden_dim": c.hidden,
        "max_position_embeddings": c.max_length,
        "activation": c.activation,
    }


def _to_bert(c):
    described = _sizes(c) | {
        "max_position_embeddings": c.max_length + c.first_position,
        "type_vocab_size": c.segments,
        "layer_norm_eps": c.norm_eps,
    }
    if c.first_position:
        described["pad_token_id"] = c.first_position - 1
    return described
