"""Pareto fronts of points: which are worth having, and how much they cover.

Points are `[N, 2]` = (drift, reward); less drift and more reward are better. A point
with a NaN is no point. For what runs reached, measured with noise, see `fronts`.
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


def _checked(points):
    points = np.asarray(points, float) + 0.0  # −0.0 becomes 0.0
    if points.size == 0:
        return points.reshape(0, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"points must be [N, 2] (drift, reward), got {points.shape}")
    return points
