"""Records of metrics.jsonl to results.json: estimates over worlds, method by method."""

import numpy as np

from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation import statistics, units
from rlhf_jax.evaluation.axes import GOLD, REWARD
from rlhf_jax.reporting import endpoints, evaluations


def summarize(records, *, axes, wall_seconds=None):
    """The content of results.json.

    Intervals are 95% t-intervals over worlds from 8 worlds on ("interval": "t95"), else
    the smallest and the largest ("range"), of seeds where there is one world.

    Args: axes: sequence of Axis; those with a corner are drift axes, of which a front
    is never judged on one alone.
    """
    runs, drifts = evaluations.runs(records), axes_.drifts(axes)
    seen = {run.unit for run in runs}
    worlds = {unit.world for unit in seen}
    summary = {
        name: _nested(values, drifts)
        for name, values in endpoints.table(runs, axes=axes).items()
    }
    for method, group in evaluations.by_method(runs).items():
        last = group[-1].rows[-1]
        summary[method]["final"] = {
            "step": last["step"],
            "phase": last.get("eval/phase", "final"),
            "cycles": int(group[-1].cycle[-1]),
        }
        summary[method]["checkpoints"] = max(run.looks for run in group)
        summary[method]["diverged"] = [
            str(run.unit) for run in group if run.diverged((REWARD, GOLD, *drifts))
        ]
    return {
        "methods": summary,
        "initial": _initial(runs, drifts),
        "worlds": len(worlds),
        "seeds": len({unit.seed for unit in seen}),
        "units": [str(unit) for unit in sorted(seen)],
        "interval": "t95" if len(worlds) >= statistics.MIN_WORLDS else "range",
        "corners": {axis.key: axis.corner for axis in drifts},
        "wall_seconds": wall_seconds,
    }


def estimate(by_unit):
    """{"mean", "low", "high"} of {unit: number}, seeds averaged within worlds.

    Units that are not finite are left out and counted under "missing", because whoever
    reads the mean must see that a run diverged.
    """
    kept = {unit: value for unit, value in by_unit.items() if np.isfinite(value)}
    values = list(units.worlds(kept).values())
    if len(values) == 1:  # one world: its seeds
        values = list(kept.values())
        result = {"mean": np.mean(values), "low": min(values), "high": max(values)}
    elif len(values) >= statistics.MIN_WORLDS:
        result = dict(statistics.t_interval(values)._asdict())
    elif values:
        result = {"mean": np.mean(values), "low": min(values), "high": max(values)}
    else:
        result = {"mean": None, "low": None, "high": None}
    missing = len(by_unit) - len(kept)
    return {**result, "missing": missing} if missing else result


def _initial(runs, drifts):
    """The initial weights in the format of a method, each unit once."""
    first = {run.unit: run for run in reversed(runs)}
    known = {"reward": REWARD}
    if any(run.has(GOLD) for run in runs):
        known["gold"] = GOLD
    at_start = {
        name: estimate({unit: run.values(axis)[0] for unit, run in first.items()})
        for name, axis in (known | {axis.key: axis for axis in drifts}).items()
    }
    drift = {axis.key: at_start.pop(axis.key) for axis in drifts}
    return {**at_start, "drift": drift}


def _nested(values, drifts):
    """One method of `endpoints.table` in the format of results.json."""
    estimates = {name: estimate(by_unit) for name, by_unit in values.items()}
    keys = [axis.key for axis in drifts]
    result = {name: estimates[name] for name in ("reward", "gold") if name in estimates}
    result["drift"] = {key: estimates[key] for key in keys}
    used = {"reward", "gold", *keys}
    for group in ("hypervolume", "end"):
        named = {n: n.partition("/")[2] for n in estimates if n.startswith(f"{group}/")}
        used |= set(named)
        result[group] = {short: estimates[name] for name, short in named.items()}
    result["other"] = {n: value for n, value in estimates.items() if n not in used}
    result["per_unit"] = {
        name: {str(unit): value for unit, value in by_unit.items()}
        for name, by_unit in values.items()
    }
    return result
