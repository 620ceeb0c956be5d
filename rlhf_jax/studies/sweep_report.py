"""The report of a sweep: every trial, what was chosen, and what the trials reach.

A *trial* is a setting of one method, run on every calibration seed. It is judged by
the hypervolume of the proxy on half A of the prompts; gold chooses nothing.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation import fronts
from rlhf_jax.evaluation.axes import Axis
from rlhf_jax.reporting import (
    endpoints,
    evaluations,
    figure_style,
    markdown,
    plots,
    results,
)
from rlhf_jax.reporting import report as reports
from rlhf_jax.runtime import files
from rlhf_jax.studies import search, sweep_sections
from rlhf_jax.studies.values import Values


@dataclasses.dataclass(frozen=True)
class Result:
    """A trial of a method after its run."""

    method: str
    number: int  # of the trial, from 0: the run's own flags
    values: Values
    records: list  # of metrics.jsonl, its own
    failure: str = ""  # why it did not end, "" if it did
    source: str | None = None  # whose run it is derived from
    at_end: bool = False  # from its end alone: it stays with that run


@dataclasses.dataclass(frozen=True)
class Report:
    """What the report says besides its trials."""

    title: str
    question: str
    axes: tuple[Axis, ...]
    axis: str  # key of the drift axis whose hypervolume chooses
    seeds: tuple[int, ...]
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


def write(folder, trials, report, *, wall=None):
    """Writes front.png, results.json and report.md of a sweep; returns the results.

    Args: trials: list of Result, as many for every method; report: `Report`; wall:
    seconds that the sweep took.
    """
    rows = [row(trial, report) for trial in trials]
    best = chosen(rows)
    winners = [t for t in trials if best.get(t.method) == t.number]
    records = [record for trial in winners for record in trial.records]
    summary = results.summarize(
        records,
        axes=report.axes,
        wall_seconds=wall,
    )
    summary["chosen"] = {
        trial.method: {
            "trial": trial.number,
            "values": trial.values.known(),
            "flags": report.flags(trial.method, trial.values),
        }
        for trial in winners
        if not trial.at_end
    }
    summary["derived"] = {t.method: t.source for t in trials if t.source}
    summary["trials"] = rows
    summary["budget"] = spent(trials)
    files.write_json(folder / "results.json", summary)
    draw(folder / "front.png", trials, best, report)
    files.write(folder / "report.md", sweep_sections.render(summary, report))
    return summary


def draw(path, trials, best, report):
    """Draws the front of each method's trials together, and of the chosen one."""
    runs = {}
    for trial in trials:
        runs.setdefault(trial.method, []).append(evaluations.runs(trial.records))
    count = markdown.count(len(report.seeds), "calibration seed")
    rewards = (axes_.REWARD, axes_.GOLD)
    plots.fronts(
        runs,
        axes_.drifts(report.axes),
        path,
        chosen=best,
        rewards=tuple(axes_.find(axis.key, report.axes) for axis in rewards),
        labels=report.labels,
        note=f"{count}, mean; no test",
    )


def row(trial, report):
    """What results.json says of a trial: its values, what it was judged by, and final
    values that chose nothing."""
    runs = {run.unit.seed: run for run in evaluations.runs(trial.records)}
    axis = report.chooses.axis
    halves = {str(s): validation(run, axis) for s, run in runs.items()}
    failure = trial.failure or _missing(report.seeds, runs) or _not_finite(halves)
    first, second = zip(*halves.values(), strict=True) if halves else ((), ())
    return {
        "method": trial.method,
        "trial": trial.number,
        "values": trial.values.known(),
        "source": trial.source,
        "failure": failure,
        "per_seed": {seed: half for seed, (half, _) in halves.items()},
        "validation": None if failure else _mean(first),
        "other_half": None if failure else _mean(second),
        "final": _final(trial, list(runs.values()), report),
    }


def _missing(seeds, runs):
    """Why a trial failed that lacks seeds; "" if it lacks none."""
    missing = [str(seed) for seed in seeds if seed not in runs]
    return f"no evaluation of seed {', '.join(missing)}" if missing else ""


def _not_finite(halves):
    """Why a trial failed that is not finite; "" if it is."""
    broken = [seed for seed, (half, _) in halves.items() if not np.isfinite(half)]
    return f"not finite in seed {', '.join(broken)}" if broken else ""


def _final(trial, runs, report):
    """{endpoint: its mean over seeds}."""
    table = endpoints.table(runs, axes=report.axes)
    values = table.get(trial.method, {})
    keys = [axis.key for axis in axes_.drifts(report.axes)]
    names = ["reward", "gold", *keys, *(f"hypervolume/{key}" for key in keys)]
    return {name: _mean(values[name].values()) for name in names if name in values}


def validation(run, axis):
    """The split-half hypervolume of a run, twice."""
    if not run.has_front(axis) or run.diverged((axes_.REWARD, axis)):
        return float("nan"), float("nan")
    area = fronts.hypervolume(run.paths(axis), axis.corner)
    return area, area


def chosen(rows):
    """{method: number of its best trial, None if all failed}."""
    by_method = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    best = {}
    for method, same in by_method.items():
        index = search.choose([row["validation"] for row in same])
        best[method] = None if index is None else same[index]["trial"]
    return best


def spent(trials):
    """{method: what all its trials took}; a derived method takes nothing."""
    budget = {}
    for trial in trials:
        if trial.source:
            continue
        total = budget.setdefault(trial.method, {})
        took = reports.spent(trial.records).get(trial.method, {})
        for name, value in took.items():
            total[name] = total.get(name, 0) + value
    return budget


def _mean(values):
    values = [v for v in values if np.isfinite(v)]
    return float(np.mean(values)) if values else None
