"""The report of a sweep: every trial, what was chosen and why, what it cost.

A trial is judged by the hypervolume of the proxy, on validation prompts of calibration
units; gold chooses nothing.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation import units
from rlhf_jax.evaluation.axes import Axis
from rlhf_jax.reporting import endpoints, figure_style, markdown, plots, results
from rlhf_jax.reporting import report as reports
from rlhf_jax.runtime import files
from rlhf_jax.studies import coordinate_search, sweep_sections
from rlhf_jax.studies.coordinate_search import Path
from rlhf_jax.studies.values import Values


@dataclasses.dataclass(frozen=True)
class Result:
    """What a method reached in a trial: in its own, or in one of the run that it is
    read off."""

    method: str
    number: int  # of those compared for this method, from 1
    trial: str  # its folder
    values: Values
    reached: Mapping[str, float | None]  # {unit: hypervolume}; None: it failed there
    outcome: tuple[float, ...]  # what is compared, () if it failed
    records: Sequence[dict]  # of metrics.jsonl, the method's own
    runs: Sequence  # of evaluations.Run
    cost: Mapping[str, float]  # tokens and the like, if no method before it paid them
    failure: str = ""  # why it did not end, "" if it did


@dataclasses.dataclass(frozen=True)
class Searched:
    """The search of a method, and what it compared."""

    path: Path
    results: tuple[Result, ...]  # in the order of the search
    trained: Values | None  # what --tuned takes of the choice; None: every trial failed
    source: str | None = None  # whose run it is read off


@dataclasses.dataclass(frozen=True)
class Report:
    """What the report says besides its trials."""

    title: str
    question: str
    axes: tuple[Axis, ...]
    axis: str  # key of the drift axis whose hypervolume chooses
    units: tuple[units.Unit, ...]  # for calibration
    labels: Mapping[str, str]
    flags: Callable[[str, Values], str]  # how a method's setting is asked for
    again: str  # the command that uses what was chosen
    scope: str  # what the numbers hold for
    command: str = ""
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def name(self, method):
        """The printed name of a method."""
        return figure_style.method_name(method, self.labels)

    def endpoint(self, name):
        """The `endpoints.Endpoint` of a name."""
        return endpoints.parse(name, self.axes)

    @property
    def chooses(self):
        """The endpoint that chooses."""
        return self.endpoint(f"hypervolume/{self.axis}")

    @property
    def sample(self):
        """What a trial is run on, in words."""
        worlds, seeds = ({unit[i] for unit in self.units} for i in (0, 1))
        if len(worlds) == 1:
            return markdown.count(len(seeds), "calibration seed")
        return (
            f"{len(worlds)} calibration worlds × {markdown.count(len(seeds), 'seed')}"
        )


def write(folder, searched, report, *, wall=None):
    """Writes front.png, results.json and report.md of a sweep; returns the results.

    Args: searched: {method: `Searched`}; report: `Report`; wall: seconds that this
    process took.
    """
    every = [result for one in searched.values() for result in one.results]
    winners = {method: _winner(one) for method, one in searched.items()}
    records = [record for won in winners.values() if won for record in won.records]
    summary = results.summarize(records, axes=report.axes, wall_seconds=wall)
    summary["chosen"] = {
        method: {
            "trial": won.number,
            "values": searched[method].trained.known(),
            "flags": report.flags(method, searched[method].trained),
        }
        for method, won in winners.items()
        if won
    }
    summary["derived"] = {m: one.source for m, one in searched.items() if one.source}
    summary["search"] = {m: lines(one) for m, one in searched.items()}
    summary["trials"] = [row(result, report) for result in every]
    summary["budget"] = {m: spent(one.results) for m, one in searched.items()}
    files.write_json(folder / "results.json", summary)
    draw(folder / "front.png", searched, winners, report)
    files.write(folder / "report.md", sweep_sections.render(summary, report))
    return summary


def _winner(searched):
    """The `Result` that was chosen, None if every trial failed."""
    chosen = searched.path.chosen
    return next((one for one in searched.results if one.values == chosen), None)


def draw(path, searched, winners, report):
    """Draws the front of each method's trials together, and of the chosen one."""
    plots.fronts(
        {m: [result.runs for result in one.results] for m, one in searched.items()},
        axes_.drifts(report.axes),
        path,
        chosen={m: won.number - 1 if won else None for m, won in winners.items()},
        rewards=tuple(
            axes_.find(axis.key, report.axes) for axis in (axes_.REWARD, axes_.GOLD)
        ),
        labels=report.labels,
        note=f"{report.sample}, mean; no test",
    )


def lines(searched):
    """The search of a method as results.json has it, line by line."""
    numbers = {result.values: result for result in searched.results}
    return [
        {
            "field": step.field,
            "tried": [
                {
                    "value": getattr(setting, step.field),
                    "trial": numbers[setting].number,
                    **compared(numbers[setting].outcome),
                }
                for setting in step.settings
            ],
            "chosen": getattr(step.chosen, step.field, None),
            "extensions": [one._asdict() for one in step.extensions],
        }
        for step in searched.path.steps
    ]


def compared(outcome):
    """{"mean", "error"} of an outcome, None each where the trial failed."""
    if not outcome:
        return {"mean": None, "error": None}
    mean, error = coordinate_search.mean_and_error(outcome)
    return {"mean": mean, "error": error}


def row(result, report):
    """What results.json says of a trial: its values, what it was judged by, and final
    values that chose nothing."""
    return {
        "method": result.method,
        "trial": result.number,
        "folder": result.trial,
        "values": result.values.known(),
        "failure": result.failure or _missing(result.reached),
        "per_unit": dict(result.reached),
        **compared(result.outcome),
        "final": _final(result, report),
    }


def _missing(reached):
    """Why a trial failed that ended; "" if it did not fail."""
    missing = [unit for unit, value in reached.items() if value is None]
    return f"not finite on {', '.join(missing)}" if missing else ""


def _final(result, report):
    """{endpoint: its mean over units}."""
    table = endpoints.table(result.runs, axes=report.axes)
    values = table.get(result.method, {})
    keys = [axis.key for axis in axes_.drifts(report.axes)]
    names = ["reward", "gold", *keys, *(f"hypervolume/{key}" for key in keys)]
    return {name: _mean(values[name].values()) for name in names if name in values}


def spent(compared):
    """What the search of a method took: settings compared, trials that no method before
    it had asked for, and their tokens, updates, reward calls and seconds."""
    paid = [result for result in compared if result.cost]
    total = {"settings": len(compared), "trials": len(paid)}
    for result in paid:
        for name, value in result.cost.items():
            total[name] = total.get(name, 0) + value
    return total


def cost(records, method):
    """What a trial of a trained method took, by its records: {"tokens", ...}."""
    return reports.spent(records).get(method, {})


def _mean(values):
    values = [v for v in values if np.isfinite(v)]
    return float(np.mean(values)) if values else None
