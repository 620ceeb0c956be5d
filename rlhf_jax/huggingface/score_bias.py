"""Where `transformers` has a place for the bias of a classifier's scores, h W + b.

Encoders have it in their head. The head of a decoder has none there, but with LayerNorm
(GPT-2, GPT-NeoX) the final norm's bias β takes it up: (n γ + β + δ) W = h W + b with
δ = b (WᵀW)⁻¹ Wᵀ. RMSNorm (Llama, Mistral, Qwen, Gemma) has no bias: no weights of the
family move all scores by a constant.
"""

import jax.numpy as jnp
import numpy as np

from rlhf_jax.models import config, heads


def expressible(model):
    """Whether scores can be moved by a constant in the model's file format."""
    return model.config.norm == "layer"


def folded(model, params):
    """Parameters with the same scores, as their file format has a place for the bias.

    Equal up to float32 rounding. Those of an encoder, of RMSNorm, and of a head whose
    columns are not independent are returned as they are.
    """
    if isinstance(model.config, config.Encoder) or not expressible(model):
        return params
    head, norm = params["head"], params["trunk"]["final_norm"]
    kernel, bias = (np.asarray(head[x], np.float64) for x in ("kernel", "bias"))
    if not bias.any() or np.linalg.matrix_rank(kernel) < kernel.shape[1]:
        return params
    shift = np.linalg.lstsq(kernel.T, bias, rcond=None)[0]  # the smallest δ
    moved = (np.asarray(norm["bias"], np.float64) + shift).astype(norm["bias"].dtype)
    trunk = {**params["trunk"], "final_norm": {**norm, "bias": jnp.asarray(moved)}}
    head = {**head, "bias": jnp.zeros_like(head["bias"])}
    return {**params, "trunk": trunk, "head": head}


def removed(model, params):
    """Parameters without a bias that the file format cannot hold, as there in use."""
    if expressible(model):
        return params
    head = {**params["head"], "bias": jnp.zeros_like(params["head"]["bias"])}
    return {**params, "head": head}


def beside(model, adapters, merged, finished):
    """Adapters of a classifier that score as the finished model does.

    merged, finished: the model with its adapters, before and after its scores were
    moved. The head is among the adapters whole, and so is a final norm that took up the
    bias; with an encoder's head its pooler, for to PEFT DistilBERT's two are one.
    """
    if not isinstance(model, heads.Classifier) or "head" not in adapters:
        return adapters
    whole = {name: finished[name] for name in ("head", "pooler") if name in finished}
    adapters = {**adapters, **whole}
    norm = finished["trunk"].get("final_norm")
    if norm is merged["trunk"].get("final_norm"):
        return adapters
    return {**adapters, "trunk": {**adapters["trunk"], "final_norm": norm}}
