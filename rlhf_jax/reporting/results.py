"""Records of metrics.jsonl to points, endpoints and results.json.

A record is a dictionary of one logged step. Evaluation records hold `eval/reward` and
an `eval/phase` in start, train, before_reset, after_reset, final. An *axis* names a
metric; `drift/*` is read as it is, `tax/*` is an accuracy, and its axis is the drop
against the start. A metric measured on two halves of the prompts is logged besides as
`<name>_a` and `<name>_b`; hypervolumes are then split-half ones.
"""

import functools
from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import pareto, statistics

REWARD, GOLD = "eval/reward", "eval/gold"
_AT_AXIS = ("hypervolume", "reward_at", "gold_at", "drift_at")


class Run(NamedTuple):
    """The evaluations of one method and seed, in the order they were made."""

    method: str
    seed: int
    start: dict  # the evaluation of the initial weights
    rows: list  # of dicts, `start` first

    @property
    def final(self):
        """The last evaluation; on an iteration with a reset, the one after it."""
        return self.rows[-1]

    def values(self, key):
        """A metric, or a tax, at every evaluation. Returns [N], NaN where missing."""
        values = np.array([row.get(key, np.nan) for row in self.rows], float)
        return float(self.start.get(key, np.nan)) - values if is_tax(key) else values

    def points(self, axis, *, reward=REWARD, half=""):
        """(drift, reward) of every evaluation that holds both. Returns [N, 2]."""
        suffix = half if self.has(axis + half) else ""
        pairs = [self.values(axis + suffix), self.values(reward + half)]
        points = np.stack(pairs, axis=-1)
        return points[~np.isnan(points).any(-1)]

    def picked(self, key, axis, drifts):
        """A metric at the checkpoint with the best proxy reward at drift ≤ d.

        Gold is read there, and selects nothing. drifts [...]. Returns [...], NaN where
        no checkpoint is as near as that.
        """
        pairs = np.stack([self.values(axis), self.values(REWARD)], axis=-1)
        return np.append(self.values(key), np.nan)[pareto.picks(pairs, drifts)]

    def has(self, key):
        """Was the metric ever measured?"""
        return any(key in row for row in self.rows)


def is_tax(axis):
    """Is the axis a drop of an accuracy?"""
    return axis.startswith("tax/")


def runs(records):
    """Evaluation records sorted into runs, methods in order of first appearance.

    Where a run holds no evaluation of the initial weights, that of another method with
    the same seed serves: paired methods start from the same weights.
    """
    rows, starts = {}, {}
    for record in records:
        if REWARD in record:
            place = record["method"], record["seed"]
            rows.setdefault(place, []).append(record)
            if _is_start(record):
                starts.setdefault(record["seed"], record)
    result = []
    for (method, seed), evaluated in rows.items():
        evaluated = sorted(evaluated, key=lambda row: row["step"])
        if not _is_start(evaluated[0]) and seed in starts:
            evaluated = [starts[seed], *evaluated]
        if not _is_start(evaluated[-1]):
            result.append(Run(method, seed, evaluated[0], evaluated))
    return result


def _is_start(row):
    """Is it an evaluation of the initial weights, before any step?"""
    return row["step"] == 0 and row.get("eval/phase", "start") == "start"


def methods(runs):
    """{method: its runs, by seed}, in order of first appearance."""
    result = {}
    for run in sorted(runs, key=lambda run: run.seed):
        result.setdefault(run.method, []).append(run)
    order = list(dict.fromkeys(run.method for run in runs))
    return {method: result[method] for method in order}


def endpoints(found, *, axes, corners=None):
    """{method: {name: {seed: number}}}: what a claim can be about, flat.

    Names: `reward`, `gold`, each axis, every other number of the final evaluation
    (`tax/*` as drops); and for each axis `hypervolume/<axis>` (where `corners` holds
    the axis), `reward_at/<axis>` (best reward at the matched drift of that seed's
    methods), `gold_at/<axis>` (gold of the checkpoint that the *proxy* picks there:
    gold selects nothing) and `drift_at/<axis>` (least drift at their matched reward).

    found: sequence of Run; matching is among the methods it holds.
    """
    matches = _matches(found, axes)
    result = {}
    for run in found:
        for name, value in _endpoints(run, axes, corners or {}, matches).items():
            by_seed = result.setdefault(run.method, {}).setdefault(name, {})
            by_seed[run.seed] = value
    return result


