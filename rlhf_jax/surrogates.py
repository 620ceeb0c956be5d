"""Policy-gradient losses token by token, before they are averaged.

B rows, T tokens. `aggregation` says how their mean is taken. Arrays [B, T] are 0 where
ignored, as `log_ratio` and `masking.zero` leave them; advantages are data. Names are
those of `loss_type` in TRL 1.16's GRPOConfig.
"""

import math

import jax
import jax.numpy as jnp

from rlhf_jax import masking

_FAR = 20.0  # log-ratios of VESPO are clipped at ± this
_NEAR_ZERO = math.log(1e-8)  # the least log-weight of a sequence, in VESPO


def log_ratio(logps, old_logps, mask, *, level="token"):
    """log ρ_t = log π − log π_old, or for a whole response log s = mean_t log ρ_t.

    Zheng et al. 2025, "Group Sequence Policy Optimization", arXiv:2507.18071. level
    "sequence" (GSPO) is log s at every token; "sequence_token" (GSPO-token) has its
    value and, at each token, the gradient of that token alone. No gradient flows to the
    old policy.

    Args: log-probs [B, T], nats; mask [B, T] of 0 and 1. Returns [B, T], 0 where
    ignored. Raises ValueError for another level.
    """
    old_logps = jax.lax.stop_gradient(masking.zero(old_logps, mask))
    gap = (
        masking.zero(logps, mask) - old_logps
    )  # zero each side first: inf − inf is NaN
    if level == "token":
        return gap
    length = jnp.maximum(mask.sum(-1, keepdims=True), 1)
    mean = jnp.broadcast_to(gap.sum(-1, keepdims=True) / length, gap.shape)
    if level == "sequence_token":
        mean = jax.lax.stop_gradient(mean - gap) + gap
    elif level != "sequence":
        raise ValueError(
            f'level is "token", "sequence" or "sequence_token", not {level!r}'
        )
    return masking.zero(mean, mask)


def clipped(log_ratio, advantages, *, clip, clip_high=None, delta=None):
    """max(−A·min(ρ, δ), −A·clip(ρ, 1 − ε, 1 + ε_high)).

    Schulman et al. 2017, arXiv:1707.06347, eq. 7. ε_high > ε lets unlikely tokens grow:
    "clip-higher" of Yu et al. 2025, "DAPO", arXiv:2503.14476, 3.1. δ > 1 + ε_high
    bounds what a token with A < 0 can weigh: INTELLECT-2, arXiv:2505.07291.

    Args: log_ratio, advantages [B, T]; clip ε, clip_high (by default ε) and delta (by
    default no bound) may be traced.
    Returns (loss [B, T], whether a token is clipped [B, T] bool).
    """
    ratio = jnp.exp(log_ratio)
    high = clip if clip_high is None else clip_high
    bounded = -advantages * jnp.clip(ratio, 1.0 - clip, 1.0 + high)
    plain = -advantages * (ratio if delta is None else jnp.minimum(ratio, delta))
    return jnp.maximum(plain, bounded), bounded > plain


def cispo(log_ratio, logps, advantages, *, cap):
    """−sg(min(ρ, ε_max))·A·log π: every token keeps its gradient, its weight is capped.

    MiniMax 2025, "MiniMax-M1", arXiv:2506.13585, without a lower bound.

    Args: log_ratio, logps, advantages [B, T]; cap ε_max [] of the ratio itself, 5 in
    "ScaleRL", arXiv:2510.13786.
    Returns (loss [B, T], whether the weight of a token with A > 0 is capped [B, T]).
    """
    ratio = jnp.exp(jax.lax.stop_gradient(log_ratio))
    loss = -jnp.minimum(ratio, cap) * advantages * logps
    return loss, (ratio > cap) & (advantages > 0)


def sapo(log_ratio, advantages, *, temperature_pos, temperature_neg):
    """−A·4σ(τ(ρ − 1))/τ: a smooth gate in place of the clip; its slope at ρ = 1 is −A.

    "Soft Adaptive Policy Optimization", arXiv:2511.20347. τ is `temperature_pos` where
    A > 0, else `temperature_neg`; both [] and above 0. Arrays [B, T]. Returns [B, T].
    """
    positive = advantages > 0
    temperature = jnp.where(positive, temperature_pos, temperature_neg)
    gate = jax.nn.sigmoid(temperature * jnp.expm1(log_ratio))
    return -advantages * 4.0 * gate / temperature


def vespo(log_ratio, logps, advantages, *, k_pos, lambda_pos, k_neg, lambda_neg):
    """−sg(φ(w))·A·log π, φ(w) = w^k·exp(λ(1 − w)), w = Π_t ρ_t of the response.

    "VESPO: Variational Sequence-Level Soft Policy Optimization", arXiv:2602.10693. φ is
    1 at w = 1 and falls on both sides; k and λ are those of A ≥ 0 or of A < 0.

    Args: log_ratio, logps, advantages [B, T], log_ratio that of tokens. Returns [B, T].
    """
    gap = jnp.clip(jax.lax.stop_gradient(log_ratio), -_FAR, _FAR)
    log_weight = jnp.clip(gap.sum(-1, keepdims=True), _NEAR_ZERO, _FAR)
    good = advantages >= 0
    k, rate = jnp.where(good, k_pos, k_neg), jnp.where(good, lambda_pos, lambda_neg)
    # The log-weight first: w itself may be e²⁰.
    weight = jnp.exp(rate + k * log_weight - rate * jnp.exp(log_weight))
    return -weight * advantages * logps


def near_policy(log_ratio, advantages, mask, *, threshold):
    """Whether a response is learned from: A ≥ 0, or mean_t −log ρ_t ≤ threshold.

    A bad response that the policy has become unlikely to write says little of it:
    "DeepSeek-V3.2", arXiv:2512.02556 (off-policy sequence masking).

    Args: log_ratio [B, T] of tokens; advantages, mask [B, T]; threshold [] in nats a
    token, inf keeps all. Returns [B, T] bool. Carries no gradient.
    """
    length = jnp.maximum(mask.sum(-1, keepdims=True), 1)
    moved = -jax.lax.stop_gradient(log_ratio).sum(-1, keepdims=True) / length
    return (advantages >= 0) | (moved <= threshold)
