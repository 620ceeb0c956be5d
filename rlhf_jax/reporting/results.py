"""Records of metrics.jsonl to points, endpoints and results.json.

A record is a dictionary of one logged step. Evaluation records hold `eval/reward` and
an `eval/phase` in start, train, before_reset, after_reset, final. An *axis* names a
metric; `drift/*` is read as it is, `tax/*` is an accuracy, and its axis is the drop
against the start. A metric measured on two halves of the prompts is logged besides as
`<name>_a` and `<name>_b`: checkpoints are then chosen on one half and read on the
other, both ways, and averaged.
"""

import functools
from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import pareto, statistics

REWARD, GOLD = "eval/reward", "eval/gold"
HALVES = ("_a", "_b")
MATCHED = ("reward_at", "gold_at", "drift_at")  # read where fronts are matched
OF_A_FRONT = ("hypervolume", *MATCHED)  # endpoints that name an axis
_STEPS = 12  # of a curve of attainment, from the start to the corner


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

    def sides(self, key):
        """A metric on the two halves of the prompts, [N] each.

        Twice the whole where halves were not measured. Both sides of a drift begin
        where the whole does: texts that are harder than the other half's are no drift.
        """
        whole = self.values(key)
        if not all(self.has(key + half) for half in HALVES):
            return whole, whole
        sides = [self.values(key + half) for half in HALVES]
        if key.startswith("drift/"):
            sides = [side - side[0] + whole[0] for side in sides]
        return tuple(sides)

    def faces(self, axis):
        """(drift, proxy reward) on the two halves, [N, 2] each, NaN rows kept."""
        pairs = zip(self.sides(axis), self.sides(REWARD), strict=True)
        return tuple(np.stack(pair, axis=-1) for pair in pairs)

    def picked(self, key, axis, drifts):
        """A metric at the checkpoint with the best proxy reward at drift ≤ d.

        Gold is read there, and selects nothing. drifts [...]. Returns [...], NaN where
        no checkpoint is as near as that.
        """
        chosen = [pareto.picks(face, drifts) for face in self.faces(axis)]
        return pareto.crossed(*chosen, *self.sides(key))

    def has(self, key):
        """Was the metric ever measured?"""
        return any(key in row for row in self.rows)

    def has_front(self, axis):
        """Was the axis measured of the method itself, and not of its start alone?

        The best of n samples has no likelihood of human text and answers no questions.
        """
        return any(axis in row for row in self.rows if not _is_start(row))


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


def pooled(trials):
    """One run a seed of the checkpoints of all trials: what any of them reached.

    trials: a sequence of sequences of Run, one method's; a seed starts each time from
    the same weights. Returns a list of Run.
    """
    found = {}
    for run in (run for runs in trials for run in runs):
        known = found.get(run.seed, run._replace(rows=[run.start]))
        found[run.seed] = known._replace(rows=known.rows + run.rows[1:])
    return list(found.values())


def endpoints(found, *, axes, corners=None, among=None):
    """{method: {name: {seed: number}}}: what a claim can be about, flat.

    Names: `reward`, `gold`, each axis, every other number of the final evaluation
    (`tax/*` as drops); and for each axis `hypervolume/<axis>` (where `corners` holds
    the axis), `reward_at/<axis>` (best reward at the matched drift of that seed's
    methods), `gold_at/<axis>` (gold of the checkpoint that the *proxy* picks there:
    gold selects nothing) and `drift_at/<axis>` (least drift at their matched reward,
    NaN for a method that never gets there).

    found: sequence of Run; among: names of the methods that decide where fronts are
    matched, all by default; the others are read there as well.
    """
    matches = _matches(found, axes, among)
    result = {}
    for run in found:
        for name, value in _endpoints(run, axes, corners or {}, matches).items():
            by_seed = result.setdefault(run.method, {}).setdefault(name, {})
            by_seed[run.seed] = value
    return result


def summarize(records, *, axes, corners=None, among=None, wall_seconds=None):
    """The content of results.json.

    Intervals are 95% t-intervals over seeds from 8 seeds on ("interval": "t95"), else
    the least and the largest seed ("range"): fewer seeds make no interval.

    Args:
      axes: names of drift axes; a front is never judged on one alone.
      corners: {axis: (drift, reward)}, the worst corner of each hypervolume.
      among: methods that decide where fronts are matched; see `endpoints`.
    """
    found = runs(records)
    table = endpoints(found, axes=axes, corners=corners, among=among)
    seeds = {run.seed for run in found}
    summary = {name: _nested(values, axes) for name, values in table.items()}
    for run in found:
        summary[run.method]["final"] = {
            "step": run.final["step"],
            "phase": run.final.get("eval/phase", "final"),
        }
        summary[run.method]["checkpoints"] = len(run.rows) - 1
    return {
        "methods": summary,
        "initial": _initial(found, axes),
        "matched": _matched(found, axes, among),
        "attainment": _attainment(found, axes, corners or {}),
        "seeds": len(seeds),
        "interval": "t95" if len(seeds) >= statistics.MIN_SEEDS else "range",
        "corners": {axis: list(corner) for axis, corner in (corners or {}).items()},
        "wall_seconds": wall_seconds,
    }


