"""From our configuration to a config.json: the inverse of `read_config`.

The family follows from the branches of the configuration: Mistral is a Llama with a
window, Qwen2 has biases in queries, keys and values but not in the attention output,
Qwen3 normalises each head, and Gemma also normalises the updates of a layer.
"""

import dataclasses

from rlhf_jax.huggingface import read_config
from rlhf_jax.models import config

_GEMMA_ACTIVATIONS = {"gelu_new": "gelu_pytorch_tanh"}


def family(c):
    """The family to save a configuration as. Raises ValueError if none fits."""
    facts = _facts(c)
    wrong = {
        name: {key: wanted[key] for key in wanted if facts[key] != wanted[key]}
        for name, wanted in _needs(c).items()
    }
    nearest = min(wrong, key=lambda name: len(wrong[name]))
    if wrong[nearest]:
        raise ValueError(
            "no Hugging Face family has this configuration; the nearest, "
            f"{nearest}, needs {wrong[nearest]}"
        )
    return nearest


def _facts(c):
    """The fields of a configuration and properties derived from them."""
    facts = dataclasses.asdict(c)
    if isinstance(c, config.Encoder):
        return facts | {"segmented": c.segments > 0, "offset": c.first_position > 0}
    bias = c.attention_bias if c.output_bias is None else c.output_bias
    return facts | {
        "output_bias": bias,
        "partial": c.rotary_dim not in (None, c.head_dim),
        "sliding": c.window is not None,
        "window_rotation": c.window is None or c.window_theta is not None,
        "mixed": not (all(c.in_window()) or c.window is None),
    }


def _needs(c):
    """The `_facts` that each family requires, the simplest family first."""
    if isinstance(c, config.Encoder):
        bert = dict(pooling="tanh", segmented=True)
        plain = dict(pooling="relu", segmented=False, offset=False, norm_eps=1e-12)
        return {
            "bert": bert | dict(offset=False),
            "roberta": bert | dict(offset=True),
            "distilbert": plain,
        }
    square = dict(kv_heads=c.heads, head_dim=c.width // c.heads)
    plain = dict(unit_offset=False, post_norm=False, scaled_embedding=False)
    plain |= dict(score_dim=None, score_cap=None, logit_cap=None, window_theta=None)
    gpt2 = plain | dict(positions="learned", norm="layer", gated=False)
    gpt2 |= dict(attention_bias=True, output_bias=True, mlp_bias=True)
    gpt2 |= dict(parallel=False, head_norm=False)
    neox = plain | dict(positions="rotary", norm="layer", gated=False, mlp_bias=True)
    neox |= dict(output_bias=c.attention_bias, head_norm=False, sliding=False)
    rms = plain | dict(positions="rotary", norm="rms", gated=True, partial=False)
    rms |= dict(parallel=False, head_norm=False)
    even = rms | dict(output_bias=c.attention_bias)
    bare = dict(attention_bias=False, output_bias=False, mlp_bias=False)
    gemma = even | dict(unit_offset=True, post_norm=True, scaled_embedding=True)
    gemma |= {
        name: getattr(c, name) for name in ("score_dim", "score_cap", "logit_cap")
    }
    gemma |= dict(mlp_bias=False)
    third = dict(head_norm=True, window_theta=c.window_theta, window_rotation=True)
    return {
        "gpt2": gpt2 | square | dict(sliding=False),
        "llama": even | dict(sliding=False),
        "mistral": rms | bare | dict(sliding=True, mixed=False),
        "qwen2": rms | bare | dict(attention_bias=True),
        "qwen3": even | dict(mlp_bias=False, head_norm=True),
        "gpt_neox": neox | square,
        "gemma2": gemma,
        "gemma3_text": gemma | third,
    }


def describe(c):
    """The fields of config.json: the inverse of `read_config.read`."""
    kind = family(c)
    common = {"model_type": kind}
    if isinstance(c, config.Encoder):
        if kind != "distilbert":
            return common | _to_bert(c)
        sizes = _sizes(c, read_config.DISTIL_SIZES)
        return common | sizes | {"activation": c.activation}
    common["tie_word_embeddings"] = c.tied
    special = {"gpt2": _to_gpt2, "gpt_neox": _to_neox}
    if kind in read_config.GEMMA:
        return common | _to_gemma(c, kind)
    return common | special.get(kind, _to_llama)(c)


def _to_gpt2(c):
    return _sizes(c, read_config.GPT2_SIZES) | {
        "n_inner": c.hidden,
        "activation_function": c.activation,
        "layer_norm_epsilon": c.norm_eps,
    }


def _to_neox(c):
    rotated = c.rotary_dim or c.head_dim
    part = rotated / c.head_dim
    if int(part * c.head_dim) != rotated:  # transformers rounds down
        part = (rotated + 0.5) / c.head_dim
    rope = _to_rope(c) | {"partial_rotary_factor": part}
    return _sizes(c) | {
        "hidden_act": c.activation,
        "rope_parameters": rope,
        "rotary_pct": part,
        "rotary_emb_base": c.rope_theta,
        "layer_norm_eps": c.norm_eps,
        "attention_bias": c.attention_bias,
        "use_parallel_residual": c.parallel,
    }


def _to_llama(c):
    described = _sizes(c) | {
        "hidden_act": c.activation,
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
    if family(c) in read_config.QWEN:
        described["use_sliding_window"] = True
        described["layer_types"] = _layer_types(c)
    return described


def _layer_types(c):
    kinds = {True: "sliding_attention", False: "full_attention"}
    return [kinds[near] for near in c.in_window()]


def _to_gemma(c, kind):
    described = _to_llama(c) | {
        "hidden_activation": _GEMMA_ACTIVATIONS.get(c.activation, c.activation),
        "query_pre_attn_scalar": c.score_dim or c.head_dim,
        "attn_logit_softcapping": c.score_cap,
        "final_logit_softcapping": c.logit_cap,
        "sliding_window": c.window,
        "layer_types": _layer_types(c),
    }
    del described["hidden_act"], described["mlp_bias"]
    if kind == "gemma2":
        return described
    local = c.window_theta or c.rope_theta
    return described | {
        "rope_local_base_freq": local,
        "rope_parameters": {
            "full_attention": described["rope_parameters"],
            "sliding_attention": {"rope_type": "default", "rope_theta": local},
        },
    }


def _sizes(c, names=read_config.SIZES):
    return {theirs: getattr(c, ours) for ours, theirs in names.items()}


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


def _to_bert(c):
    described = _sizes(c) | {
        "hidden_act": c.activation,
        "max_position_embeddings": c.max_length + c.first_position,
        "type_vocab_size": c.segments,
        "layer_norm_eps": c.norm_eps,
    }
    if c.first_position:
        described["pad_token_id"] = c.first_position - 1
    return described
