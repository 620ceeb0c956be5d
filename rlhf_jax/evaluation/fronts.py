"""Fronts of runs: what reward a run reached within each drift, without flattering it.

A run is looked at now and then. Between two looks of one cycle it is read by linear
interpolation; a reset ends a cycle, and nothing is read across it. Staircases would
favour whichever run happens to be looked at just below the drift in question.

The best of noisy looks measures better than it is, so looks are picked on one half of
the prompts and read on the other, both ways, and averaged: a *split-half* reading.
Everything is relative to the start of the run, on its own half. N looks.
"""

from typing import NamedTuple

import numpy as np

LEVELS = (0.25, 0.5, 0.75, 0.9)  # of the range that two runs share
_GRID = 1000  # midpoints of an integral


class Path(NamedTuple):
    """The looks of a run on one half of the prompts, in order, the start first."""

    drift: np.ndarray  # [N], 0 at the start
    reward: np.ndarray  # [N], 0 at the start
    cycle: np.ndarray  # [N] int: a reset begins the next


class Pick(NamedTuple):
    """Points of a path: `share` of the way from look `first` to look `second`."""

    first: np.ndarray
    second: np.ndarray
    share: np.ndarray

    def read(self, values):
        """`values` [N] of the looks at these points."""
        return values[self.first] + self.share * (
            values[self.second] - values[self.first]
        )


def pick(path, drifts):
    """argmax of the reward over the points of a path at drift ≤ d.

    drifts [...], each at least the least drift of the path. Returns a Pick of [...].
    """
    drifts = np.asarray(drifts, float)[..., None]
    near, far = _segments(path)
    x, y = path.drift[near], path.reward[near]
    width, rise = path.drift[far] - x, path.reward[far] - y
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(width > 0, np.clip((drifts - x) / width, 0.0, 1.0), 1.0)
    share = np.where(rise > 0, share, 0.0)
    reward = np.where(x <= drifts, y + share * rise, -np.inf)
    best = np.argmax(reward, axis=-1)
    if (np.take_along_axis(reward, best[..., None], -1) == -np.inf).any():
        raise ValueError(f"no point of the path is at drift ≤ {drifts.min():g}")
    share = np.take_along_axis(share, best[..., None], -1)[..., 0]
    return Pick(near[best], far[best], share)


def read(halves, drifts, values):
    """(v_B[pick on A] + v_A[pick on B]) / 2 at each drift: a split-half reading.

    Args: halves: Path on half A and on half B; drifts: [...], or a pair of these, one
    for each half that picks; values: [N] on half A and on half B. Returns [...].
    """
    drifts = drifts if isinstance(drifts, tuple) else (drifts, drifts)
    one = pick(halves[0], drifts[0]).read(values[1])
    return (one + pick(halves[1], drifts[1]).read(values[0])) / 2


def hypervolume(halves, corner):
    """∫₀^corner (split-half reward at drift ≤ d) dd.

    The area between a front and the start, up to a constant drift. A run that ends
    before the corner is taken to keep its best reward up to there; of two equal curves
    that still rise, the one that stops sooner covers less. Compare only runs of
    equally many looks. Returns a float in units of drift × reward.
    """
    drifts = (np.arange(_GRID) + 0.5) * corner / _GRID
    rewards = [half.reward for half in halves]
    return float(np.mean(read(halves, drifts, rewards)) * corner)


def matched(one, other, values):
    """Two runs at matched drift: the mean at 25, 50, 75 and 90% of the shared range.

    The range that a pair shares, on each half, ends where the run that drifts less has
    its largest drift. Where that run never left its start, both are read there.

    Args: one, other: the halves of two runs, Path each; values: of the one and of the
    other, [N] on each half. Returns two floats.
    """
    drifts = tuple(
        np.multiply(LEVELS, max(min(a.drift.max(), b.drift.max()), 0.0))
        for a, b in zip(one, other, strict=True)
    )
    pairs = zip((one, other), values, strict=True)
    return tuple(float(np.mean(read(halves, drifts, v))) for halves, v in pairs)


def _segments(path):
    """(nearer, farther look) of every segment, and of every look by itself."""
    looks = np.arange(len(path.drift))
    joined = looks[:-1][path.cycle[:-1] == path.cycle[1:]]
    one, two = np.append(looks, joined), np.append(looks, joined + 1)
    nearer = path.drift[one] <= path.drift[two]
    return np.where(nearer, one, two), np.where(nearer, two, one)
