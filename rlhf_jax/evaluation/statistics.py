"""Paired tests over seeds: intervals, exact p-values, and the verdict on a claim.

A seed is the unit; prompts only reduce the noise within one. Methods are paired: seed k
shares everything but the method, so a test is on one difference a seed. D differences,
S seeds, N prompts, C points of a curve.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

MIN_SEEDS = 8  # with fewer, values are shown as dots and nothing is tested
_MOST_FLIPS = 20  # 2^20 sign patterns: a second
_MOST_SEEDS = 10**6


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float


class Verdict(NamedTuple):
    """What a set of paired differences says about a claim."""

    word: str  # reproduced, contradicted, not reproduced, undecided, equal, no test
    mean: float  # of the differences
    low: float  # of the 95% t-interval
    high: float
    p: float  # exact two-sided sign-flip; NaN when nothing was tested
    seeds: int  # that were used
    seeds_needed: int | None  # to decide, when undecided; None: over a million


class Trend(NamedTuple):
    """Does an outcome rise along an ordering?"""

    slope: Interval  # per step of the ordering, over seeds
    p: float  # exact two-sided sign-flip of the slopes
    steps: tuple  # of Interval: each condition minus the one before
    step_ps: tuple  # of float


def t_interval(differences, *, level=0.95):
    """d̄ ± t_{(1+level)/2, n−1} · s/√n, s with n − 1 in the denominator.

    differences [n], one a seed. One seed alone gives an infinite interval.
    """
    values = _finite(differences)
    mean, n = float(values.mean()), len(values)
    if n == 1:
        return Interval(mean, -math.inf, math.inf)
    half = special.stdtrit(n - 1, (1 + level) / 2) * values.std(ddof=1) / n**0.5
    return Interval(mean, mean - float(half), mean + float(half))


def sign_flip(differences):
    """P(|Σ ε_i d_i| ≥ |Σ d_i|) over all 2ⁿ signs ε: the exact two-sided p-value.

    Under the null the sign of each paired difference is a coin. No p is below 2^(1−n),
    so five seeds cannot go below 0.0625. differences [n], n ≤ 20.
    """
    values = _finite(differences)
    if len(values) > _MOST_FLIPS:
        raise ValueError(
            f"{len(values)} differences have 2^{len(values)} sign patterns; all are "
            f"counted up to {_MOST_FLIPS} seeds: split the claim or report the interval"
        )
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums + value, sums - value])
    # Ties must not be lost to the order in which floats were added.
    tolerance = 1e-9 * np.abs(values).sum()
    return float(np.mean(np.abs(sums) >= abs(values.sum()) - tolerance))


def holm(p_values):
    """Holm's step-down p-values: p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) p_(j)).

    For "some A beats B" and for checklists, within one paper; print both. A value below
    α keeps the family-wise error at α. Holm 1979. p_values [m]. Returns [m].
    """
    p_values = np.asarray(p_values, float)
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def trend(values, *, positions=None):
    """The least-squares slope of each seed along an ordering, tested across seeds.

    For a claim such as "more labels give more reward": the slope of all steps together,
    and each step by itself, since a trend can hold while a step of it fails.

    Args:
      values: [S, K], one row a seed, conditions in the claimed ascending order.
      positions: [K], where the conditions lie on a line; 0, 1, ... when not given.
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"values must be [seeds, conditions ≥ 2], got {values.shape}")
    x = np.arange(values.shape[1]) if positions is None else np.asarray(positions)
    centered = x - x.mean()
    slopes = values @ centered / np.square(centered).sum()
    steps = np.diff(values, axis=1).T
    return Trend(
        t_interval(slopes),
        sign_flip(slopes),
        tuple(t_interval(step) for step in steps),
        tuple(sign_flip(step) for step in steps),
    )


def bootstrap(values, rng, *, draws=2000, level=0.95):
    """Percentile band of a mean curve: seeds are redrawn, then prompts within each.

    With few seeds it is too narrow (five seeds cover 84%), so at least 8 are asked for.

    Args:
      values: [S, N, ...], a value for each seed and prompt (and point of a curve).
      rng: numpy.random.Generator.
    Returns (mean, low, high), each [...].
    """
    values = np.asarray(values, float)
    if len(values) < MIN_SEEDS:
        raise ValueError(f"{len(values)} seeds; a bootstrap needs at least {MIN_SEEDS}")
    seeds, prompts = values.shape[:2]
    means = np.empty((draws, *values.shape[2:]))
    for draw in range(draws):
        chosen = rng.integers(seeds, size=seeds)
        rows = rng.integers(prompts, size=(seeds, prompts))
        means[draw] = values[chosen[:, None], rows].mean((0, 1))
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
    return values.mean((0, 1)), low, high


def verdict(differences, smallest_effect, *, claim="greater"):
    """The word for "A is greater than B" (or "A ≈ B"), from paired differences A − B.

    Of the 95% t-interval and the smallest effect of interest s, for "greater":
    *reproduced*: wholly above 0 and mean ≥ s; *contradicted*: wholly below 0;
    *not reproduced*: upper bound below s; else *undecided*. For claim="equal": *equal*
    when it lies inside ± s, *contradicted* when wholly beyond s on either side, else
    *undecided*. Below 8 seeds the word is *no test*.

    Args:
      differences: [n], one a seed; smallest_effect: > 0, declared before the run.
    """
    if not smallest_effect > 0:
        raise ValueError(f"smallest_effect must be positive, got {smallest_effect!r}")
    values = _finite(differences)
    interval = t_interval(values)
    if len(values) < MIN_SEEDS:
        return Verdict("no test", *interval, math.nan, len(values), None)
    words = {"greater": _greater, "equal": _equal}
    if claim not in words:
        raise ValueError(f"claim must be one of {sorted(words)}, got {claim!r}")
    word, margin = words[claim](*interval, smallest_effect)
    needed = None
    if word == "undecided":
        needed = _seeds_needed(values.std(ddof=1), margin)
    p = sign_flip(values) if len(values) <= _MOST_FLIPS else math.nan
    return Verdict(word, *interval, p, len(values), needed)


def all_of(verdicts):
    """The word for "A beats all of B, C, D": every comparison at 95%."""
    words = {v.word for v in verdicts}
    if len(words) == 1:
        return words.pop()
    for word in ("no test", "contradicted", "not reproduced"):
        if word in words:
            return word
    return "undecided"


def _greater(mean, low, high, smallest):
    """(word, distance of the mean from the bound that would decide)."""
    if low > 0 and mean >= smallest:
        return "reproduced", None
    if high < 0:
        return "contradicted", None
    if high < smallest:
        return "not reproduced", None
    return "undecided", mean if mean >= smallest else smallest - mean


def _equal(mean, low, high, smallest):
    if low > -smallest and high < smallest:
        return "equal", None
    if low > smallest or high < -smallest:
        return "contradicted", None
    return "undecided", abs(smallest - abs(mean))


def _seeds_needed(deviation, margin):
    """Least n with (t_{.975, n−1} + t_{.8, n−1})·s/√n ≤ margin: power 80%, were the
    mean and the deviation of the seeds so far the true ones."""
    low, high = 2, _MOST_SEEDS

    def enough(n):
        quantiles = special.stdtrit(n - 1, [0.975, 0.8]).sum()
        return quantiles * deviation / n**0.5 <= margin

    if not enough(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return low


def _finite(values):
    values = np.asarray(values, float).reshape(-1)
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"differences must be finite, one a seed; got {values}")
    return values
