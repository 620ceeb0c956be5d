"""Weights of tokens that another distribution drew than the one that learns.

Legend: B rows, T tokens.
"""

import jax
import jax.numpy as jnp

from rlhf_jax import masking


def truncated(logps, sampler_logps, mask, *, cap):
    """w = min(π(a) / μ(a), C) of each token; 0 where ignored, no gradient. [B, T].

    Ionides 2008, "Truncated Importance Sampling", Journal of Computational and
    Graphical Statistics 17(2); token by token as in TRL's "token_truncate". Tokens that
    μ never draws stay unseen: what the weights correct is π on those it does draw.

    Args: logps: log π [B, T], of the policy that learns, before its update;
    sampler_logps: log μ [B, T], of what was sampled from; cap: C > 0.
    """
    gap = masking.zero(logps, mask) - masking.zero(sampler_logps, mask)
    weights = jnp.minimum(jnp.exp(gap), cap)
    return jax.lax.stop_gradient(masking.zero(weights, mask))


def summary(weights, mask):
    """{"mean", "min", "max"} of the weights of valid tokens, each []."""
    valid = mask != 0
    return {
        "mean": masking.mean(weights, mask),
        "min": jnp.where(valid, weights, jnp.inf).min(),
        "max": jnp.where(valid, weights, -jnp.inf).max(),
    }
