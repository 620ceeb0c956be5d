"""Paired tests over worlds: intervals, sign-flip p-values, the verdict on a claim.

A world is the unit: the seeds of one are averaged first (`units.worlds`). Methods are
paired, so a test is on one difference a world. W worlds, K conditions.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy import special

MIN_WORLDS = 8  # with fewer, values are shown as dots and nothing is tested
POWER, TRUE_EFFECT = 0.8, 1.5  # studies are planned to see 1.5 smallest effects
_EXACT = 20  # 2^20 sign patterns: a second
_DRAWS = 100_000  # of signs, beyond that
_MOST = 10**6  # worlds that a plan may ask for


class Interval(NamedTuple):
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float


class Verdict(NamedTuple):
    """What paired differences say about a claim."""

    word: str  # see `verdict`
    mean: float  # of the differences
    low: float  # of the 95% t-interval; of the 90% one for "equal"
    high: float
    p: float  # sign-flip, two-sided; for "equal" of the one-sided t-tests against ± s
    worlds: int  # that were used
    needed: int | None  # worlds that would decide, when undecided; None: over a million


class Trend(NamedTuple):
    """Does an outcome rise along an ordering?"""

    slope: Interval  # per step of the ordering, over worlds
    p: float  # two-sided sign-flip of the slopes
    steps: tuple  # of Interval: each condition minus the one before
    step_ps: tuple  # of float


def t_interval(values, *, level=0.95):
    """d̄ ± t_{(1+level)/2, n−1} · s/√n, s with n − 1 in the denominator.

    values [n], one a world. A single one has an infinite interval.
    """
    values = _finite(values)
    mean, n = float(values.mean()), len(values)
    if n == 1:
        return Interval(mean, -math.inf, math.inf)
    half = special.stdtrit(n - 1, (1 + level) / 2) * values.std(ddof=1) / n**0.5
    return Interval(mean, mean - float(half), mean + float(half))


def wilson(share, count, *, level=0.95):
    """(s + z²/2N ± z √(s(1 − s)/N + z²/4N²)) / (1 + z²/N): the score interval of a
    share s of N trials, within [0, 1] (Wilson 1927).

    Exact in its counts where every trial is 0 or 1, and wider than needed where some
    lie between, since what is in [0, 1] with mean m varies by at most m(1 − m).
    """
    z2 = special.ndtri((1 + level) / 2) ** 2
    scale = 1 + z2 / count
    center = (share + z2 / (2 * count)) / scale
    half = (z2 * (share * (1 - share) / count + z2 / (4 * count**2))) ** 0.5 / scale
    low, high = max(0.0, float(center - half)), min(1.0, float(center + half))
    return Interval(float(share), low, high)


def sign_flip(differences):
    """P(|Σ ε_i d_i| ≥ |Σ d_i|), each sign ε_i a fair coin: a two-sided p-value.

    Exact over all 2ⁿ sign patterns up to 20 worlds, so no p is below 2^(1−n); beyond
    that (1 + hits)/(1 + draws) of 10⁵ random patterns, always the same ones.
    differences [n].
    """
    values = _finite(differences)
    if len(values) > _EXACT:
        signs = np.random.default_rng(0).choice([-1.0, 1.0], (_DRAWS, len(values)))
        sums, seen = signs @ values, 1
    else:
        sums, seen = np.zeros(1), 0
        for value in values:
            sums = np.concatenate([sums + value, sums - value])
    # Ties must not be lost to the order in which floats were added.
    tolerance = 1e-9 * np.abs(values).sum()
    hits = np.count_nonzero(np.abs(sums) >= abs(values.sum()) - tolerance)
    return float((hits + seen) / (len(sums) + seen))


def equivalence(differences, smallest):
    """max(P(T ≥ (d̄ + s)√n/S), P(T ≤ (d̄ − s)√n/S)): two one-sided t-tests of |δ| < s.

    Below 0.05 exactly when the 90% t-interval lies inside (Schuirmann 1987).
    """
    values = _finite(differences)
    n, room = len(values), smallest - abs(float(values.mean()))
    error = values.std(ddof=1) / n**0.5
    if error == 0:
        return float(room <= 0)
    return float(special.stdtr(n - 1, -room / error))


def holm(p_values):
    """Holm's step-down p-values: p̃_(i) = max_{j ≤ i} min(1, (m − j + 1) p_(j)).

    Of a family of comparisons (Holm 1979): a value below α keeps the family-wise error
    at α. Raises ValueError for a NaN: a comparison without a p-value is no reason to
    count one less. p_values [m]. Returns [m].
    """
    p_values = np.asarray(p_values, float)
    if np.isnan(p_values).any():
        raise ValueError(f"a p-value of the family is NaN: {p_values}")
    order = np.argsort(p_values, kind="stable")
    scaled = p_values[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty_like(p_values)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def largest_family(worlds):
    """0.05 · 2^(n−1): with more comparisons than this, Holm's smallest p exceeds 5%."""
    return int(0.05 * 2 ** (min(worlds, _EXACT) - 1))


