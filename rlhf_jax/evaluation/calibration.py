"""Calibration: is what a model is sure of as often right as it is sure?

Of answers to questions, and of reward models: a margin Δ = r(chosen) − r(rejected)
claims that the chosen answer is the better one with probability σ(Δ). N pairs.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from rlhf_jax.evaluation import statistics


class Quality(NamedTuple):
    """How well a reward model predicts preferences."""

    accuracy: float  # a tie counts 0, as in RewardBench
    nll: float  # nats per pair
    brier: float
    ece: float  # in equal-mass bins
    ties: int  # pairs with Δ = 0
    pairs: int


class Reliability(NamedTuple):
    """A reliability diagram, one entry per bin that holds anything, ascending."""

    confidence: np.ndarray  # [bins], mean
    accuracy: np.ndarray  # [bins], mean
    count: np.ndarray  # [bins] int


class Stratum(NamedTuple):
    """The accuracy on the pairs whose value lies in [lower, upper)."""

    lower: float
    upper: float
    pairs: int
    accuracy: statistics.Interval  # Wilson's; NaN in [0, 1] without pairs


def expected_calibration_error(confidences, correct, *, bins=10, equal_mass=False):
    """Σ_b n_b/N · |mean correct − mean confidence| over bins, in [0, 1].

    Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599. Bin b is (b/bins,
    (b + 1)/bins], the first with its 0; or bins are equally full, as in `reliability`.
    It is biased upwards by about the standard error of the bins: compare models on the
    same questions only.

    Args: confidences [N] in [0, 1], of the pick; correct [N], 1 where it is right.
    Raises ValueError for a confidence that is no probability.
    """
    if equal_mass:
        found = reliability(confidences, correct, bins=bins)
        gaps = found.count * (found.accuracy - found.confidence)
        return float(np.abs(gaps).sum() / found.count.sum())
    confidences, correct = _confident(confidences, correct, bins)
    index = np.maximum(np.ceil(confidences * bins).astype(int) - 1, 0)
    gaps = np.bincount(index, correct - confidences, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidences))


def reliability(confidences, correct, *, bins=10):
    """Mean confidence and accuracy of equally many items at a time.

    The item of rank i (from 0) is in bin ⌊i·bins/N⌋. Items of equal confidence have the
    least of their ranks, so they share a bin and their order does not matter; bins that
    stay empty are left out.

    Args as in `expected_calibration_error`. Returns Reliability.
    """
    confidences, correct = _confident(confidences, correct, bins)
    rank = np.searchsorted(np.sort(confidences), confidences, side="left")
    _, index, count = np.unique(
        rank * bins // len(rank), return_inverse=True, return_counts=True
    )
    sums = np.bincount(index, confidences), np.bincount(index, correct)
    return Reliability(sums[0] / count, sums[1] / count, count)


def preference_quality(margins, *, preference=None, bins=10):
    """Accuracy, NLL, Brier score and ECE of a reward model on N pairs.

        accuracy = mean 1[Δ > 0]      NLL = mean softplus(−Δ)
        Brier = mean (1 − σ(Δ))²      ECE of max(σ(Δ), σ(−Δ)), a tie half right

    A soft preference p weighs the pair as it stands with p, and the pair the other way
    round with 1 − p; the best possible accuracy is then mean max(p, 1 − p).

    Args: margins [N]; preference [N] or a number, the probability that the chosen
    answer is the better one, 1 by default; bins of the ECE, equally full.
    Raises ValueError for margins that are not finite, or no probabilities.
    """
    margins, p = _pairs(margins, preference)
    nll = p * np.logaddexp(0.0, -margins) + (1 - p) * np.logaddexp(0.0, margins)
    wrong = special.expit(-margins)
    brier = p * wrong**2 + (1 - p) * (1 - wrong) ** 2
    ties = margins == 0
    right = _right(margins, p)
    ece = expected_calibration_error(
        special.expit(np.abs(margins)), np.where(ties, 0.5, right),
        bins=bins, equal_mass=True,
    )  # fmt: skip
    means = (float(x.mean()) for x in (right, nll, brier))
    return Quality(*means, ece, int(ties.sum()), len(margins))


def temperature(margins, *, preference=None):
    """T* = argmin_{T ≥ 0} NLL(Δ/T): divide by it what is over- or underconfident.

    Guo et al. 2017, arXiv:1706.04599; Gao et al. 2022, arXiv:2210.10760, rescale proxy
    reward models so. The NLL is convex in 1/T, so the minimum is the only one. It is 0
    where every margin has the sign of a certain preference: more confidence is always
    better there. It is infinite where margins say nothing, or the opposite. It is NaN
    if all margins are 0.

    Args and errors as in `preference_quality`. Returns a float.
    """
    from scipy import optimize  # 0.2 s to import

    margins, p = _pairs(margins, preference)
    unit = np.abs(margins).max()
    if unit == 0:
        return float("nan")
    scaled = margins / unit

    def slope(sharpness):
        return float((scaled * (special.expit(sharpness * scaled) - p)).mean())

    if slope(0.0) >= 0:
        return float("inf")
    # The limit of the slope at infinite sharpness, 0 where no pair contradicts.
    if not (np.abs(scaled) * np.where(scaled > 0, 1 - p, p)).any():
        return 0.0
    upper = 1.0
    while slope(upper) <= 0 and np.isfinite(upper):
        upper *= 2.0
    if not np.isfinite(upper):
        return 0.0
    return float(unit / optimize.brentq(slope, 0.0, upper, xtol=1e-14))


def by_strata(
    margins, values, *, edges=None, quantiles=None, preference=None, level=0.95
):
    """The accuracy of a reward model within strata of its pairs, with intervals.

    Values are what accuracy may depend on: |gold margin|, policy drift, or the length
    of the chosen answer minus that of the rejected one, where edges (−0.5, 0.5) tell
    shorter, equal and longer apart.

    Args:
      margins: [N]; values: [N]; preference: as in `preference_quality`.
      edges: ascending, k of them make k + 1 strata from −∞ to ∞, each with its lower
        edge; or quantiles: in (0, 1), the edges are then those of the values.
    Returns a tuple of Stratum. Raises ValueError unless one of the two is given.
    """
    margins, p = _pairs(margins, preference)
    values = np.asarray(values, np.float64)
    if values.shape != margins.shape or np.isnan(values).any():
        raise ValueError(
            f"values are numbers, one for each of {len(margins)} pairs; got {values}, "
            f"of shape {values.shape}"
        )
    if (edges is None) == (quantiles is None):
        raise ValueError(
            f"give either edges or quantiles; got edges={edges}, quantiles={quantiles}"
        )
    edges = np.quantile(values, quantiles) if edges is None else np.asarray(edges)
    if edges.ndim != 1 or not (np.diff(edges) >= 0).all():
        raise ValueError(f"edges must ascend, got {edges}")
    right, index = _right(margins, p), np.searchsorted(edges, values, side="right")
    bounds, strata = [-np.inf, *map(float, edges), np.inf], []
    for i, (lower, upper) in enumerate(zip(bounds, bounds[1:], strict=False)):
        part = right[index == i]
        accuracy = statistics.Interval(float("nan"), 0.0, 1.0)
        if len(part):
            accuracy = statistics.wilson(part.mean(), len(part), level=level)
        strata.append(Stratum(lower, upper, len(part), accuracy))
    return tuple(strata)


def _right(margins, p):
    """[N]: the probability that the side a margin is on is the better one; ties 0."""
    return np.where(margins > 0, p, np.where(margins < 0, 1 - p, 0.0))


def _confident(confidences, correct, bins):
    confidences = np.asarray(confidences, np.float64)
    correct = np.asarray(correct, np.float64)
    if not ((confidences >= 0) & (confidences <= 1)).all() or not len(confidences):
        raise ValueError(f"confidences are probabilities, at least one: {confidences}")
    if bins < 1:
        raise ValueError(f"bins={bins}: needs to be at least 1")
    return confidences, correct


def _pairs(margins, preference):
    margins = np.asarray(margins, np.float64)
    if margins.ndim != 1 or not len(margins) or not np.isfinite(margins).all():
        raise ValueError(
            f"margins must be finite, [N], at least one; got {margins}, of shape "
            f"{margins.shape}"
        )
    p = np.asarray(1.0 if preference is None else preference, np.float64)
    if p.shape not in ((), margins.shape) or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(
            f"preferences are probabilities, one for each of {len(margins)} margins; "
            f"got {p}, of shape {p.shape}"
        )
    return margins, np.broadcast_to(p, margins.shape)