def summarize(records, *, axes, corners=None, wall_seconds=None):
    """The content of results.json.

    Intervals are 95% t-intervals over seeds from 8 seeds on ("interval": "t95"), else
    the least and the largest seed ("range"): fewer seeds make no interval.

    Args:
      axes: names of drift axes; a front is never judged on one alone.
      corners: {axis: (drift, reward)}, the worst corner of each hypervolume.
    """
    found = runs(records)
    table = endpoints(found, axes=axes, corners=corners)
    seeds = {run.seed for run in found}
    summary = {name: _nested(values, axes) for name, values in table.items()}
    for run in found:
        summary[run.method]["final"] = {
            "step": run.final["step"],
            "phase": run.final.get("eval/phase", "final"),
        }
    return {
        "methods": summary,
        "initial": _initial(found, axes),
        "seeds": len(seeds),
        "interval": "t95" if len(seeds) >= statistics.MIN_SEEDS else "range",
        "corners": {axis: list(corner) for axis, corner in (corners or {}).items()},
        "wall_seconds": wall_seconds,
    }


def spread(values):
    """{"mean", "low", "high"} of one number a seed.

    Seeds that are not finite are left out and counted under "missing": a run that
    diverged is no ordinary gap, and whoever reads the mean must see it.
    """
    every = np.asarray(list(values), float)
    values = every[np.isfinite(every)]
    if len(values) == 0:
        result = {"mean": None, "low": None, "high": None}
    elif len(values) >= statistics.MIN_SEEDS:
        result = dict(statistics.t_interval(values)._asdict())
    else:
        result = {"mean": values.mean(), "low": values.min(), "high": values.max()}
    missing = len(every) - len(values)
    return {**result, "missing": missing} if missing else result


def _initial(found, axes):
    """The initial weights in the layout of a method, each seed once."""
    first = list({run.seed: run for run in reversed(found)}.values())
    result = {"reward": spread([run.start[REWARD] for run in first])}
    if any(GOLD in run.start for run in first):
        result["gold"] = spread([run.start.get(GOLD, np.nan) for run in first])
    result["drift"] = {
        axis: spread([r.values(axis)[0] for r in first]) for axis in axes
    }
    return result


def _matches(found, axes):
    """{(seed, axis): (drift, reward)} where all methods of a seed can be compared."""
    result = {}
    for seed in {run.seed for run in found}:
        for axis in axes:
            sets = [run.points(axis) for run in found if run.seed == seed]
            sets = [points for points in sets if len(points)]
            if sets:
                result[seed, axis] = pareto.matched(sets)
    return result


def _endpoints(run, axes, corners, matches):
    result = {"reward": float(run.final[REWARD])}
    if GOLD in run.final:
        result["gold"] = float(run.final[GOLD])
    for name, value in run.final.items():
        number = isinstance(value, int | float) and "/" in name
        if number and not name.endswith(("_a", "_b")) and name not in (REWARD, GOLD):
            result[name] = float(run.values(name)[-1])
    for axis in axes:
        result[axis] = float(run.values(axis)[-1])
        if axis in corners:
            result[f"hypervolume/{axis}"] = _hypervolume(run, axis, corners[axis])
        if (run.seed, axis) in matches:
            drift, reward = matches[run.seed, axis]
            points = run.points(axis)
            result[f"reward_at/{axis}"] = float(pareto.attainment(points, drift))
            result[f"drift_at/{axis}"] = float(pareto.least_drift(points, reward))
            if "gold" in result:
                result[f"gold_at/{axis}"] = float(run.picked(GOLD, axis, drift))
    return result


def _hypervolume(run, axis, corner):
    measure = functools.partial(pareto.hypervolume, reference=corner)
    halves = [run.points(axis, half=half) for half in ("_a", "_b")]
    if len(halves[0]) and len(halves[0]) == len(halves[1]):
        return pareto.split_half(measure, *halves)
    return measure(run.points(axis))


def _nested(values, axes):
    """One method of `endpoints` in the layout of results.json."""
    spreads = {name: spread(by_seed.values()) for name, by_seed in values.items()}
    result = {"reward": spreads["reward"]}
    if "gold" in spreads:
        result["gold"] = spreads["gold"]
    result["drift"] = {axis: spreads[axis] for axis in axes}
    for group in _AT_AXIS:
        result[group] = {
            axis: spreads[f"{group}/{axis}"]
            for axis in axes
            if f"{group}/{axis}" in spreads
        }
    used = {"reward", "gold", *axes}
    result["other"] = {
        name: value
        for name, value in spreads.items()
        if name not in used and name.split("/")[0] not in _AT_AXIS
    }
    result["per_seed"] = {
        name: {str(seed): value for seed, value in by_seed.items()}
        for name, by_seed in values.items()
    }
    return result
