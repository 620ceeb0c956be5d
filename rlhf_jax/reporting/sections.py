"""The sections of report.md: those that every report has, and those one may add.

A `Section` is data that a report lists: a contrast table, a recovery, an experiment's
paragraphs. The functions below are the sections that every report has; they yield
paragraphs. `summary` is what `results.summarize` returns, `report` a `report.Report`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

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


def disagreement(summary, report):
    """Which method leads on each axis, and whether that is the same one."""
    leaders = _leaders(summary, report)
    if not leaders:
        return "No front could be read."
    lines = [
        f"- {axis.title}: {report.name(method)} ({how})"
        for axis, method, how in leaders
    ]
    if len({method for _, method, _ in leaders}) == 1:
        end = "All axes name the same method; that is a ranking of means, not a test."
    else:
        end = "**The axes disagree**: a claim holds for the axis it names, and no more."
    return "\n".join(lines) + "\n\n" + end


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
    header, body = overview(summary, report)
    yield "## Results"
    units = "; ".join(f"{a.title} in {a.unit}" for a in report.drifts if a.unit)
    yield f"Final policies; mean over seeds, {markdown.brackets(summary)}. {units}."
    yield markdown.table(header, body)
    yield _after_reset(summary, report)
    title = "Hypervolume (reward × drift, more is better)"
    yield from _along(title, "hypervolume", summary, report)
    if summary["corners"]:
        corners = "; ".join(
            f"{axis.title} {drift * axis.scale:g}, reward {reward:g}"
            for axis, (drift, reward) in _by_axis(summary["corners"], report)
        )
        yield f"Corners of the hypervolumes, fixed in the config: {corners}."
    yield _checkpoints(summary, report)


def matched(summary, report):
    """The fronts read at the same drift, and at the same reward."""
    matches = _by_axis(summary["matched"], report)
    if not matches:
        return
    yield "## At matched drift, and at matched reward"
    names = markdown.join(report.name(m) for m in matches[0][1]["methods"])
    yield (
        f"Matched, seed by seed, at what {names} all reach: the least of the drifts at "
        "which they have their best proxy reward, and the least of these rewards. "
        "Checkpoints are chosen by the proxy on one half of the prompts and read on "
        "the other, both ways, and averaged; nothing is interpolated."
    )
    drifts = (markdown.interval(m["drift"], axis.scale) for axis, m in matches)
    rewards = (markdown.interval(m["reward"]) for _, m in matches)
    yield markdown.table(
        ["matched at", *(axis.title for axis, _ in matches)],
        [["drift", *drifts], ["reward", *rewards]],
    )
    for group, title in (
        ("reward_at", "Best reward at the matched drift"),
        ("gold_at", "Gold of the checkpoint that the proxy picks there"),
        ("drift_at", "Least drift at the matched reward"),
    ):
        yield from _along(title, group, summary, report)


def _by_axis(by_key, report):
    """[(Axis, value)] of a {key: value}."""
    return [(report.axis(key), value) for key, value in by_key.items()]


def _along(title, group, summary, report):
    """A group of endpoints as a table, one column per axis; nothing if none has it."""
    methods = {k: m[group] for k, m in summary["methods"].items() if m[group]}
    if not methods:
        return
    axes = [a for a in report.drifts if any(a.key in m for m in methods.values())]
    parsed = {a.key: report.endpoint(f"{group}/{a.key}") for a in axes}
    yield f"### {title}"
    yield markdown.table(
        ["method", *(axis.title for axis in axes)],
        [
            [
                report.name(method),
                *(
                    markdown.interval(values.get(key), e.scale, absent=e.absent)
                    for key, e in parsed.items()
                ),
            ]
            for method, values in methods.items()
        ],
    )


def _checkpoints(summary, report):
    """How many checkpoints fronts are made of: more of them make a better front."""
    counts = {}
    for name, method in summary["methods"].items():
        counts.setdefault(method["checkpoints"], []).append(report.name(name))
    if len(counts) == 1:
        return f"Fronts of {markdown.count(*counts, 'checkpoint')} a method and seed."
    listed = "; ".join(f"{n}: {markdown.join(names)}" for n, names in counts.items())
    return (
        f"Checkpoints a seed after the start, {listed}. Fronts are optimistic, the "
        "more so the more checkpoints they are made of."
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


def seeds_one_by_one(summary, report):
    """Every seed's final numbers, so that no mean hides one."""
    yield "## Seeds, one by one"
    seeds = sorted(
        {int(s) for m in summary["methods"].values() for s in m["per_seed"]["reward"]}
    )
    shown = ["reward", "gold", *(axis.key for axis in report.drifts)]
    parsed = {name: report.endpoint(name) for name in shown}
    body = []
    for method, m in summary["methods"].items():
        for name in (n for n in shown if n in m["per_seed"]):
            values, endpoint = m["per_seed"][name], parsed[name]
            numbers = [
                markdown.number(values.get(str(s)), endpoint.scale) for s in seeds
            ]
            body.append([report.name(method), endpoint.title, *numbers])
    yield markdown.table(["method", "final", *(f"seed {s}" for s in seeds)], body)


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
    yield "Over all seeds; evaluations apart."
    free = [report.name(m) for m in summary["methods"] if m not in spent]
    if free:
        yield (
            f"{markdown.join(free)}: read off the runs of other methods, at the price "
            "of averaging weights, which samples nothing and is nearly free."
        )


