"""Losses of single answers that are desirable or not: KTO.

B rows of one answer each; π and ρ are its summed log-probs in nats, of the policy and
the reference. No gradient flows through what the reference said, nor through z₀.
"""

import functools

import chex
import jax
import jax.numpy as jnp

from rlhf_jax import masking


def kl_baseline(policy, reference, *, mask=None, count=None, axis_name=None):
    """z₀ = max(0, mean (π − ρ)) over answers to other prompts, KTO's estimate of KL.

    Ethayarajh et al. 2024, "KTO: Model Alignment as Prospect Theoretic Optimization",
    arXiv:2402.01306, section 4.1. Args: log-probs [B] of mismatched pairs of prompt and
    answer. Returns [] data, in nats. It is of a whole minibatch: shares do not add up.
    """
    chex.assert_equal_shape([policy, reference])
    mask = jnp.ones(policy.shape, jnp.float32) if mask is None else mask
    ratio = masking.zero(policy, mask) - masking.zero(reference, mask)
    kl = masking.mean(ratio, mask, count=count, axis_name=axis_name)
    return jax.lax.stop_gradient(jnp.maximum(kl, 0.0))


def kto(
    policy, reference, desirable, baseline=0.0, *,
    beta, desirable_weight=1.0, undesirable_weight=1.0,
    mask=None, count=None, desirable_count=None, axis_name=None,
):  # fmt: skip
    """L = mean λ_D [1 − σ(β(h − z₀))] of the desirable, λ_U [1 − σ(β(z₀ − h))] of the
    others, h = π − ρ.

    Ethayarajh et al. 2024, arXiv:2402.01306, eq. 7 and 8. With z₀ = 0 it is the
    unpaired APO-zero of TRL (D'Oosterlinck et al. 2024, arXiv:2408.06266).

    Args: summed log-probs [B]; desirable [B], 1 or 0; baseline: z₀, [] or [B], of
    `kl_baseline`; desirable_count []: how many of `count` rows are desirable.
    Metrics: rewards β·h, of the desirable `chosen` and of the others `rejected`; their
    `margins`; `accuracies`, the share of rows on their side of z₀; `kl`, the mean z₀.
    """
    chex.assert_equal_shape([policy, reference, desirable])
    mask = jnp.ones(policy.shape, jnp.float32) if mask is None else mask
    mean = functools.partial(masking.mean, axis_name=axis_name)
    zero = functools.partial(masking.zero, mask=mask)
    ratio = zero(policy) - jax.lax.stop_gradient(zero(reference))
    good = zero(desirable).astype(jnp.float32)
    baseline = jnp.broadcast_to(jnp.asarray(baseline, jnp.float32), mask.shape)
    gap = beta * (ratio - jax.lax.stop_gradient(zero(baseline)))
    gained = desirable_weight * jax.nn.sigmoid(-gap)
    lost = undesirable_weight * jax.nn.sigmoid(gap)
    loss = mean(good * gained + (1.0 - good) * lost, mask, count=count)
    others = None if desirable_count is None else count - desirable_count
    chosen = mean(beta * ratio, mask * good, count=desirable_count)
    rejected = mean(beta * ratio, mask * (1.0 - good), count=others)
    side = 0.5 + 0.5 * jnp.sign(gap) * (2.0 * good - 1.0)
    return loss, {
        "chosen": chosen,
        "rejected": rejected,
        "margins": chosen - rejected,
        "accuracies": mean(side, mask, count=count),
        "kl": mean(baseline, mask, count=count),
    }
