"""Correlations along training: does one measure say anything about another?

Two series that rise correlate whatever they measure, so each is also taken between
first differences. Checkpoints of one run resemble their neighbours, so intervals of a
single run are *descriptive*; what is to be tested has the run as its unit
(`fisher_mean`). N looks; those where a series is NaN or infinite are left out.
"""

from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import statistics

_FEWEST = 3  # two points always lie on a line
_CERTAIN = 0.999
_ROUNDING = 1e-12  # of the largest level: what a difference may owe to it


class Correlation(NamedTuple):
    """A correlation. NaN of a constant series, and of fewer than three looks."""

    value: float
    n: int  # looks used, or differences


class BlockInterval(NamedTuple):
    """A correlation within one run, with a descriptive interval."""

    value: float
    low: float
    high: float
    n: int
    block: int  # looks that were drawn together


class FisherMean(NamedTuple):
    """The mean correlation of several runs."""

    mean: float
    low: float
    high: float
    runs: int
    missing: int  # runs without a correlation (NaN), left out


def pearson(x, y, *, differences=False):
    """cov(x, y)/√(var x · var y), of the levels or of the first differences.

    Args: x, y [N]. Returns Correlation, NaN where a series is constant or fewer than
    three looks are left. Raises ValueError for shapes that differ.
    """
    return _of("pearson", *_series(x, y, differences))


def spearman(x, y, *, differences=False):
    """ρ: Pearson's correlation of the ranks, tied values at their mean rank.

    Args and result as in `pearson`.
    """
    return _of("spearman", *_series(x, y, differences))


def kendall(x, y, *, differences=False):
    """τ_b = (concordant − discordant)/√(pairs untied in x · pairs untied in y).

    Args and result as in `pearson`.
    """
    return _of("kendall", *_series(x, y, differences))


def block_interval(
    x, y, *, statistic="spearman", differences=False, block=None, level=0.95,
    draws=2000, seed=0,
):  # fmt: skip
    """A correlation within one run, with a moving-block percentile interval.

    Künsch 1989: blocks of ℓ neighbouring looks are drawn with replacement and joined up
    to N looks, so that what depends on its neighbours still does; ℓ = ⌈N^(1/3)⌉ unless
    given. Differences are taken before blocks are drawn. The interval describes one run
    and is for no test. It is too narrow where looks depend on those far away: 95%
    intervals over 40 looks cover 87% at an autocorrelation of 0.5, and 73% at 0.9.

    Args: x, y: [N]; statistic: "spearman", "kendall" or "pearson".
    Returns BlockInterval, all NaN where there is no correlation. Draws without one are
    left out; if none has one, the interval is [−1, 1].
    """
    _known(statistic)
    x, y = _series(x, y, differences)
    value, n = _of(statistic, x, y)
    block = int(np.ceil(round(n ** (1 / 3), 9))) if block is None else block
    if np.isnan(value):
        return BlockInterval(value, value, value, n, block)
    if not 1 <= block <= n:
        raise ValueError(f"block={block}: choose 1 to {n}, the looks there are")
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, n - block + 1, (draws, -(-n // block)))
    index = (starts[..., None] + np.arange(block)).reshape(draws, -1)[:, :n]
    times = np.zeros((draws, n))
    np.add.at(times, (np.arange(draws)[:, None], index), 1.0)
    drawn = _WEIGHTED[statistic](x, y, times)
    drawn, tail = drawn[~np.isnan(drawn)], (1 - level) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail]) if len(drawn) else (-1.0, 1.0)
    return BlockInterval(value, float(low), float(high), n, block)


def fisher_mean(correlations, *, level=0.95):
    """tanh of the mean of atanh r_i over runs, with the t-interval of that mean.

    Runs without a correlation (NaN) are left out and counted. ±1 is read as ±0.999, as
    its z would be infinite. Of a single run the interval is [−1, 1].

    Args: correlations [R], one a run (seeds of a world averaged before). Returns
    FisherMean, NaN without any run. Raises ValueError for what is no correlation.
    """
    r = np.asarray(correlations, np.float64).reshape(-1)
    known = r[~np.isnan(r)]
    if not (np.abs(known) <= 1 + 1e-9).all():
        raise ValueError(f"correlations lie in [−1, 1], or are NaN; got {r}")
    if not len(known):
        return FisherMean(*(float("nan"),) * 3, 0, len(r))
    z = np.arctanh(np.clip(known, -_CERTAIN, _CERTAIN))
    mean = map(float, np.tanh(statistics.t_interval(z, level=level)))
    return FisherMean(*mean, len(known), len(r) - len(known))


