"""The sections of report.md: those that every report has, and those one may add.

A `Section` is data that a report lists: a contrast table, a recovery, an experiment's
paragraphs. The functions below are the sections that every report has; they yield
paragraphs. `summary` is what `results.summarize` returns, `report` a `report.Report`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from rlhf_jax.evaluation import units
from rlhf_jax.reporting import markdown, samples

AFTER = ("results", "verdicts", "budget")  # where a section may be placed
_BUDGET = {
    "tokens": "tokens sampled",
    "gradient_steps": "gradient steps",
    "reward_calls": "reward-model calls",
    "wall_seconds": "wall seconds",
}


class Evidence(NamedTuple):
    """What a section may read."""

    records: list  # of metrics.jsonl
    rows: list  # of samples.jsonl
    summary: dict  # of `results.summarize`, sections before this one added
    findings: list  # of claims.Finding
    report: Any  # the `report.Report`


class Section(NamedTuple):
    """A part of a report: numbers for results.json, paragraphs for report.md."""

    key: str  # of results.json
    compute: Callable | None  # Evidence -> JSON-able or None; None: nothing is stored
    render: Callable  # (what was computed, Evidence) -> paragraphs
    after: str = "verdicts"  # one of AFTER


def overview(summary, report):
    """The results as (header, rows), π₀ first; accuracies in points."""
    first = next(iter(summary["methods"].values()), {"drift": {}})
    axes = [report.axis(key) for key in first["drift"]]
    gold = any("gold" in m for m in summary["methods"].values())
    header = ["method", "reward", *(["gold"] if gold else [])]
    header += [axis.title for axis in axes]
    body = []
    every = {"initial π₀": summary["initial"], **summary["methods"]}
    for method, m in every.items():
        row = [report.name(method), markdown.interval(m["reward"])]
        row += [markdown.interval(m.get("gold"))] if gold else []
        row += [markdown.interval(m["drift"][a.key], a.scale) for a in axes]
        body.append(row)
    return header, body


def outcome(summary, report):
    """Final policies, and the areas that their fronts cover."""
    yield "## Results"
    if report.final_policies:
        units = "; ".join(f"{a.title} in {a.unit}" for a in report.drifts if a.unit)
        yield f"Final policies; mean, {markdown.brackets(summary)}. {units}."
        yield markdown.table(*overview(summary, report))
    yield _diverged(summary, report)
    yield from _ends(summary, report) if report.final_policies else ()
    yield from _hypervolumes(summary, report)
    yield _checkpoints(summary, report)


def _ends(summary, report):
    """The last look of methods with resets, whose measure above is a mean."""
    cyclic = {k: m for k, m in summary["methods"].items() if m["end"]}
    if not cyclic:
        return
    names = markdown.join(report.name(name) for name in cyclic)
    yield (
        f"Of {names} these are means over the last full cycle between resets; at the "
        "end of the run, wherever in a cycle that is:"
    )
    columns = list(next(iter(cyclic.values()))["end"])
    parsed = [report.endpoint(f"end/{name}") for name in columns]
    yield markdown.table(
        ["method", *(endpoint.title for endpoint in parsed)],
        [
            [
                report.name(name),
                *(
                    markdown.interval(m["end"].get(column), endpoint.scale)
                    for column, endpoint in zip(columns, parsed, strict=True)
                ),
            ]
            for name, m in cyclic.items()
        ],
    )
    yield _after_reset(summary, report)


def areas(summary, report):
    """The hypervolumes as (header, rows), one column a drift axis."""
    axes = _of_areas(summary, report)
    body = [
        [
            report.name(method),
            *(markdown.interval(m["hypervolume"].get(a.key), a.scale) for a in axes),
        ]
        for method, m in summary["methods"].items()
        if m["hypervolume"]
    ]
    return ["method", *(axis.title for axis in axes)], body


def _of_areas(summary, report):
    found = [m["hypervolume"] or {} for m in summary["methods"].values()]
    return [a for a in report.drifts if any(a.key in each for each in found)]


def _hypervolumes(summary, report):
    """What fronts cover, one column an axis; nothing if none was read."""
    header, body = areas(summary, report)
    if not body:
        return
    yield "### Hypervolume (reward × drift, more is better)"
    yield markdown.table(header, body)
    axes = _of_areas(summary, report)
    corners = (f"{a.title} {a.corner * a.scale:g}" for a in axes)
    yield (
        "Reward gained within each drift since the start, integrated up to a corner "
        f"that the config fixes: {'; '.join(corners)}. Looks are picked by the proxy "
        "on one half of the prompts and read on the other, both ways; between two "
        "looks of a cycle by linear interpolation, never across a reset."
    )


def _diverged(summary, report):
    """The units that a run which is not finite makes void."""
    lost = {k: m["diverged"] for k, m in summary["methods"].items() if m["diverged"]}
    if not lost:
        return ""
    listed = (f"{report.name(k)} in {', '.join(units)}" for k, units in lost.items())
    return (
        "**Diverged**, and so void in every comparison (world/seed): "
        f"{'; '.join(listed)}."
    )


def _checkpoints(summary, report):
    """How many checkpoints fronts are made of: more of them make a better front."""
    counts = {}
    for name, method in summary["methods"].items():
        counts.setdefault(method["checkpoints"], []).append(report.name(name))
    if len(counts) == 1:
        return f"Every run was looked at {markdown.count(*counts, 'time')}."
    listed = "; ".join(f"{n}: {markdown.join(names)}" for n, names in counts.items())
    return (
        f"Looks at a run after the start, {listed}. Hypervolumes of unequally many "
        "looks are not compared."
    )


def _after_reset(summary, report):
    """The methods whose final policy is the one after a reset."""
    names = [
        f"{report.name(name)} (step {m['final']['step']})"
        for name, m in summary["methods"].items()
        if m["final"]["phase"] == "after_reset"
    ]
    if not names:
        return ""
    return (
        f"The last iteration ended with a reset, and the final policy is the one "
        f"after it: {markdown.join(names)}."
    )


def one_by_one(summary, report):
    """Every unit's final numbers, so that no mean hides one."""
    units, one = summary["units"], summary["worlds"] == 1
    heads = [f"seed {u.split('/')[1]}" if one else u for u in units]
    yield "## Seeds, one by one" if one else "## Units, one by one (world/seed)"
    shown = ["reward", "gold", *(axis.key for axis in report.drifts)]
    body = []
    for method, m in summary["methods"].items():
        for name in (n for n in shown if n in m["per_unit"]):
            values, endpoint = m["per_unit"][name], report.endpoint(name)
            numbers = [markdown.number(values.get(u), endpoint.scale) for u in units]
            body.append([report.name(method), endpoint.title, *numbers])
    yield markdown.table(["method", "final", *heads], body)