def trend(values, *, positions=None):
    """The least-squares slope of each world along an ordering, tested across worlds.

    For a claim such as "more labels give more reward": the slope of all steps together,
    and each step by itself, since a trend can hold while a step of it fails.

    Args:
      values: [W, K], one row a world, conditions in the claimed ascending order.
      positions: [K], where the conditions lie on a line; 0, 1, ... when not given.
    """
    values = np.asarray(values, float)
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"values must be [worlds, conditions ≥ 2], got {values.shape}")
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


def verdict(differences, smallest, *, kind="greater"):
    """The word for "A is greater than B" (or "A ≈ B"), from paired differences A − B.

    With the 95% t-interval [l, u], the mean m and the smallest effect of interest s:

        reproduced           l > 0, m ≥ s      better, negligibly   l > 0, m < s
        contradicted         u < 0, m ≤ −s     worse, negligibly    u < 0, m > −s
        not reproduced       u < s, and none of these
        undecided            else

    For kind="equal": "≈" where the 90% interval lies inside ± s, *contradicted* where
    it lies outside, else *undecided*. Below 8 worlds the word is *no test*.

    Args:
      differences: [n], one a world; smallest: > 0, declared before the run.
    """
    if not smallest > 0:
        raise ValueError(f"the smallest effect must be positive, got {smallest!r}")
    if kind not in ("greater", "equal"):
        raise ValueError(f'kind must be "greater" or "equal", got {kind!r}')
    values, equal = _finite(differences), kind == "equal"
    interval = t_interval(values, level=0.9 if equal else 0.95)
    if len(values) < MIN_WORLDS:
        return Verdict("no test", *interval, math.nan, len(values), None)
    p = equivalence(values, smallest) if equal else sign_flip(values)
    if math.isnan(p):
        raise ValueError(f"no p-value of {values}")
    word = _equal(*interval, smallest) if equal else _greater(*interval, smallest)
    if equal and word == "contradicted":
        p = 1 - p  # of a difference beyond ± s
    needed = None
    if word == "undecided":
        needed = worlds_needed(values.std(ddof=1), smallest, kind=kind)
    return Verdict(word, *interval, p, len(values), needed)


def all_of(verdicts):
    """The word for "A beats all of B, C, D": every comparison at 95%."""
    words = {v.word for v in verdicts}
    if len(words) == 1:
        return words.pop()
    for word in ("no test", "contradicted", "worse, negligibly", "not reproduced"):
        if word in words:
            return word
    return "undecided" if "undecided" in words else "better, negligibly"


def power(worlds, deviation, smallest, *, effect=TRUE_EFFECT, kind="greater"):
    """P(the claim gets its word), were the differences N(effect · s, deviation²).

        greater: P(d̄ ≥ max(s, t_{.975} S/√n))      equal: P(|d̄| + t_{.95} S/√n < s)

    The second is at a true difference of 0. Averaged over the distribution of the
    sample's own deviation S. worlds ≥ 2.
    """
    error = max(deviation, 1e-300) / worlds**0.5
    shares = (np.arange(200) + 0.5) / 200
    sample = error * np.sqrt(special.chdtri(worlds - 1, shares) / (worlds - 1))
    if kind == "equal":
        room = smallest - special.stdtrit(worlds - 1, 0.95) * sample
        inside = special.ndtr(room / error) - special.ndtr(-room / error)
        return float(np.mean(np.maximum(inside, 0.0)))
    bound = np.maximum(smallest, special.stdtrit(worlds - 1, 0.975) * sample)
    return float(np.mean(special.ndtr((effect * smallest - bound) / error)))


def worlds_needed(deviation, smallest, *, kind="greater"):
    """The least number of worlds with `power` 80% at 1.5 smallest effects, from the
    deviation seen so far; None: over a million."""
    low, high = 1, 2
    while power(high, deviation, smallest, kind=kind) < POWER:
        low, high = high, 2 * high
        if high > _MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = power(middle, deviation, smallest, kind=kind) >= POWER
        low, high = (low, middle) if enough else (middle, high)
    return high


def _greater(mean, low, high, smallest):
    if low > 0:
        return "reproduced" if mean >= smallest else "better, negligibly"
    if high < 0:
        return "contradicted" if mean <= -smallest else "worse, negligibly"
    return "not reproduced" if high < smallest else "undecided"


def _equal(mean, low, high, smallest):
    if low > -smallest and high < smallest:
        return "≈"
    return "contradicted" if low >= smallest or high <= -smallest else "undecided"


def _finite(values):
    values = np.asarray(values, float).reshape(-1)
    if len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"differences must be finite, one a world; got {values}")
    return values
