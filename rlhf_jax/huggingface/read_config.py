"""From a config.json to our configuration, for each family (`model_type`).

`write_config` is the inverse.
"""

from rlhf_jax.huggingface import names
from rlhf_jax.models import config

QWEN = ("qwen2", "qwen3")
GEMMA = ("gemma2", "gemma3_text")

# Fields of our configuration, under the names that config.json has for them.
SIZES = {
    "vocab_size": "vocab_size", "width": "hidden_size", "layers": "num_hidden_layers",
    "heads": "num_attention_heads", "hidden": "intermediate_size",
    "max_length": "max_position_embeddings",
}  # fmt: skip
GPT2_SIZES = {
    "vocab_size": "vocab_size", "width": "n_embd", "layers": "n_layer",
    "heads": "n_head", "max_length": "n_positions",
}  # fmt: skip
DISTIL_SIZES = SIZES | {
    "width": "dim", "layers": "n_layers", "heads": "n_heads", "hidden": "hidden_dim",
}  # fmt: skip

_ACTIVATIONS = {
    "silu": "silu", "swish": "silu", "relu": "relu", "gelu": "gelu",
    "gelu_new": "gelu_new", "gelu_fast": "gelu_new", "gelu_pytorch_tanh": "gelu_new",
}  # fmt: skip


def read(described):
    """The configuration of a config.json, given as a dictionary.

    Raises ValueError for unsupported families and settings, KeyError for missing keys.
    """
    kind = described.get("model_type")
    if kind not in names.CLASSES:
        raise ValueError(f"model_type {kind!r} is not one of {tuple(names.CLASSES)}")
    special = {"gpt2": _from_gpt2, "gpt_neox": _from_neox, "distilbert": _from_distil}
    if kind in ("bert", "roberta"):
        return _from_bert(described)
    if kind in GEMMA:
        return _from_gemma(described)
    return special.get(kind, _from_llama)(described)


def _refuse(described, *plain):
    """Raises ValueError for unsupported settings; plain: (key, supported value)."""
    for key, value in plain:
        if described.get(key, value) != value:
            raise ValueError(f"{key}={described[key]!r}: not supported")


def _sizes(described, names=SIZES):
    return {ours: described[theirs] for ours, theirs in names.items()}


def _from_gpt2(described):
    _refuse(
        described,
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    )
    return config.gpt2(
        **_sizes(described, GPT2_SIZES),
        hidden=described.get("n_inner") or 4 * described["n_embd"],
        activation=_activation(described.get("activation_function", "gelu_new")),
        norm_eps=described.get("layer_norm_epsilon", 1e-5),
        tied=described.get("tie_word_embeddings", True),
    )


def _from_neox(described):
    rope, sizes = _rope(described), _sizes(described)
    part = rope.get("partial_rotary_factor", described.get("rotary_pct", 0.25))
    theta = rope.get("rope_theta", described.get("rotary_emb_base", 10000.0))
    return config.neox(
        **sizes,
        rotary_dim=int(sizes["width"] // sizes["heads"] * part),
        rope_theta=float(theta),
        rope_scaling=_scaling(rope),
        norm_eps=described.get("layer_norm_eps", 1e-5),
        activation=_activation(described.get("hidden_act", "gelu")),
        attention_bias=described.get("attention_bias", True),
        parallel=described.get("use_parallel_residual", True),
        tied=described.get("tie_word_embeddings", False),
    )


def _from_llama(described):
    kind, rope, sizes = described["model_type"], _rope(described), _sizes(described)
    _refuse(rope, ("partial_rotary_factor", 1.0))
    heads = sizes["heads"]
    biased = described.get("attention_bias", False)
    grouped = {"mistral": 8, "qwen2": 32, "qwen3": 32}.get(kind)
    head_dim = described.get("head_dim", 128 if kind == "qwen3" else None)
    window, windowed = _window(described)
    return config.Decoder(
        **sizes,
        kv_heads=described.get("num_key_value_heads", grouped) or heads,
        head_dim=head_dim or sizes["width"] // heads,
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
    """(window, the layers that have it), as fields of `Decoder`; (None, None): none."""
    kind, layers = described["model_type"], range(described["num_hidden_layers"])
    window = described.get("sliding_window", 4096)
    if kind == "mistral":
        return window, None
    if kind in GEMMA:
        period = described.get("sliding_window_pattern", 2 if kind == "gemma2" else 6)
        near = [(layer + 1) % period > 0 for layer in layers]
    elif kind in QWEN and described.get("use_sliding_window", False):
        near = [layer >= described.get("max_window_layers", 28) for layer in layers]
    else:
        return None, None
    types = described.get("layer_types") or [
        "sliding_attention" if each else "full_attention" for each in near
    ]
    strange = set(types) - {"sliding_attention", "full_attention"}
    if strange:
        raise ValueError(f"layer_types {strange}: not supported")
    windowed = tuple(name == "sliding_attention" for name in types)
    if window is None or not any(windowed):
        return None, None
    return window, None if all(windowed) else windowed


def _from_gemma(described):
    if described.get("use_bidirectional_attention"):
        _refuse(described, ("use_bidirectional_attention", False))
    second = described["model_type"] == "gemma2"
    rope, near = _rope(described), {}
    if not second:  # layers with and without a window have different rotations
        near = rope.get("sliding_attention") or {}
        rope = rope.get("full_attention") or rope
        _refuse(near, ("rope_type", "default"))
    theta = described.get("rope_theta", 1e4 if second else 1e6)
    local = near.get("rope_theta", described.get("rope_local_base_freq", 1e4))
    caps = (50.0, 30.0) if second else (None, None)
    window, windowed = _window(described)
    return config.Decoder(
        **_sizes({"num_attention_heads": 8} | described),
        kv_heads=described.get("num_key_value_heads", 4),
        head_dim=described.get("head_dim", 256),
        rope_theta=float(rope.get("rope_theta", theta)),
        rope_scaling=_scaling(rope),
        norm_eps=described.get("rms_norm_eps", 1e-6),
        activation=_activation(described.get("hidden_activation", "gelu_pytorch_tanh")),
        attention_bias=described.get("attention_bias", False),
        tied=described.get("tie_word_embeddings", True),
        head_norm=not second,
        window=window,
        windowed=windowed,
        window_theta=None if second or window is None else float(local),
        unit_offset=True,
        post_norm=True,
        scaled_embedding=True,
        score_dim=described.get("query_pre_attn_scalar", 256),
        score_cap=described.get("attn_logit_softcapping", caps[0]),
        logit_cap=described.get("final_logit_softcapping", caps[1]),
    )


def _from_distil(described):
    activation = _activation(described.get("activation", "gelu"))
    sizes = _sizes(described, DISTIL_SIZES)
    return config.Encoder(**sizes, pooling="relu", activation=activation)


def _from_bert(described):
    _refuse(
        described,
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", False),
    )
    sizes, first = _sizes(described), 0
    if described["model_type"] == "roberta":
        first = described.get("pad_token_id", 1) + 1
        sizes["max_length"] -= first
    return config.Encoder(
        **sizes,
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
    rope = described.get("rope_parameters") or described.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ValueError(f"rope_parameters={rope!r}: not an object")
    for name in ("rope_theta", "rope_local_base_freq", "rotary_emb_base"):
        theta = rope.get(name, described.get(name))
        if theta is not None and not (isinstance(theta, int | float) and theta > 0):
            raise ValueError(f"{name}={theta!r}: must be above 0")
    return rope


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
