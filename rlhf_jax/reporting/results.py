"""Records of metrics.jsonl to results.json: estimates over seeds, method by method."""

import numpy as np

from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation import statistics
from rlhf_jax.evaluation.axes import GOLD, REWARD
from rlhf_jax.reporting import endpoints, evaluations

_STEPS = 12  # of an attainment curve, from the start to the corner


def summarize(records, *, axes, corners=None, among=None, wall_seconds=None):
    """The content of results.json.

    Intervals are 95% t-intervals over seeds from 8 seeds on ("interval": "t95"), else
    the smallest and the largest seed ("range"), which is no interval.

    Args:
      axes: sequence of Axis; those with a corner are drift axes, of which a front is
        never judged on one alone.
      corners: {key: (drift, reward)}, the worst corner of each hypervolume.
      among: methods that decide where fronts are matched; see `endpoints.table`.
    """
    runs, corners = evaluations.runs(records), corners or {}
    drifts = axes_.drifts(axes)
    table = endpoints.table(runs, axes=axes, corners=corners, among=among)
    seeds = {run.seed for run in runs}
    summary = {name: _nested(values, drifts) for name, values in table.items()}
    for run in runs:
        summary[run.method]["final"] = {
            "step": run.final["step"],
            "phase": run.final.get("eval/phase", "final"),
        }
        summary[run.method]["checkpoints"] = len(run.rows) - 1
    return {
        "methods": summary,
        "initial": _initial(runs, drifts),
        "matched": _matched(runs, drifts, among),
        "attainment": _attainment(runs, drifts, corners),
        "seeds": len(seeds),
        "interval": "t95" if len(seeds) >= statistics.MIN_SEEDS else "range",
        "corners": {key: list(corner) for key, corner in corners.items()},
        "wall_seconds": wall_seconds,
    }


def estimate(values):
    """{"mean", "low", "high"} of one number a seed.

    Seeds that are not finite are left out and counted under "missing", because whoever
    reads the mean must see that a run diverged.
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


def _initial(runs, drifts):
    """The initial weights in the format of a method, each seed once."""
    first = list({run.seed: run for run in reversed(runs)}.values())
    result = {"reward": estimate([run.start[REWARD.key] for run in first])}
    if any(GOLD.key in run.start for run in first):
        result["gold"] = estimate([r.start.get(GOLD.key, np.nan) for r in first])
    result["drift"] = {
        axis.key: estimate([run.values(axis)[0] for run in first]) for axis in drifts
    }
    return result


def _matched(runs, drifts, among):
    """{key: where fronts were matched, over seeds, and among which methods}."""
    names = [m for m in evaluations.by_method(runs) if among is None or m in among]
    matches, result = endpoints.matched(runs, drifts, among), {}
    for axis in drifts:
        of_seeds = [np.mean(m, 0) for (_, key), m in matches.items() if key == axis.key]
        if of_seeds:
            drift, reward = zip(*of_seeds, strict=True)
            matched = {"drift": estimate(drift), "reward": estimate(reward)}
            result[axis.key] = {"methods": names, **matched}
    return result


def _attainment(runs, drifts, corners):
    """{key: {"above_start": drifts, "methods": {method: an estimate at each drift}}}.

    The best proxy reward within each drift above the start of the same seed.
    """
    result = {}
    for axis in (axis for axis in drifts if axis.key in corners):
        origin = np.mean([run.values(axis)[0] for run in runs])
        above = np.linspace(0.0, corners[axis.key][0] - origin, _STEPS + 1)
        curves = {}
        for method, seeds in evaluations.by_method(runs).items():
            best = [r.picked(REWARD, axis, r.values(axis)[0] + above) for r in seeds]
            curves[method] = [estimate(at) for at in zip(*best, strict=True)]
        result[axis.key] = {"above_start": above.tolist(), "methods": curves}
    return result


def _nested(values, drifts):
    """One method of `endpoints.table` in the format of results.json."""
    estimates = {name: estimate(by_seed.values()) for name, by_seed in values.items()}
    result = {"reward": estimates["reward"]}
    if "gold" in estimates:
        result["gold"] = estimates["gold"]
    result["drift"] = {axis.key: estimates[axis.key] for axis in drifts}
    used = {"reward", "gold", *result["drift"]}
    for group in endpoints.OF_A_FRONT:
        names = {axis.key: f"{group}/{axis.key}" for axis in drifts}
        used |= set(names.values())
        result[group] = {k: estimates[n] for k, n in names.items() if n in estimates}
    result["other"] = {n: value for n, value in estimates.items() if n not in used}
    result["per_seed"] = {
        name: {str(seed): value for seed, value in by_seed.items()}
        for name, by_seed in values.items()
    }
    return result