def unselected(rows, report):
    """20 samples per method, picked at random from the last evaluation of its seeds."""
    by_method, last = {}, {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
        last[row["method"], row["seed"]] = row["step"], row.get("phase")
    if by_method:
        yield "## Samples, unselected"
    for method, every in by_method.items():
        final = [
            row
            for row in every
            if last[method, row["seed"]] == (row["step"], row.get("phase"))
        ]
        yield f"### {report.name(method)}"
        picked = samples.unselected(final, 20)
        header = ["seed", "step", "prompt", "completion", "score"]
        yield markdown.table(header, [_sample(row) for row in picked])


def _sample(row):
    texts = samples.shorten(row["prompt"], 200), samples.shorten(row["completion"], 400)
    return [row["seed"], row["step"], *texts, markdown.number(row.get("score"))]


def provenance(summary, report):
    """Command, versions, digests and notes: what it takes to reproduce the run."""
    yield "## How it was made"
    if report.command:
        yield f"```\n{report.command}\n```"
    facts = dict(report.provenance)
    facts["seeds"] = str(summary["seeds"])
    if summary["wall_seconds"]:
        facts["wall seconds"] = f"{summary['wall_seconds']:.0f}"
    yield "\n".join(f"- {name}: {value}" for name, value in facts.items())
    yield "\n".join(f"- {note}" for note in report.notes)
    yield (
        "Numbers hold for "
        f"{report.scope}. Curves and samples are of every seed; the data behind them "
        "is in `metrics.jsonl` and `results.json`."
    )


def headline(summary, report):
    """Who leads on which axis, in half a sentence."""
    parts = {}
    for axis, method, _ in _leaders(summary, report):
        parts.setdefault(report.name(method), []).append(axis.title)
    listed = ", ".join(
        f"{name} leads in the mean on {markdown.join(titles)}"
        for name, titles in parts.items()
    )
    if not listed:
        return "no front could be read"
    return listed + (", so the axes disagree" if len(parts) > 1 else ", on every axis")


def _leaders(summary, report):
    """[(drift axis, method with the largest mean, by what)]."""
    result = []
    for axis in report.drifts:
        for group, how in (
            ("hypervolume", "hypervolume"),
            ("reward_at", "reward at matched drift"),
        ):
            means = {
                method: m[group][axis.key]["mean"]
                for method, m in summary["methods"].items()
                if m[group].get(axis.key, {}).get("mean") is not None
            }
            if means:
                best = max(means, key=means.get)
                scale = report.endpoint(f"{group}/{axis.key}").scale
                mean = markdown.number(means[best], scale)
                result.append((axis, best, f"{how} {mean}"))
                break
    return result
