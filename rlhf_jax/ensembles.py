"""Ensembles of reward models: one score of each response, from E members.

Scores are [E, B]: E members, B responses. Normalise each member first (`rewards.fit`,
`rewards.apply`), or the one with the largest scale decides. Coste et al. 2023, "Reward
Model Ensembles Help Mitigate Overoptimization", arXiv:2310.02743. Nothing is masked: a
NaN of one member is the score of the ensemble.
"""

import jax.numpy as jnp


def mean(scores):
    """(1/E)·Σ_e r_e. Args: scores [E, B]. Returns [B] float32."""
    return _float(scores).mean(0)


def worst(scores):
    """min_e r_e, worst-case optimisation (WCO): a response is worth what its harshest
    member says. Args: scores [E, B]. Returns [B] float32."""
    return _float(scores).min(0)


def uncertainty(scores, *, weight):
    """mean − λ·variance over members, uncertainty-weighted optimisation (UWO).

    The variance is that of the population, as in the authors' NumPy code; their Torch
    code divides by E − 1. λ = 0.5 is their choice for best-of-n, 0.1 for PPO.

    Args: scores [E, B]; weight λ [] ≥ 0, may be traced. Returns [B] float32.
    """
    scores = _float(scores)
    return scores.mean(0) - weight * scores.var(0)


def lower(scores, *, k=1.0):
    """mean − k·std over members, std of the population.

    RewardBench's ensembles have k = 1. Args: scores [E, B]; k [] ≥ 0, may be traced.
    Returns [B] float32.
    """
    return _float(scores).mean(0) - k * disagreement(scores)


def combined(scores, *, beta, weight):
    """−β log mean_e exp(−r_e/β) − λ·var_e r_e, whose limits are all the others.

    β = ∞ and λ = 0 is the mean, β = 0 the worst case, β = ∞ and λ > 0 the
    uncertainty-weighted mean, λ = 0 the entropic combination: one program for all.

    Args: scores [E, B]; beta β, weight λ [] ≥ 0, may be traced. Returns [B] float32.
    """
    return entropic(scores, beta=beta) - weight * jnp.square(disagreement(scores))


def disagreement(scores):
    """The population standard deviation over members: how far they are of one mind.

    Args: scores [E, B]. Returns [B] float32, 0 where all members agree.
    """
    return _float(scores).std(0)


def entropic(scores, *, beta):
    """r̃ = −β·log mean_e exp(−r_e/β): from the worst case (β = 0) to the mean (β = ∞).

    It equals min_q E_q[r] + β·KL(q‖uniform) over distributions q of members, so it
    grows with β; to second order it is mean − variance/(2β).

    Args: scores [E, B]; beta [] in [0, ∞], may be traced; both ends are exact.
    Returns [B] float32.
    """
    scores, beta = _float(scores), jnp.asarray(beta, jnp.float32)
    inside = (beta > 0) & jnp.isfinite(beta)
    safe = jnp.where(inside, beta, 1.0)
    low = scores.min(0)
    # From the minimum, nothing overflows for small β; with expm1, nothing is rounded
    # away for large β.
    above = jnp.expm1((low[None] - scores) / safe).mean(0)
    soft = low - safe * jnp.log1p(above)
    return jnp.where(inside, soft, jnp.where(beta > 0, scores.mean(0), low))


def _float(scores):
    return jnp.asarray(scores, jnp.float32)