def breakdown(correlations, reference_level):
    """The first look at which corr(proxy, gold) falls below its reference level.

    Laidlaw et al. 2024, arXiv:2403.03185: a proxy is hacked once it correlates less on
    samples of the policy than it did on those of the reference policy.

    Args: correlations [N], over the samples of each look; a NaN is not below it.
    Returns an index, or None.
    """
    below = np.asarray(correlations, np.float64) < reference_level
    return int(below.argmax()) if below.any() else None


def partial(x, y, control, *, statistic="pearson"):
    """The correlation of what a control leaves unexplained of x and of y.

    Both are regressed on the control and a constant, by ranks for "spearman"; such as
    reward and length, given gold. Args: x, y [N]; control [N] or [N, K].
    Returns Correlation, NaN where the control explains either completely. The degrees
    of freedom are n − 2 − K.
    """
    if statistic not in ("pearson", "spearman"):
        raise ValueError(f'statistic must be "pearson" or "spearman": {statistic!r}')
    control = np.asarray(control, np.float64)
    rows = np.column_stack([*_same(x, y), control])
    rows = rows[np.isfinite(rows).all(-1)]
    if statistic == "spearman":
        rows = np.stack([_ranks(column) for column in rows.T], axis=-1)
    design = np.column_stack([np.ones(len(rows)), rows[:, 2:]])
    known = rows[:, :2] - rows[:, :2].mean(0) if len(rows) else rows[:, :2]
    rest = known - design @ np.linalg.lstsq(design, known, rcond=None)[0]
    explained = np.square(rest).sum(0) <= 1e-18 * np.square(known).sum(0)
    if len(rows) < _FEWEST + design.shape[1] - 1 or explained.any():
        return Correlation(float("nan"), len(rows))
    return _of("pearson", *rest.T)


def _of(statistic, x, y):
    from scipy import stats  # 1 s to import

    n = len(x)
    if n < _FEWEST or (x == x[0]).all() or (y == y[0]).all():
        return Correlation(float("nan"), n)
    names = {"pearson": "pearsonr", "spearman": "spearmanr", "kendall": "kendalltau"}
    return Correlation(float(getattr(stats, names[statistic])(x, y).statistic), n)


def _weighted_pearson(x, y, times):
    """[draws]: correlations of rows drawn `times` [draws, N]; x, y [N] or [draws, N]"""
    count = times.sum(-1, keepdims=True)
    x = x - (times * x).sum(-1, keepdims=True) / count
    y = y - (times * y).sum(-1, keepdims=True) / count
    return _ratio(*((times * a * b).sum(-1) for a, b in ((x, y), (x, x), (y, y))))


def _weighted_spearman(x, y, times):
    # The mean rank of a value counts those below it, and half of its equals.
    below = [(1 + np.sign(v[:, None] - v)) / 2 for v in (x, y)]
    return _weighted_pearson(*(times @ b.T for b in below), times)


def _weighted_kendall(x, y, times):
    a, b = (np.sign(v[:, None] - v) for v in (x, y))
    return _ratio(*((times @ m * times).sum(-1) for m in (a * b, a * a, b * b)))


_WEIGHTED = {
    "pearson": _weighted_pearson,
    "spearman": _weighted_spearman,
    "kendall": _weighted_kendall,
}


def _ratio(both, one, other):
    """NaN where a draw repeats a single value."""
    least = 1e-18 * np.array([[one.max()], [other.max()]])
    varies = (np.stack([one, other]) > least).all(0)
    scale = np.sqrt(np.where(varies, one * other, 1.0))
    return np.where(varies, np.clip(both / scale, -1.0, 1.0), np.nan)


def _ranks(values):
    return (1 + np.sign(values[:, None] - values)).sum(-1) / 2


def _known(statistic):
    if statistic not in _WEIGHTED:
        raise ValueError(f"statistic must be one of {[*_WEIGHTED]}, got {statistic!r}")


def _same(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(
            f"series of shapes {x.shape} and {y.shape}: give [N] of the same looks"
        )
    return x, y


def _series(x, y, differences):
    x, y = _same(x, y)
    if differences:
        x, y = _differences(x), _differences(y)
    known = np.isfinite(x) & np.isfinite(y)
    return x[known], y[known]


def _differences(values):
    """Equal steps must be equal: 0.3 − 0.2 is not 0.2 − 0.1 in floats."""
    values = np.where(np.isfinite(values), values, np.nan)
    unit = _ROUNDING * np.nanmax(np.abs(values), initial=0.0) or 1.0
    return np.round(np.diff(values) / unit) * unit
