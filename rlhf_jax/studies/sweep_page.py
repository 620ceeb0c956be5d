"""The page of a sweep: every trial, what was chosen, and what the trials reach.

A *trial* is a setting of one method, run on every calibration seed. It is judged by
the hypervolume of the proxy on half A of the prompts; gold selects nothing.
"""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np

from rlhf_jax.evaluation import pareto
from rlhf_jax.reporting import (
    canvas,
    markdown,
    plots,
    report,
    results,
    sections,
    wording,
)
from rlhf_jax.runtime import metrics_log
from rlhf_jax.studies import search

FIELDS = {
    "learning_rate": "learning rate",
    "kl_coef": "β",
    "weight": "w",
    "every": "interval",
    "decay": "decay",
    "strength": "penalty",
}


@dataclasses.dataclass(frozen=True)
class Tried:
    """A trial of a method after its run."""

    method: str
    number: int  # of the trial, from 0: the run's own flags
    values: search.Values
    records: list  # of metrics.jsonl, its own
    failure: str = ""  # why it did not end, "" where it did
    source: str | None = None  # whose run it was read off
    follows: bool = False  # that run, however it is set: nothing to choose


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a page says besides its trials."""

    title: str
    question: str
    axes: tuple[str, ...]
    axis: str  # whose hypervolume chooses
    corners: Mapping[str, tuple]
    seeds: tuple[int, ...]
    labels: Mapping[str, str]
    flags: Callable[[str, search.Values], str]  # how a method's setting is asked for
    again: str  # the command that uses what was chosen
    place: str = "this microworld and these models"
    command: str = ""
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def name(self, method):
        """The printed name of a method."""
        return canvas.method_name(method, self.labels)


def write(folder, tried, sweep, *, wall=None):
    """Writes front.png, results.json and report.md of a sweep; returns the results.

    tried: list of Tried, every method with as many.
    """
    rows = [row(trial, sweep) for trial in tried]
    best = chosen(rows)
    picked = [t for t in tried if best.get(t.method) == t.number]
    records = [r for trial in picked for r in trial.records]
    summary = results.summarize(
        records,
        axes=sweep.axes,
        corners=sweep.corners if records else {},
        wall_seconds=wall,
    )
    summary["chosen"] = {
        t.method: {
            "trial": t.number,
            "values": t.values.known(),
            "flags": sweep.flags(t.method, t.values),
        }
        for t in picked
        if not t.follows
    }
    summary["derived"] = {t.method: t.source for t in tried if t.source}
    summary["trials"] = rows
    summary["budget"] = spent(tried)
    metrics_log.write_json(folder / "results.json", summary)
    runs = {}
    for trial in tried:
        runs.setdefault(trial.method, []).append(results.runs(trial.records))
    note = f"{wording.count(len(sweep.seeds), 'calibration seed')}, mean; no test"
    plots.fronts(
        runs,
        sweep.axes,
        folder / "front.png",
        chosen=best,
        labels=sweep.labels,
        note=note,
    )
    metrics_log.write_text(folder / "report.md", render(summary, sweep))
    return summary


def row(trial, sweep):
    """What is told of a trial: its values, its validation, and what chose nothing."""
    found = {run.seed: run for run in results.runs(trial.records)}
    corner = sweep.corners[sweep.axis]
    told = {
        "method": trial.method,
        "trial": trial.number,
        "values": trial.values.known(),
        "source": trial.source,
        "failure": trial.failure,
    }
    lost = [seed for seed in sweep.seeds if seed not in found]
    if lost and not trial.failure:
        told["failure"] = f"no evaluation of seed {', '.join(map(str, lost))}"
    own = {str(s): validation(run, sweep.axis, corner) for s, run in found.items()}
    broken = [s for s, (half, _) in own.items() if not np.isfinite(half)]
    if broken and not told["failure"]:
        told["failure"] = f"not finite in seed {', '.join(broken)}"
    told["per_seed"] = {seed: half for seed, (half, _) in own.items()}
    failed = bool(told["failure"])
    told["validation"] = None if failed else _mean(half for half, _ in own.values())
    told["other_half"] = None if failed else _mean(other for _, other in own.values())
    table = results.endpoints(
        list(found.values()), axes=sweep.axes, corners=sweep.corners
    ).get(trial.method, {})
    names = ["reward", "gold", *sweep.axes]
    names += [f"hypervolume/{axis}" for axis in sweep.axes]
    told["final"] = {
        name: _mean(table[name].values()) for name in names if name in table
    }
    return told


def validation(run, axis, corner):
    """(hypervolume of the front on half A, of the same checkpoints on half B).

    The first is what a trial is chosen by, and too good, the more so the more trials
    there were; the second is what the checkpoints are worth.
    """
    one, other = run.faces(axis)
    if not np.isfinite(one).all():
        return float("nan"), float("nan")
    there = other[pareto.members(one)]
    return pareto.hypervolume(one, corner), pareto.hypervolume(there, corner)


def chosen(rows):
    """{method: number of its best trial, None where all failed}."""
    by_method = {}
    for told in rows:
        by_method.setdefault(told["method"], []).append(told)
    best = {}
    for method, own in by_method.items():
        index = search.choose([told["validation"] for told in own])
        best[method] = None if index is None else own[index]["trial"]
    return best


def spent(tried):
    """{method: what all its trials took}; nothing of what is read off other runs."""
    budget = {}
    for trial in tried:
        if trial.source:
            continue
        total = budget.setdefault(trial.method, {})
        own = report.spent(trial.records).get(trial.method, {})
        for name, value in own.items():
            total[name] = total.get(name, 0) + value
    return budget


def _mean(values):
    values = [v for v in values if np.isfinite(v)]
    return float(np.mean(values)) if values else None


def render(summary, sweep):
    """The text of report.md."""
    parts = [
        f"# {sweep.title}",
        f"**{answer(summary, sweep)}**",
        sweep.question,
        "![Front of fronts](front.png)",
        *_choice(summary, sweep),
        *_trials(summary, sweep),
        *sections.budget(summary, sweep),
        *_how(summary, sweep),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def answer(summary, sweep):
    """One sentence: the best of each method, and that it is no test."""
    best = {}
    for told in summary["trials"]:
        if told["validation"] is not None:
            before = best.get(told["method"], -np.inf)
            best[told["method"]] = max(before, told["validation"])
    if not best:
        return "Every trial failed"
    order = sorted(best, key=best.get, reverse=True)
    scale = wording.scale(f"hypervolume/{sweep.axis}")
    said = markdown.join(
        f"{sweep.name(m)} {markdown.number(best[m], scale)}" for m in order
    )
    count = wording.count(len(sweep.seeds), "calibration seed")
    return (
        f"On {sweep.place}, over {count} and so without a test, the best trials reach "
        f"a validation hypervolume ({canvas.label(sweep.axis)[0]}) of: {said}."
    )


def _choice(summary, sweep):
    """What was chosen, and how to run with it."""
    rows = []
    for method, found in summary["chosen"].items():
        own = [t for t in summary["trials"] if t["method"] == method]
        told = next(t for t in own if t["trial"] == found["trial"])
        edges = _edges(own, told)
        rows.append(
            [sweep.name(method), *_numbers(told, summary, sweep), _value(own[0], sweep)]
            + [f"`{found['flags']}`", edges]
        )
    yield "## What was chosen"
    header = ["method", "trial", *_fields(summary).values(), "chosen by", "other half"]
    header += ["flags' own setting", "as flags", "at the edge of what was tried"]
    yield markdown.table(header, rows)
    failed = [m for m in _methods(summary) if _all_failed(summary, m)]
    if failed:
        names = markdown.join(map(sweep.name, failed))
        yield f"**Every trial failed** of {names}: nothing was chosen."
    yield (
        "Chosen by the mean over calibration seeds of the hypervolume of the proxy on "
        f"half A of the prompts, {canvas.label(sweep.axis)[0]} against reward. The "
        "largest of several is too large: beside it the same checkpoints on the other "
        "half. Nothing here is a result: run the choice on fresh seeds and test "
        f"prompts, with this sweep's flags of the task:\n\n```\n{sweep.again}\n```"
    )
    if summary["derived"]:
        said = "; ".join(
            f"{sweep.name(method)}, of {sweep.name(source)}"
            for method, source in summary["derived"].items()
        )
        yield (
            f"Read off the trials of another method: {said}. Where what was chosen for "
            "one is not what was chosen for its source, --tuned gives it a run of its "
            "own; an early stop stays with its source."
        )


def _all_failed(summary, method):
    own = [t for t in summary["trials"] if t["method"] == method]
    return all(t["validation"] is None for t in own)


def _methods(summary):
    return list(dict.fromkeys(told["method"] for told in summary["trials"]))


def _edges(own, told):
    """The fields whose chosen value is the least or the largest that was tried."""
    found = []
    for field, value in told["values"].items():
        values = {t["values"][field] for t in own}
        if len(values) > 1 and value in (min(values), max(values)):
            found.append(FIELDS[field])
    return ", ".join(found)


def _trials(summary, sweep):
    """Every trial, failures too."""
    yield "## All trials"
    header = ["method", "trial", *_fields(summary).values(), "chosen by", "other half"]
    others = ["reward", "gold", *(f"hypervolume/{axis}" for axis in sweep.axes)]
    others = [n for n in others if any(n in t["final"] for t in summary["trials"])]
    body = []
    for told in summary["trials"]:
        best = summary["chosen"].get(told["method"], {}).get("trial")
        mark = "**" * (best == told["trial"])
        finals = [
            markdown.number(told["final"].get(name), wording.scale(name))
            for name in others
        ]
        name = f"{mark}{sweep.name(told['method'])}{mark}"
        body.append([name, *_numbers(told, summary, sweep), *finals, told["failure"]])
    names = ["final reward", "final gold"][: sum("/" not in n for n in others)]
    names += [wording.endpoint(n) for n in others if "/" in n]
    yield markdown.table([*header, *names, "failure"], body)
    yield (
        "Means over calibration seeds; in bold what was chosen. Trial 0 is the run as "
        "its flags have it. Final values and other hypervolumes chose nothing."
    )


def _how(summary, sweep):
    """What it takes to do it again."""
    yield "## How it was made"
    if sweep.command:
        yield f"```\n{sweep.command}\n```"
    facts = dict(sweep.provenance)
    facts["calibration seeds"] = ", ".join(map(str, sweep.seeds))
    if summary["wall_seconds"]:
        facts["wall seconds"] = f"{summary['wall_seconds']:.0f}"
    drift, reward = sweep.corners[sweep.axis]
    facts["corner that chooses"] = f"drift {drift:.6g}, reward {reward:.6g}"
    yield "\n".join(f"- {name}: {value}" for name, value in facts.items())
    yield "\n".join(f"- {note}" for note in sweep.notes)
    yield "The data of a trial is in `trials/<method>-<trial>/metrics.jsonl`."


def _fields(summary):
    """Those FIELDS that any trial has, and their names."""
    used = {field for told in summary["trials"] for field in told["values"]}
    return {field: name for field, name in FIELDS.items() if field in used}


def _numbers(told, summary, sweep):
    """Trial, values and validation as cells."""
    values = [
        "–" if told["values"].get(field) is None else f"{told['values'][field]:.3g}"
        for field in _fields(summary)
    ]
    scale = wording.scale(f"hypervolume/{sweep.axis}")
    other = markdown.number(told["other_half"], scale)
    return [told["trial"], *values, _value(told, sweep), other]


def _value(told, sweep):
    scale = wording.scale(f"hypervolume/{sweep.axis}")
    return "failed" if told["failure"] else markdown.number(told["validation"], scale)
