"""Rewards of a response: scores, penalties and scales.

B rows, T response tokens, E members of an ensemble (see `ensembles`). A score is one
number per response, a reward one number per token. Rewards are data: no gradient flows
through them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import kl, masking, trees


def at_last(scores, mask):
    """Puts scores [B] at the last valid token of each row of mask [B, T].

    Returns [B, T] float32, 0 elsewhere and in rows without a valid token.
    """
    slot = jnp.arange(mask.shape[-1])[None, :]
    hit = (slot == masking.last_valid(mask)[:, None]) & (mask != 0)
    # float32 whatever the scores are: an integer array would drop fractions.
    scores = jnp.broadcast_to(jnp.asarray(scores, jnp.float32)[:, None], mask.shape)
    return jnp.where(hit, scores, 0.0)


def kl_regularized(scores, policy_logps, reference_logps, mask, *, beta):
    """r_t = −β (log π_t − log ρ_t) + [t is the last valid token] · score.

    Stiennon et al. 2020, arXiv:2009.01325, section 3.4; "The N Implementation Details
    of RLHF with PPO", detail 17.

    Args: scores [B]; log-probs [B, T] at the sampling temperature, nats; mask [B, T] of
    the response up to and including EOS; beta in score units per nat.
    Returns [B, T], 0 at ignored positions.
    """
    return at_last(scores, mask) - beta * kl.k1(
        policy_logps, reference_logps, mask=mask
    )


def chi2_regularized(scores, policy_logps, reference_logps, mask, *, beta, weight=1.0):
    """r_t = −β ((1 − w)·log z_t + w·(z_t − 1)) + [t is the last valid token] · score.

    z = π/ρ of the sampled token. On samples of π the mean penalty is a sum over states
    of (1 − w)·KL + w·χ²: the gradient of ½χ²(π‖ρ) is E_π[(z − 1)·∇log π], just as that
    of KL is E_π[log z·∇log π]. w = ½ is the mixture of Huang et al. 2024,
    arXiv:2407.13399 (χPO); w = 0 equals `kl_regularized` bit for bit. χ² has no chain
    rule: this is a sum over tokens, not the divergence of whole responses.

    Args as in `kl_regularized`; weight [] in [0, 1], may be traced. Returns [B, T].
    """
    gap = kl.k1(policy_logps, reference_logps, mask=mask)
    ratio = kl.chi2(policy_logps, reference_logps, mask=mask)
    return at_last(scores, mask) - beta * trees.lerp(gap, ratio, weight)


def bounded(scores, *, bound):
    """b·tanh(s/b) = b·(2σ(2s/b) − 1): slope 1 at 0, bounded by ±b.

    Reward shaping against reward hacking: a sigmoid of the centred reward, after Fu et
    al. 2025, "Reward Shaping to Mitigate Reward Hacking in RLHF", arXiv:2502.18770.
    b = 2 gives 4·(σ(s) − ½), their σ(s) up to a shift and a factor. Scores should be
    centred, as rewards normalised on the initial policy's samples are.

    Args: scores [...]; bound [] > 0, may be traced; inf changes nothing, bit for bit.
    Returns float32 with the shape of scores.
    """
    scores = jnp.asarray(scores, jnp.float32)
    finite = jnp.isfinite(bound)
    size = jnp.where(finite, bound, 1.0)
    return jnp.where(finite, size * jnp.tanh(scores / size), scores)


def lee(scores, policy_logps, reference_logps, mask, *, beta):
    """r_t = −β (log π_t − log ρ_t) + [t is the last valid token] · (1 − β) · score.

    Lee et al. 2023, "RLAIF", arXiv:2309.00267: the objective (1 − β)·r − β·KL. Its β
    corresponds to β/(1 + β) of `kl_regularized`; do not compare the two at equal β.
    """
    scores = (1.0 - beta) * jnp.asarray(scores, jnp.float32)
    return kl_regularized(scores, policy_logps, reference_logps, mask, beta=beta)


def missing_eos(scores, ended, *, penalty, mode="replace"):
    """Penalises responses without EOS: score −|penalty|, or score − |penalty|.

    "The N+ Implementation Details of RLHF with PPO" replaces the score by −1; TRL
    subtracts 1. With "replace", a response without EOS never outranks a complete one if
    −|penalty| is at most the lowest score: size 1 for scores in [−1, 1]. The sign of
    `penalty` is ignored, since both conventions are in use.

    Args: scores [B]; ended [B] bool; mode "replace" or "subtract". Returns [B].
    """
    if mode not in ("replace", "subtract"):
        raise ValueError(f'mode is "replace" or "subtract", not {mode!r}')
    scores = jnp.asarray(scores, jnp.float32)
    start = scores if mode == "subtract" else jnp.zeros_like(scores)
    return jnp.where(ended, scores, start - jnp.abs(penalty))


def length_penalty(scores, mask, *, weight, free=0):
    """score − weight · max(length − free, 0), length in valid tokens.

    Args: scores [B]; mask [B, T]; weight in score units per token. Returns [B].
    """
    length = masking.zero(mask, mask).sum(-1).astype(jnp.float32)
    return jnp.asarray(scores, jnp.float32) - weight * jnp.maximum(length - free, 0.0)


def soft_overlong_punishment(mask, *, max_length, cache):
    """0 up to max_length − cache tokens, then falling linearly to −1 at max_length.

    Yu et al. 2025, "DAPO", arXiv:2503.14476, eq. 13: added to the score, so that a
    response learns to end before it is cut off. −1 beyond max_length.

    Args: mask [B, T] of the response; max_length and cache in tokens, cache 0 punishes
    only what is longer than max_length; both may be traced. Returns [B] in [−1, 0].
    """
    length = masking.zero(mask, mask).sum(-1).astype(jnp.float32)
    over = length - (max_length - cache)
    soft = -over / jnp.where(cache > 0, cache, 1)
    return jnp.where(length > max_length, -1.0, jnp.where(over > 0, soft, 0.0))


class Affine(NamedTuple):
    """An affine map of scores: gain · score + bias."""

    gain: jax.Array  # [] or [E]
    bias: jax.Array  # [] or [E]


def fit(scores, mask=None, *, unit_std=True, axis_name=None):
    """The Affine that gives `scores` mean 0 and, with `unit_std`, population std 1.

    "The N Implementation Details of RLHF with PPO", detail 9, so that the KL
    coefficient means the same for every reward; `unit_std=False` fits the bias only, as
    in "N+", detail 10. If all scores are equal the gain is 1.

    Args: scores [B], or [E, B] with one scale per member; mask like scores.
    """
    scores = jnp.asarray(scores, jnp.float32)
    mask = jnp.ones_like(scores) if mask is None else mask
    if scores.ndim == 2:
        return jax.vmap(lambda s, m: fit(s, m, unit_std=unit_std, axis_name=axis_name))(
            scores, jnp.broadcast_to(mask, scores.shape)
        )
    center = masking.mean(scores, mask, axis_name=axis_name)
    variance = masking.var(scores, mask, axis_name=axis_name)
    # Equal scores have a variance of about 0: the mean is rounded.
    varies = variance > 1e-12 * jnp.square(center)
    gain = jnp.where(varies & unit_std, jax.lax.rsqrt(variance), 1.0)
    return Affine(gain, -gain * center)


def apply(affine, scores):
    """gain · score + bias. scores [B], or [E, B] with one scale per member."""
    gain, bias = affine
    if gain.ndim == 1:
        gain, bias = gain[:, None], bias[:, None]
    return gain * scores + bias


def whiten(rewards, mask, *, axis_name=None):
    """Scales rewards to unit variance and keeps their mean: a shift would change the
    optimal policy.

    "The N Implementation Details of RLHF with PPO", detail 18. [B, T] → [B, T].
    """
    return masking.whiten(rewards, mask, shift_mean=False, axis_name=axis_name)
