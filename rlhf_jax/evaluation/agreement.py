"""Agreement of a judge with labels that were given, such as those of people."""

from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import statistics


class Agreement(NamedTuple):
    """The share of pairs on which a judge prefers what was given, with its interval."""

    share: float  # a tie of either side counts ½
    low: float
    high: float
    pairs: int  # that both judged
    ties: int  # of them, with exactly ½ on either side
    missing: int  # pairs without an answer on either side: they count nowhere


def agreement(preferences, given, *, level=0.95):
    """Σ [same side of ½] / N: AI labeler alignment, with Wilson's score interval.

    Lee et al. 2023, "RLAIF vs. RLHF", arXiv:2309.00267, section 2.3: a soft preference
    is for its larger side. A tie counts ½, as a coin would on average; since it varies
    less, the interval (`statistics.wilson`) is then a little wide. It speaks of other
    pairs of the kind, with this judge.

    Args:
      preferences: [N] p(first is better); NaN where the judge has no answer.
      given: [N] the same of the labels: 1 or True, 0 or False, or soft; NaN is none.
    Raises ValueError unless there is a pair that both judged, and for what is no
    probability.
    """
    p = np.asarray(preferences, np.float64)
    q = np.asarray(given, np.float64)
    if p.shape != q.shape or p.ndim != 1:
        raise ValueError(
            f"preferences {p.shape} and labels {q.shape}: give [N] of both"
        )
    both = ~np.isnan(p) & ~np.isnan(q)
    for values in (p[both], q[both]):
        if not values.size or not ((values >= 0) & (values <= 1)).all():
            raise ValueError(f"give probabilities of pairs, at least one: {values}")
    credit = (1 + np.sign(p[both] - 0.5) * np.sign(q[both] - 0.5)) / 2
    share, count = float(credit.mean()), int(both.sum())
    _, low, high = statistics.wilson(share, count, level=level)
    return Agreement(
        share, low, high, count, int((credit == 0.5).sum()), int((~both).sum())
    )
