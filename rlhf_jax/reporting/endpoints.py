"""Endpoints: the numbers of a run that a claim can be about, by name.

Of one run:

    reward, gold, drift/text_nll, ...  its final measure (`evaluations.Run.final`)
    end/reward, end/gold, ...          its last look, where it has resets
    hypervolume/<key>                  what its front on that drift axis covers

Of a pair of runs on one unit, read where both have been (`evaluation.fronts`):

    reward_at/<key>                    proxy reward at matched drift
    gold_at/<key>                      gold there; the *proxy* picks

There is no drift at matched reward: on a plateau noise decides where a reward was
reached, and of equal methods the one with fewer looks there seems to need more drift.

A run of a single look (an early stop, the best of n) has no front. Its `hypervolume`
and `reward_at` against another run are the rewards of both at its own drift.
"""

from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation import fronts
from rlhf_jax.evaluation.axes import GOLD, REWARD, Axis
from rlhf_jax.reporting.evaluations import HALVES

MATCHED = ("reward_at", "gold_at")  # of a pair alone
OF_A_FRONT = ("hypervolume", *MATCHED)  # those that name a drift axis
HYPERVOLUME_SHARE = 0.05  # smallest effect: of the other method's mean
_PREFIXES = {
    "hypervolume": "hypervolume, ",
    "reward_at": "reward at matched drift, ",
    "gold_at": "gold at matched drift, ",
    "end": "at the end, ",
    "final": "",
}


class Endpoint(NamedTuple):
    """An axis and how it is read."""

    reading: str  # "final", "end", or one of OF_A_FRONT
    axis: Axis  # of `hypervolume` and the like, the drift axis
    measure: Axis | None  # whose number it is; None for a hypervolume

    @property
    def title(self):
        """The printed name."""
        whole = self.reading in ("final", "end")
        name = self.axis.short if whole and self.axis.short else self.axis.title
        return _PREFIXES[self.reading] + name

    @property
    def scale(self):
        """The factor from the recorded to the printed unit."""
        return (self.measure or self.axis).scale

    @property
    def smallest(self):
        """The usual smallest effect of interest; a hypervolume's is a share."""
        return self.measure.smallest if self.measure else HYPERVOLUME_SHARE

    @property
    def less_is_better(self):
        """Whether the smaller of two numbers is the better one."""
        return self.measure is not None and self.measure.better == "less"


def parse(name, axes):
    """The `Endpoint` of a name, on the given axes (sequence of Axis)."""
    reading, _, key = name.partition("/")
    if reading not in ("end", *OF_A_FRONT):
        reading, key = "final", name
    key = {"reward": REWARD.key, "gold": GOLD.key}.get(key, key)
    axis = axes_.find(key, axes)
    if reading in ("final", "end"):
        return Endpoint(reading, axis, axis)
    reward, gold = axes_.rewards(axes)
    measures = {"reward_at": reward, "gold_at": gold}
    return Endpoint(reading, axis, measures.get(reading))


def table(runs, *, axes):
    """{method: {endpoint: {unit: number}}}: the endpoints of single runs.

    Besides `reward`, `gold` and the drift axes it has every other number of the last
    evaluation. A run that diverged has NaN throughout. Args: runs: sequence of
    evaluations.Run; axes: sequence of Axis; those with a corner are drift axes.
    """
    result = {}
    for run in runs:
        lost = run.diverged(_measured(axes))
        for name, value in _of_run(run, axes).items():
            by_unit = result.setdefault(run.method, {}).setdefault(name, {})
            by_unit[run.unit] = np.nan if lost else value
    return result


def pair(one, other, name, axes):
    """The numbers of two runs of a unit on an endpoint, (one, other).

    Returns NaN twice where one of them diverged (its unit is void), None where the
    endpoint is not measured of both, or is a hypervolume of unequally many looks.
    """
    endpoint = parse(name, axes)
    if any(run.diverged(_measured(axes)) for run in (one, other)):
        return np.nan, np.nan
    if endpoint.reading not in OF_A_FRONT:
        numbers = [_whole(run, endpoint) for run in (one, other)]
        return None if None in numbers else tuple(numbers)
    axis, measured = endpoint.axis, endpoint.measure or REWARD
    if not all(run.has_front(axis) and run.has(measured) for run in (one, other)):
        return None
    if 1 in (one.looks, other.looks):
        return _at_own_drift(one, other, axis, measured)
    if endpoint.reading == "hypervolume":
        if one.looks != other.looks:
            return None
        return tuple(
            fronts.hypervolume(r.paths(axis), axis.corner) for r in (one, other)
        )
    values = one.gains(measured), other.gains(measured)
    return fronts.matched(one.paths(axis), other.paths(axis), values)


def _whole(run, endpoint):
    """A run's final measure, or its last look where it has resets; None without one."""
    if endpoint.axis.key not in run.rows[-1]:
        return None
    if endpoint.reading == "final":
        return run.final(endpoint.axis)
    return float(run.values(endpoint.axis)[-1]) if run.cycle[-1] else None


def _at_own_drift(one, other, axis, measure):
    """Two runs at the drift of the one with a single look, picked on A, read on B.

    An early stop was picked on half A, so half B alone reports; drift is read there.
    """
    single, run = (one, other) if one.looks == 1 else (other, one)
    drift = max(single.gains(axis)[0][-1], 0.0)
    values = run.gains(measure)[1]
    reached = values[-1]
    if run.looks > 1:
        reached = fronts.pick(run.paths(axis)[0], drift).read(values)
    numbers = float(single.gains(measure)[1][-1]), float(reached)
    return numbers if single is one else numbers[::-1]


def _of_run(run, axes):
    result = {"reward": run.final(axes_.find(REWARD.key, axes))}
    last = run.rows[-1]
    if GOLD.key in last:
        result["gold"] = run.final(axes_.find(GOLD.key, axes))
    drifts = axes_.drifts(axes)
    for name, value in last.items():
        number = isinstance(value, int | float) and "/" in name
        if number and not name.endswith(HALVES) and name not in (REWARD.key, GOLD.key):
            result[name] = run.final(axes_.find(name, axes))
    for axis in drifts:
        result[axis.key] = run.final(axis) if axis.key in last else np.nan
        if run.looks > 1 and run.has_front(axis):
            area = fronts.hypervolume(run.paths(axis), axis.corner)
            result[f"hypervolume/{axis.key}"] = area
    if run.cycle[-1]:
        ends = {"reward": REWARD, "gold": GOLD} | {a.key: a for a in drifts}
        for name, axis in ends.items():
            if axis.key in last:
                result[f"end/{name}"] = float(run.values(axis)[-1])
    return result


def _measured(axes):
    return (REWARD, GOLD, *axes_.drifts(axes))
