"""Reward–drift fronts: which checkpoints are worth having, and how much they cover.

Points are `[N, 2]` = (drift, reward); less drift and more reward are better. A point
with a NaN is no point. Numpy float64 throughout: a front has hundreds of points.
"""

import numpy as np


def members(points):
    """True where no other point is as good on both axes and better on one.

    i is a member iff no j has drift_j ≤ drift_i and reward_j ≥ reward_i with one of the
    two strict; equal points are members together. points [N, 2]. Returns [N] bool.
    """
    points = _checked(points)
    drift, reward = points.T
    order = np.lexsort((-reward, drift))
    valid = ~np.isnan(points).any(-1)
    result = np.zeros(len(points), bool)
    best = (np.inf, -np.inf)  # the member met last: no drift below it beats its reward
    for i in order[valid[order]]:
        if reward[i] > best[1] or (drift[i], reward[i]) == best:
            best = (drift[i], reward[i])
            result[i] = True
    return result


def front(points):
    """The points that no other dominates, drift ascending, each value once.

    points [N, 2]. Returns [M, 2]; drift and reward both ascend strictly.
    """
    points = _checked(points)
    return np.unique(points[members(points)], axis=0)


def hypervolume(points, reference):
    """∫ max(best reward at drift ≤ d − reward_ref, 0) dd up to drift_ref.

    The area between the staircase of the front and the worst corner `reference` =
    (drift, reward), points beyond which add 0 (Zitzler & Thiele 1998). Returns a float
    in units of drift × reward.
    """
    corner = np.asarray(reference, float)
    if corner.shape != (2,) or not np.isfinite(corner).all():
        raise ValueError(f"reference must be two finite numbers, got {reference!r}")
    edge = front(points)
    edge = edge[(edge[:, 0] < corner[0]) & (edge[:, 1] > corner[1])]
    widths = np.diff(np.append(edge[:, 0], corner[0]))
    return float(np.sum(widths * (edge[:, 1] - corner[1])))


def attainment(points, drifts):
    """Best reward at drift ≤ d: a staircase, never a line between two checkpoints.

    A saw-tooth of resets passes no point between two checkpoints, so nothing is
    interpolated. points [N, 2], drifts [...]. Returns [...], NaN where no point is as
    near as that.
    """
    return np.append(_checked(points)[:, 1], np.nan)[picks(points, drifts)]


def picks(points, drifts):
    """Which point has the best reward at drift ≤ d, to read another measure of it.

    The gold reward of the checkpoint that the proxy picks, for instance. points [N, 2],
    drifts [...]. Returns [...] int, −1 where no point is as near as that.
    """
    points = _checked(points)
    index = np.flatnonzero(members(points))
    edge, first = np.unique(points[index], axis=0, return_index=True)
    steps = np.searchsorted(edge[:, 0], np.asarray(drifts, float), side="right")
    return np.append(-1, index[first])[steps]


def least_drift(points, rewards):
    """Least drift at reward ≥ r: the front read along the other axis.

    points [N, 2], rewards [...]. Returns [...], NaN where no point is as good as that.
    """
    edge, rewards = front(points), np.asarray(rewards, float)
    index = np.searchsorted(edge[:, 1], rewards, side="left")
    return np.append(edge[:, 0], np.nan)[index]


def least_picks(points, rewards):
    """Which point has the least drift at reward ≥ r: the twin of `picks`.

    points [N, 2], rewards [...]. Returns [...] int, −1 where no point is as good.
    """
    points = _checked(points)
    index = np.flatnonzero(members(points))
    edge, first = np.unique(points[index], axis=0, return_index=True)
    steps = np.searchsorted(edge[:, 1], np.asarray(rewards, float), side="left")
    return np.append(index[first], -1)[steps]


def crossed(chosen_a, chosen_b, values_a, values_b):
    """(v_B[chosen on A] + v_A[chosen on B]) / 2: chosen on one half, read on the other.

    On half A, the reward of the checkpoint that is best there is too high; on half B it
    is what that checkpoint is worth.

    Args:
      chosen_a, chosen_b: [...] int, indices from `picks` or `least_picks`, −1 = none.
      values_a, values_b: [N], the measure on the two halves.
    Returns [...], NaN where a half chose nothing.
    """
    values_a, values_b = np.asarray(values_a, float), np.asarray(values_b, float)
    if values_a.shape != values_b.shape or values_a.ndim != 1:
        raise ValueError(
            f"the halves hold {values_a.shape} and {values_b.shape} values: give the "
            "same checkpoints in the same order, [N] each"
        )
    one = np.append(values_b, np.nan)[chosen_a]
    return (one + np.append(values_a, np.nan)[chosen_b]) / 2


def matched(sets):
    """Where several fronts can be compared: the drift and reward all of them reach.

    Matched drift: the least, over sets, of the drift of the set's best reward (to its
    right a front says nothing new). Matched reward: the least of the best rewards.
    Read `attainment(points, drift)` and `least_drift(points, reward)` there.

    sets: sequence of points [N, 2]. Returns (drift, reward), floats.
    """
    best = np.stack([front(points)[-1] for points in sets])
    return tuple(float(x) for x in best.min(0))


def split_half(measure, points_a, points_b):
    """(measure(B at front(A)) + measure(A at front(B))) / 2: a less optimistic front.

    The best of noisy checkpoints measures better than it is. So members are picked on
    one half of the prompts and their coordinates are read on the other.

    Args:
      measure: function of points [M, 2] to a number or an array, for instance
        `functools.partial(hypervolume, reference=corner)`.
      points_a, points_b: [N, 2], the same checkpoints measured on the two halves.
    """
    points_a, points_b = _checked(points_a), _checked(points_b)
    if points_a.shape != points_b.shape:
        raise ValueError(
            f"the halves hold {len(points_a)} and {len(points_b)} points: give the "
            "same checkpoints in the same order"
        )
    one, other = points_b[members(points_a)], points_a[members(points_b)]
    return (measure(one) + measure(other)) / 2


def _checked(points):
    points = np.asarray(points, float) + 0.0  # −0.0 becomes 0.0
    if points.size == 0:
        return points.reshape(0, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must be [N, 2] (drift, reward), got {points.shape}")
    return points