def budget(summary, report):
    """What each method cost."""
    spent = summary.get("budget") or {}
    known = [name for name in _BUDGET if any(name in b for b in spent.values())]
    if not known:
        return
    yield "## Budget"
    yield markdown.table(
        ["method", *(_BUDGET[name] for name in known)],
        [
            [report.name(m), *(markdown.integer(b.get(name)) for name in known)]
            for m, b in spent.items()
        ],
    )
    yield "Over all units; evaluations apart."
    free = [report.name(m) for m in summary["methods"] if m not in spent]
    if free:
        yield (
            f"{markdown.join(free)}: read off the runs of other methods, at the price "
            "of averaging weights, which samples nothing and is nearly free."
        )


def unselected(rows, report):
    """20 samples a method, picked at random from the last evaluation of its runs."""
    by_method, last = {}, {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
        last[row["method"], units.of(row)] = row["step"], row.get("phase")
    if by_method:
        yield "## Samples, unselected"
    for method, every in by_method.items():
        final = [
            row
            for row in every
            if last[method, units.of(row)] == (row["step"], row.get("phase"))
        ]
        yield f"### {report.name(method)}"
        picked = samples.unselected(final, 20)
        header = ["unit", "step", "prompt", "completion", "score"]
        yield markdown.table(header, [_sample(row) for row in picked])


def _sample(row):
    texts = samples.shorten(row["prompt"], 200), samples.shorten(row["completion"], 400)
    return [units.of(row), row["step"], *texts, markdown.number(row.get("score"))]


def provenance(summary, report):
    """Command, versions, digests and notes: what it takes to reproduce the run."""
    yield "## How it was made"
    if report.command:
        yield f"```\n{report.command}\n```"
    facts = dict(report.provenance)
    facts["units"] = markdown.units(summary)
    if summary["wall_seconds"]:
        facts["wall seconds"] = f"{summary['wall_seconds']:.0f}"
    yield "\n".join(f"- {name}: {value}" for name, value in facts.items())
    yield "\n".join(f"- {note}" for note in report.notes)
    yield (
        "Numbers hold for "
        f"{report.scope}. Curves and samples are of every unit; the data behind them "
        "is in `metrics.jsonl` and `results.json`."
    )
