"""Position bias: how far a judge looks at where a candidate stands.

Of judgments in both orders: p_ab and p_ba [N] are the probabilities of the *first slot*
in each, so a judge without bias has p_ab = 1 − p_ba. Rows that hold a NaN (no answer)
are left out, and counted by no one: report how many there were.
"""

import math
from typing import NamedTuple

import numpy as np


class PositionBias(NamedTuple):
    """Measures of one judge on N pairs; shares are of the pairs that were judged."""

    pairs: int  # judged in both orders
    gap: float  # mean |p_ab − (1 − p_ba)|, in [0, 1]
    beyond: float  # share of pairs with a larger gap than asked about
    consistent: float  # share where both orders prefer the same candidate
    same_slot: float  # share where both prefer the same slot
    first: float  # share of the first slot among these; NaN: there are none
    p: float  # two-sided binomial test that they fall on either slot alike
    fairness: float  # in [−1, 1]: −1 always the first slot, 1 always the second


def measure(p_ab, p_ba, *, beyond=0.1):
    """How far a judge's preferences depend on the order of the candidates.

    gap = mean |p_ab − (1 − p_ba)|. Same slot: both p > ½, or both < ½ (Lee et al. 2023,
    "RLAIF vs. RLHF", arXiv:2309.00267, section 2.3 and Table 4, with its binomial
    test); consistent: one of each. A pair with p = ½ in either order is neither.
    fairness = (second − first)/N of the pairs with the same slot, to which preference
    fairness comes with two options (Shi et al. 2024, arXiv:2406.07791). That a judge is
    fair does not make it consistent.

    Args: p_ab, p_ba: [N], NaN where there is no answer. beyond: which gaps are counted.
    Raises ValueError for no pairs at all and for what is no probability.
    """
    from scipy import stats  # 1 s to import

    p_ab, p_ba = _judged(p_ab, p_ba)
    gaps = np.abs(p_ab - (1 - p_ba))
    sides = np.sign(p_ab - 0.5), np.sign(p_ba - 0.5)
    first = int(((sides[0] > 0) & (sides[1] > 0)).sum())
    second = int(((sides[0] < 0) & (sides[1] < 0)).sum())
    same = first + second
    return PositionBias(
        pairs=len(gaps),
        gap=float(gaps.mean()),
        # Gaps of what float32 makes of 0.1 are not beyond 0.1.
        beyond=float((gaps > beyond + 1e-6).mean()),
        consistent=float((sides[0] * sides[1] < 0).mean()),
        same_slot=same / len(gaps),
        first=first / same if same else math.nan,
        p=float(stats.binomtest(first, same).pvalue) if same else 1.0,
        fairness=(second - first) / len(gaps),
    )


def repetition_stability(p):
    """The mean over items of the largest share of repetitions with one answer.

    Shi et al. 2024, arXiv:2406.07791: of two answers between ½ and 1. What changes from
    one repetition to the next is no matter of position.

    Args: p: [N, R] preferences of the same N prompts asked R ≥ 2 times; above ½ is one
    answer, below ½ the other, and exactly ½ a third. NaN is left out, and so are items
    with fewer than two answers. Raises ValueError where none is left.
    """
    p = np.asarray(p, np.float64)
    if p.ndim != 2:
        raise ValueError(f"repetitions are [items, repetitions], got {p.shape}")
    answers = np.sign(p - 0.5)
    counts = np.stack([(answers == side).sum(1) for side in (-1, 0, 1)])
    totals = counts.sum(0)
    if not (totals > 1).any():
        raise ValueError("no item has two answers to compare")
    kept = totals > 1
    return float((counts.max(0)[kept] / totals[kept]).mean())


def _judged(p_ab, p_ba):
    p = np.stack(np.broadcast_arrays(p_ab, p_ba)).astype(np.float64)
    p = p[:, ~np.isnan(p).any(0)]
    if p.ndim != 2 or not p.size or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"give probabilities in both orders, at least one pair: {p}")
    return p
