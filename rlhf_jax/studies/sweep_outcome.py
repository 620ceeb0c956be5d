"""What a trial of a sweep reached, and what a search compares.

The hypervolume of the proxy reward against one drift axis, of every unit.
"""

import math

from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation import units
from rlhf_jax.evaluation.axes import REWARD
from rlhf_jax.reporting import endpoints, evaluations


def reached(records, method, asked, axes, axis):
    """{unit: hypervolume of the proxy}, as trial.json has it.

    None where a unit was not evaluated or diverged. Args: records: of metrics.jsonl;
    asked: the units of the trial; axis: key of the drift axis.
    """
    runs = [run for run in evaluations.runs(records) if run.method == method]
    drift = axes_.find(axis, axes)
    table = endpoints.table(runs, axes=axes).get(method, {})
    areas = {
        **table.get(f"hypervolume/{axis}", {}),
        **{run.unit: _of_one_look(run, drift) for run in runs if run.looks == 1},
    }
    found = {unit: areas.get(unit, math.nan) for unit in asked}
    return {str(u): area if math.isfinite(area) else None for u, area in found.items()}


def _of_one_look(run, drift):
    """The hypervolume of a run of one look, a rectangle: gain × room to the corner.

    An early stop was picked on half A, so half B alone reports.
    """
    if not run.has_front(drift) or run.diverged((REWARD, drift)):
        return math.nan
    gain, moved = (run.gains(axis)[1][-1] for axis in (REWARD, drift))
    return float(max(gain, 0.0) * max(drift.corner - max(moved, 0.0), 0.0))


def outcome(found):
    """What a search compares: the means of worlds, or of one world the seeds' values.

    () where a unit failed. found: as `reached` has it.
    """
    if None in found.values():
        return ()
    by_unit = {units.parse(text): value for text, value in found.items()}
    worlds = units.worlds(by_unit)
    return tuple((worlds if len(worlds) > 1 else by_unit).values())
