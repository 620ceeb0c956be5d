"""Log-probabilities and entropies of logits, always in float32.

Every log-probability in this code base is computed here, in float32 whatever the
compute type: in bf16 they would bias the PPO ratio by about 1e-2.
"""

import jax
import jax.numpy as jnp


def _float32(logits):
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))


def normalize(logits, *, temperature=1.0):
    """log softmax(logits / temperature) over the last axis, float32, nats."""
    return jax.nn.log_softmax(_float32(logits) / temperature, axis=-1)


def of_tokens(logits, tokens, *, temperature=1.0):
    """log π(token) = logit/τ − logsumexp(logits/τ) of the given tokens.

    "The N Implementation Details of RLHF with PPO", detail 10: the sampling temperature
    divides the logits in every pass. No shift: `logits[:, t]` scores `tokens[:, t]`.

    Args: logits [B, T, V]; tokens [B, T] int; temperature > 0.
    Returns [B, T] float32, nats. The gradient flows to the logits.
    """
    scaled = _float32(logits) / temperature
    # Subtract the largest logit first, or a common offset would cost precision.
    peak = jax.lax.stop_gradient(scaled.max(-1, keepdims=True))
    chosen = jnp.take_along_axis(scaled, tokens[..., None], axis=-1) - peak
    return chosen[..., 0] - jnp.log(jnp.exp(scaled - peak).sum(-1))


def entropy(logits, *, temperature=1.0):
    """H(π) = −Σ_v π_v log π_v of softmax(logits / temperature).

    Args: logits [B, T, V]; a logit of −inf has probability 0 and contributes 0.
    Returns [B, T] float32, nats. The gradient flows to the logits.
    """
    logps = normalize(logits, temperature=temperature)
    # 0 · log 0 = 0, in the value and in the gradient.
    logps = jnp.where(jnp.isfinite(logps), logps, 0.0)
    support = jnp.isfinite(logits)
    return -(jnp.where(support, jnp.exp(logps), 0.0) * logps).sum(-1)


def divergence(policy_logits, reference_logits, *, temperature=1.0):
    """Exact KL(π‖ρ) = Σ_v π_v (log π_v − log ρ_v) at every position.

    Args: logits [B, T, V] each; tokens with π_v = 0 contribute 0, whatever ρ_v is.
    Returns [B, T] float32, nats. The gradient flows to both.
    """
    policy = normalize(policy_logits, temperature=temperature)
    reference = normalize(reference_logits, temperature=temperature)
    # Both branches of each `where` must be finite, or the gradient would be 0 · inf.
    possible = jnp.exp(policy) > 0
    gap = jnp.where(possible, policy, 0.0) - jnp.where(possible, reference, 0.0)
    return (jnp.where(possible, jnp.exp(policy), 0.0) * gap).sum(-1)
