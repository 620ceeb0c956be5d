"""Two models on the same items: what changed, with its uncertainty.

The item is the unit, so an interval speaks about these two models on other questions of
the kind, not about other training runs: those need `statistics`, over worlds.
"""

from typing import NamedTuple

import numpy as np

_DRAWS = 10_000


class McNemar(NamedTuple):
    """What became of the right answers."""

    lost: int  # items right before only
    gained: int  # items right after only
    p: float  # two-sided


class Difference(NamedTuple):
    """A statistic after, minus the same before."""

    value: float
    low: float
    high: float
    p: float  # two-sided


def mcnemar(before, after):
    """McNemar's exact test that as many right answers were gained as were lost.

    P(|X − n/2| ≥ |lost − n/2|) for X ~ Binomial(n, ½), n = lost + gained (McNemar
    1947): items on which the models agree say nothing. 1 where there are no others.

    Args: before, after [N], the same items: 1 or True where the answer is right.
    """
    from scipy import stats  # 1 s to import

    before, after = (np.asarray(x) != 0 for x in _items(before, after))
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    p = stats.binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    return McNemar(lost, gained, float(p))


def bootstrap(before, after, *, statistic=None, level=0.95, draws=_DRAWS, seed=0):
    """statistic(mean of after) − statistic(mean of before), with a percentile interval.

    Both models are resampled on the same items (Koehn 2004). p is twice the smaller
    share of resampled differences on either side of 0, (1 + hits)/(1 + draws).

    Args:
      before, after: [N] scores of the same items, or [N, k] for a statistic of k means.
      statistic: [k] → a number, such as BLEU of mean counts; by default the mean.
    """
    from scipy import stats

    before, after = (np.asarray(x, np.float64) for x in _items(before, after))
    of = float if statistic is None else statistic

    def difference(index):
        return of(after[index].mean(0)) - of(before[index].mean(0))

    items = np.arange(len(before))
    value = difference(items)
    if len(items) == 1:
        return Difference(value, -np.inf, np.inf, 1.0)
    found = stats.bootstrap(
        (items,), difference, vectorized=False, n_resamples=draws,
        method="percentile", confidence_level=level, rng=seed,
    )  # fmt: skip
    drawn = found.bootstrap_distribution
    # Ties with 0 must not be lost to the order in which floats were added.
    tolerance = 1e-9 * np.abs(drawn).max()
    hits = min((drawn <= tolerance).sum(), (drawn >= -tolerance).sum())
    p = min(1.0, 2 * (1 + hits) / (1 + draws))
    return Difference(value, *map(float, found.confidence_interval), float(p))


def _items(before, after):
    before, after = np.asarray(before), np.asarray(after)
    if before.shape != after.shape or not len(before):
        raise ValueError(
            f"items of shapes {before.shape} and {after.shape}: give both models the "
            "same questions, at least one"
        )
    return before, after
