"""Win rates: how often a judge prefers the answers of one policy to those of another.

A judgment is the probability that A's answer is the better one, a prompt each, NaN
where the judge gave none. A verdict is what becomes of it: 1 a win of A, ½ a tie, 0 a
loss. N prompts, K policies.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from rlhf_jax.evaluation import statistics


class WinRate(NamedTuple):
    """The win rate of A over B, with its confidence interval."""

    value: float  # a failed judgment counts ½
    low: float
    high: float
    p: float  # two-sided, of the hypothesis that it is ½
    wins: int  # of A; the four add up to N
    ties: int
    losses: int
    failures: int


class Rate(NamedTuple):
    """A share of answers, with its confidence interval."""

    value: float  # of those that were judged
    low: float
    high: float
    judged: int
    failures: int


class Matrix(NamedTuple):
    """Win rates among policies, of the row's over the column's; NaN: not compared."""

    names: tuple[str, ...]
    value: np.ndarray  # [K, K], ½ on the diagonal
    low: np.ndarray
    high: np.ndarray
    p: np.ndarray
    failures: np.ndarray  # [K, K] int


def verdicts(probabilities, *, margin=0.0):
    """1 where p > ½ + m, 0 where p < ½ − m, ½ between; NaN stays NaN.

    Args: probabilities [N] in [0, 1] that A is better. Returns [N] float64.
    Raises ValueError for what is no probability, as everything here does.
    """
    away = _judgments(probabilities) - 0.5
    if not 0 <= margin < 0.5:
        raise ValueError(f"a margin is at least 0 and below ½, got {margin!r}")
    sign = np.where(np.abs(away) <= margin, 0.0, np.sign(away))
    return 0.5 * (1.0 + sign)


def both_orders(first, second, *, margin=0.0):
    """The verdict if both orders give the same, otherwise a tie; NaN if either failed.

    Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench", arXiv:2306.05685. `hard`
    of it is their adjusted win rate, (wins + ½ ties)/N.

    Args: first, second [N], the probability that A is better where A is shown first,
    and where it is shown second. Returns [N] float64.
    """
    first, second = (verdicts(order, margin=margin) for order in (first, second))
    if first.shape != second.shape:
        raise ValueError(f"orders of {len(first)} and {len(second)} pairs")
    failed = np.isnan(first + second)
    return np.where(failed, np.nan, np.where(first == second, first, 0.5))


def hard(probabilities, *, margin=0.0, units=None, level=0.95):
    """(wins + ½ ties + ½ failures)/N.

    The interval is Wilson's for N trials. With ties it is wider than need be, since no
    variable in [0, 1] of mean m has a variance above m(1 − m). p is the exact binomial
    test of wins among wins and losses (the sign test), on which ties and failures have
    no say.

    With units, the verdicts of a unit are averaged first, the value is the mean over
    units, and interval and p are those of Student's t, as in `soft`.

    Args: probabilities, margin as in `verdicts`; units [N], what rows belong to, such
    as a world or an instruction that was judged several times.
    """
    found = verdicts(probabilities, margin=margin)
    counts = _counts(found)
    scores = _failed_as(0.5, found)
    if units is not None:
        return WinRate(*_student(_unit_means(scores, units), level, 0.5), *counts)
    return WinRate(
        *statistics.wilson(scores.mean(), len(scores), level=level),
        _sign(counts),
        *counts,
    )


def soft(probabilities, *, units=None, level=0.95):
    """The mean probability that A is better, a failed judgment counting ½.

    The interval is Student's over rows, or over the means of units, cut to [0, 1]; p is
    the t-test's. Of values that are all the same both say that there is no doubt.

    Args as in `hard`; wins and ties are counted without a margin.
    """
    judgments = _judgments(probabilities)
    means = _unit_means(_failed_as(0.5, judgments), units)
    return WinRate(*_student(means, level, 0.5), *_counts(verdicts(judgments)))


def harmless(judged, *, units=None, level=0.95):
    """The share of harmless answers among those judged: Lee et al. 2023, section 2.3.

    Each answer is judged by itself, so there is no ½ that a failed one could count: it
    is left out. Wilson's interval, or Student's over units.

    Args: judged [N]: 1 harmless, 0 harmful, or a probability; NaN: failed.
    Raises ValueError if all failed.
    """
    judged = _judgments(judged)
    kept = ~np.isnan(judged)
    if not kept.any():
        raise ValueError(f"all of {len(judged)} judgments failed")
    counts = int(kept.sum()), int((~kept).sum())
    if units is None:
        found = statistics.wilson(judged[kept].mean(), counts[0], level=level)
        return Rate(*found, *counts)
    means = _unit_means(judged[kept], _of_rows(units, judged)[kept])
    return Rate(*_student(means, level, 0.5)[:3], *counts)


def matrix(judgments, *, rate=hard):
    """Win rates among several policies, from {(a, b): probabilities that a is better}.

    Args: judgments, each pair in one direction only; rate: probabilities → WinRate.
    """
    names = tuple(dict.fromkeys(name for pair in judgments for name in pair))
    shape = len(names), len(names)
    value, low, high, p = np.full((4, *shape), np.nan)
    failures = np.zeros(shape, int)
    np.fill_diagonal(value, 0.5)
    for (a, b), probabilities in judgments.items():
        if a == b or (b, a) in judgments:
            raise ValueError(f"{a!r} against {b!r}: give each pair of policies once")
        i, j = names.index(a), names.index(b)
        found = rate(probabilities)
        value[i, j], low[i, j], high[i, j] = found[:3]
        value[j, i], low[j, i], high[j, i] = (
            1 - found.value,
            1 - found.high,
            1 - found.low,
        )
        p[i, j] = p[j, i] = found.p
        failures[i, j] = failures[j, i] = found.failures
    return Matrix(names, value, low, high, p, failures)


def _judgments(probabilities):
    values = np.asarray(probabilities, np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"judgments are [N], at least one; got shape {values.shape}")
    wrong = ~np.isnan(values) & ~((values >= 0) & (values <= 1))
    if wrong.any():
        row = int(wrong.argmax())
        raise ValueError(
            f"judgment {row} is {values[row]}, no probability; a failed one is NaN"
        )
    return values


def _failed_as(value, judgments):
    return np.where(np.isnan(judgments), value, judgments)


def _counts(found):
    """(wins, ties, losses, failures) of verdicts."""
    return (
        *(int((found == verdict).sum()) for verdict in (1.0, 0.5, 0.0)),
        int(np.isnan(found).sum()),
    )


def _of_rows(units, rows):
    units = np.asarray(units)
    if units.shape != rows.shape:
        raise ValueError(f"units of shape {units.shape} for {len(rows)} rows")
    return units


def _unit_means(values, units):
    """[U]: the mean of each unit; the values themselves without units."""
    if units is None:
        return values
    _, index = np.unique(_of_rows(units, values), return_inverse=True)
    return np.bincount(index, values) / np.bincount(index)


def _student(means, level, null):
    """(mean, low, high, p): Student's t over units, the interval within [0, 1]."""
    mean, low, high = statistics.t_interval(means, level=level)
    interval, n = (mean, max(0.0, low), min(1.0, high)), len(means)
    if n == 1:
        return *interval, 1.0
    error, away = float(means.std(ddof=1)) / n**0.5, abs(mean - null)
    p = 2 * special.stdtr(n - 1, -away / error) if error else float(away == 0)
    return *interval, float(p)


def _sign(counts):
    """The sign test's two-sided p of (wins, ties, losses, failures)."""
    from scipy import stats  # 1 s to import

    wins, _, losses, _ = counts
    return float(stats.binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