def absent(endpoint):
    """What a seed without a number is: where fronts are matched a method may have no
    checkpoint, elsewhere the seed diverged."""
    return "not reached" if endpoint.split("/")[0] in MATCHED else "not finite"


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


def _matches(found, axes, among):
    """{(seed, axis): ((drift, reward) on half A, and on half B)}, where fronts of a
    seed can be compared."""
    result = {}
    for seed in {run.seed for run in found}:
        for axis in axes:
            faces = [
                run.faces(axis)
                for run in found
                if run.seed == seed and (among is None or run.method in among)
                if run.has_front(axis)
            ]
            sets = [
                [side for side in sides if not np.isnan(side).any(-1).all()]
                for sides in zip(*faces, strict=True)
            ]
            if sets and all(sets):
                result[seed, axis] = tuple(map(pareto.matched, sets))
    return result


def _endpoints(run, axes, corners, matches):
    result = {"reward": float(run.final[REWARD])}
    if GOLD in run.final:
        result["gold"] = float(run.final[GOLD])
    for name, value in run.final.items():
        number = isinstance(value, int | float) and "/" in name
        if number and not name.endswith(HALVES) and name not in (REWARD, GOLD):
            result[name] = float(run.values(name)[-1])
    for axis in axes:
        result[axis] = float(run.values(axis)[-1])
        if not run.has_front(axis):
            continue
        if axis in corners:
            result[f"hypervolume/{axis}"] = _hypervolume(run, axis, corners[axis])
        if (run.seed, axis) in matches:
            result |= _read_at(run, axis, matches[run.seed, axis], "gold" in result)
    return result


def _read_at(run, axis, places, gold):
    """The front of a run at the (drift, reward) of each half."""
    sides = list(zip(run.faces(axis), places, strict=True))
    near = [pareto.picks(face, drift) for face, (drift, _) in sides]
    good = [pareto.least_picks(face, reward) for face, (_, reward) in sides]
    read = {"reward_at": (near, REWARD), "drift_at": (good, axis)}
    if gold:
        read["gold_at"] = (near, GOLD)
    return {
        f"{name}/{axis}": float(pareto.crossed(*chosen, *run.sides(key)))
        for name, (chosen, key) in read.items()
    }


def _matched(found, axes, among):
    """{axis: where fronts were matched, over seeds, and among which methods}."""
    names = [m for m in methods(found) if among is None or m in among]
    places, result = _matches(found, axes, among), {}
    for axis in axes:
        of_seeds = [np.mean(p, axis=0) for (_, a), p in places.items() if a == axis]
        if of_seeds:
            drift, reward = zip(*of_seeds, strict=True)
            spreads = {"drift": spread(drift), "reward": spread(reward)}
            result[axis] = {"methods": names, **spreads}
    return result


def _attainment(found, axes, corners):
    """{axis: {"above_start": drifts, "methods": {method: a spread at each drift}}}.

    Best proxy reward within so much drift above the seed's own start, which in another
    world is another number.
    """
    result = {}
    for axis in (axis for axis in axes if axis in corners):
        origin = np.mean([run.values(axis)[0] for run in found])
        above = np.linspace(0.0, corners[axis][0] - origin, _STEPS + 1)
        curves = {}
        for method, seeds in methods(found).items():
            best = [r.picked(REWARD, axis, r.values(axis)[0] + above) for r in seeds]
            curves[method] = [spread(at) for at in zip(*best, strict=True)]
        result[axis] = {"above_start": above.tolist(), "methods": curves}
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
    for group in OF_A_FRONT:
        result[group] = {
            axis: spreads[f"{group}/{axis}"]
            for axis in axes
            if f"{group}/{axis}" in spreads
        }
    used = {"reward", "gold", *axes}
    result["other"] = {
        name: value
        for name, value in spreads.items()
        if name not in used and name.split("/")[0] not in OF_A_FRONT
    }
    result["per_seed"] = {
        name: {str(seed): value for seed, value in by_seed.items()}
        for name, by_seed in values.items()
    }
    return result
