"""Logits to log-probabilities and entropies: the home of float32.

Every log-probability of the code base is made here, in float32 whatever the compute
type: bf16 log-probabilities bias the PPO ratio at |Δ| ≈ 1e-2.
"""

import jax
import jax.numpy as jnp


def normalize(logits, *, temperature=1.0):
    """log softmax(logits / temperature) over the last axis, float32, nats."""
    return jax.nn.log_softmax(logits.astype(jnp.float32) / temperature, axis=-1)


def of_tokens(logits, tokens, *, temperature=1.0):
    """log π(token) = logit/τ − logsumexp(logits/τ) of the tokens given.

    "The N Implementation Details of RLHF with PPO", detail 10: the sampling temperature
    divides the logits in every pass. No shift: `logits[:, t]` scores `tokens[:, t]`.

    Args: logits [B, T, V]; tokens [B, T] int; temperature > 0.
    Returns [B, T] float32, nats. The gradient flows to the logits.
    """
    scaled = logits.astype(jnp.float32) / temperature
    chosen = jnp.take_along_axis(scaled, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(scaled, axis=-1)


def entropy(logits, *, temperature=1.0):
    """H(π) = −Σ_v π_v log π_v of softmax(logits / temperature).

    Args: logits [B, T, V]; a logit of −inf has probability 0 and adds 0.
    Returns [B, T] float32, nats. The gradient flows to the logits.
    """
    logps = normalize(logits, temperature=temperature)
    # 0 · log 0 = 0, in the value and in the gradient.
    logps = jnp.where(jnp.isfinite(logps), logps, 0.0)
    support = jnp.isfinite(logits)
    return -(jnp.where(support, jnp.exp(logps), 0.0) * logps).sum(-1)


def divergence(policy_logits, reference_logits, *, temperature=1.0):
    """Exact KL(π‖ρ) = Σ_v π_v (log π_v − log ρ_v) at every position.

    Args: logits [B, T, V] each. Returns [B, T] float32, nats.
    """
    policy = normalize(policy_logits, temperature=temperature)
    reference = normalize(reference_logits, temperature=temperature)
    possible = jnp.isfinite(policy)
    gap = jnp.where(possible, policy - reference, 0.0)
    return (jnp.where(possible, jnp.exp(policy), 0.0) * gap).sum(-1)
