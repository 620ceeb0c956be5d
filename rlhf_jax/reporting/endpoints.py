"""Endpoints: the numbers of a run that a claim can be about, by name.

    reward, gold, drift/text_nll, ...  the final policy's
    hypervolume/<key>                  what the front on that drift axis covers
    reward_at/<key>                    best proxy reward at the matched drift
    gold_at/<key>                      gold of the checkpoint the *proxy* picks there
    drift_at/<key>                     least drift at the matched reward

Fronts of a seed are matched at the drift and at the reward that all of its methods
reach. `drift_at` is NaN for a method that never gets there.
"""

import functools
from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation import pareto
from rlhf_jax.evaluation.axes import GOLD, REWARD, Axis
from rlhf_jax.reporting.evaluations import HALVES

MATCHED = ("reward_at", "gold_at", "drift_at")  # read where fronts are matched
OF_A_FRONT = ("hypervolume", *MATCHED)  # those that name a drift axis
HYPERVOLUME_SHARE = 0.05  # smallest effect: of the other method's mean
_PREFIXES = {
    "hypervolume": "hypervolume, ",
    "reward_at": "reward at matched drift, ",
    "gold_at": "gold at matched drift, ",
    "drift_at": "drift at matched reward, ",
    "final": "",
}


class Endpoint(NamedTuple):
    """An axis and how it is read."""

    reading: str  # "final", or one of OF_A_FRONT
    axis: Axis  # of `hypervolume` and the like, the drift axis
    measure: Axis | None  # whose number it is; None for a hypervolume

    @property
    def title(self):
        """The printed name."""
        final = self.reading == "final"
        name = self.axis.short if final and self.axis.short else self.axis.title
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

    @property
    def absent(self):
        """What to call a seed without a number.

        Where fronts are matched, the method has no checkpoint; elsewhere the seed
        diverged.
        """
        return "not reached" if self.reading in MATCHED else "not finite"


def parse(name, axes):
    """The `Endpoint` of a name, on the given axes (sequence of Axis)."""
    reading, _, key = name.partition("/")
    if reading not in OF_A_FRONT:
        key = {"reward": REWARD.key, "gold": GOLD.key}.get(name, name)
        axis = axes_.find(key, axes)
        return Endpoint("final", axis, axis)
    axis = axes_.find(key, axes)
    reward, gold = axes_.rewards(axes)
    measures = {"reward_at": reward, "gold_at": gold, "drift_at": axis}
    return Endpoint(reading, axis, measures.get(reading))


def table(runs, *, axes, corners=None, among=None):
    """{method: {endpoint: {seed: number}}}, flat.

    Besides `reward`, `gold` and the drift axes it has every other number of the final
    evaluation, and the endpoints of each drift axis's front (`hypervolume` where
    `corners` has the axis).

    Args:
      runs: sequence of evaluations.Run.
      axes: sequence of Axis; those with a corner are drift axes.
      corners: {key: (drift, reward)} of `axes.corners`.
      among: names of the methods that decide where fronts are matched, by default all;
        other methods are read at the same place.
    """
    matches = matched(runs, axes, among)
    result = {}
    for run in runs:
        for name, value in _of_run(run, axes, corners or {}, matches).items():
            by_seed = result.setdefault(run.method, {}).setdefault(name, {})
            by_seed[run.seed] = value
    return result


def matched(runs, axes, among):
    """{(seed, key): ((drift, reward) on half A, on half B)} at which fronts compare."""
    result = {}
    for seed in {run.seed for run in runs}:
        for axis in axes_.drifts(axes):
            fronts = [
                run.points_by_half(axis)
                for run in runs
                if run.seed == seed and (among is None or run.method in among)
                if run.has_front(axis)
            ]
            sets = [
                [points for points in half if not np.isnan(points).any(-1).all()]
                for half in zip(*fronts, strict=True)
            ]
            if sets and all(sets):
                result[seed, axis.key] = tuple(map(pareto.matched, sets))
    return result


def _of_run(run, axes, corners, matches):
    result = {"reward": float(run.final[REWARD.key])}
    if GOLD.key in run.final:
        result["gold"] = float(run.final[GOLD.key])
    for name, value in run.final.items():
        number = isinstance(value, int | float) and "/" in name
        if number and not name.endswith(HALVES) and name not in (REWARD.key, GOLD.key):
            result[name] = float(run.values(axes_.find(name, axes))[-1])
    for axis in axes_.drifts(axes):
        result[axis.key] = float(run.values(axis)[-1])
        if not run.has_front(axis):
            continue
        if axis.key in corners:
            area = _hypervolume(run, axis, corners[axis.key])
            result[f"hypervolume/{axis.key}"] = area
        if (run.seed, axis.key) in matches:
            match = matches[run.seed, axis.key]
            result |= _read_at(run, axis, match, gold="gold" in result)
    return result


def _read_at(run, axis, match, *, gold):
    """The front of a run at the (drift, reward) of each half."""
    halves = list(zip(run.points_by_half(axis), match, strict=True))
    near = [pareto.picks(points, drift) for points, (drift, _) in halves]
    good = [pareto.least_picks(points, reward) for points, (_, reward) in halves]
    read = {"reward_at": (near, REWARD), "drift_at": (good, axis)}
    if gold:
        read["gold_at"] = (near, GOLD)
    return {
        f"{name}/{axis.key}": float(pareto.crossed(*chosen, *run.halves(measure)))
        for name, (chosen, measure) in read.items()
    }


def _hypervolume(run, axis, corner):
    points = run.points(axis)
    if (points == points[:1]).all():
        return 0.0  # never left its start: the offset of a half's start is no area
    measure = functools.partial(pareto.hypervolume, reference=corner)
    halves = [run.points(axis, half=half) for half in HALVES]
    if len(halves[0]) and len(halves[0]) == len(halves[1]):
        return pareto.split_half(measure, *halves)
    return measure(points)
