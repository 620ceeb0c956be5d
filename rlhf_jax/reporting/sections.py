"""The sections of report.md: each function yields paragraphs.

`summary` is what `results.summarize` returns, `study` a `report.Study`.
"""

from rlhf_jax.evaluation import statistics
from rlhf_jax.reporting import canvas, markdown, results, samples, wording

_BUDGET = {
    "tokens": "tokens sampled",
    "gradient_steps": "gradient steps",
    "reward_calls": "reward-model calls",
    "wall_seconds": "wall seconds",
}


def disagreement(summary, study):
    """Which method leads on each axis, and whether that is the same one."""
    leaders = _leaders(summary, study.axes)
    if not leaders:
        return "No front could be read."
    lines = [
        f"- {canvas.label(axis)[0]}: {study.name(method)} ({how})"
        for axis, (method, how) in leaders.items()
    ]
    if len({method for method, _ in leaders.values()}) == 1:
        end = "All axes name the same method; that is a ranking of means, not a test."
    else:
        end = "**The axes disagree**: a claim holds for the axis it names, and no more."
    return "\n".join(lines) + "\n\n" + end


def overview(summary, labels):
    """The results as (header, rows), π₀ first; accuracies in points."""
    axes = next(iter(summary["methods"].values()), {"drift": {}})["drift"]
    gold = any("gold" in m for m in summary["methods"].values())
    header = ["method", "reward", *(["gold"] if gold else [])]
    header += [canvas.label(axis)[0] for axis in axes]
    body = []
    every = {"initial π₀": summary["initial"], **summary["methods"]}
    for method, m in every.items():
        row = [canvas.method_name(method, labels), markdown.interval(m["reward"])]
        row += [markdown.interval(m.get("gold"))] if gold else []
        row += [
            markdown.interval(m["drift"][axis], wording.scale(axis)) for axis in axes
        ]
        body.append(row)
    return header, body


def outcome(summary, study):
    """Final policies, and the areas that their fronts cover."""
    header, body = overview(summary, study.labels)
    yield "## Results"
    how, units = wording.brackets(summary), wording.units(study.axes)
    yield f"Final policies; mean over seeds, {how}. {units}"
    yield markdown.table(header, body)
    yield _finals(summary, study)
    title = "Hypervolume (reward × drift, more is better)"
    yield from along(title, "hypervolume", summary, study)
    if summary["corners"]:
        corners = "; ".join(
            f"{canvas.label(axis)[0]} {d * wording.scale(axis):g}, reward {r:g}"
            for axis, (d, r) in summary["corners"].items()
        )
        yield f"Corners of the hypervolumes, fixed in the config: {corners}."
    yield _checkpoints(summary, study)


def matched(summary, study):
    """The fronts read at one place: at the same drift, and at the same reward."""
    places = summary["matched"]
    if not places:
        return
    yield "## At matched drift, and at matched reward"
    names = markdown.join(study.name(m) for m in next(iter(places.values()))["methods"])
    yield (
        f"Matched, seed by seed, at what {names} all reach: the least of the drifts at "
        "which they have their best proxy reward, and the least of these rewards. "
        "Checkpoints are chosen by the proxy on one half of the prompts and read on "
        "the other, both ways, and averaged; nothing is interpolated."
    )
    yield markdown.table(
        ["matched at", *(canvas.label(axis)[0] for axis in places)],
        [
            ["drift", *(_place(p["drift"], axis) for axis, p in places.items())],
            ["reward", *(markdown.interval(p["reward"]) for p in places.values())],
        ],
    )
    for group, title in (
        ("reward_at", "Best reward at the matched drift"),
        ("gold_at", "Gold of the checkpoint that the proxy picks there"),
        ("drift_at", "Least drift at the matched reward"),
    ):
        yield from along(title, group, summary, study)


def _place(drift, axis):
    return markdown.interval(drift, wording.scale(axis))


def along(title, group, summary, study):
    """A group of endpoints as a table, a column an axis; nothing where none has it."""
    found = {k: m[group] for k, m in summary["methods"].items() if m[group]}
    if not found:
        return
    axes = [a for a in study.axes if any(a in m for m in found.values())]
    yield f"### {title}"
    yield markdown.table(
        ["method", *(canvas.label(axis)[0] for axis in axes)],
        [[study.name(k), *_along(m, group, axes)] for k, m in found.items()],
    )


def _along(groups, group, axes):
    for axis in axes:
        scale = wording.scale(f"{group}/{axis}")
        yield markdown.interval(groups.get(axis), scale, absent=results.absent(group))


def _checkpoints(summary, study):
    """How many checkpoints a front is made of: more of them make a better one."""
    counts = {}
    for name, method in summary["methods"].items():
        counts.setdefault(method["checkpoints"], []).append(study.name(name))
    if len(counts) == 1:
        return f"Fronts of {wording.count(*counts, 'checkpoint')} a method and seed."
    said = "; ".join(f"{n}: {markdown.join(names)}" for n, names in counts.items())
    return (
        f"Checkpoints a seed after the start, {said}. Fronts are optimistic, the more "
        "so the more checkpoints they are made of."
    )


def _finals(summary, study):
    """Which side of a reset the final policy of a method stands on."""
    names = [
        f"{study.name(name)} (step {m['final']['step']})"
        for name, m in summary["methods"].items()
        if m["final"]["phase"] == "after_reset"
    ]
    if not names:
        return ""
    return (
        f"The last iteration ended with a reset, and the final policy is the one "
        f"after it: {markdown.join(names)}."
    )


def verdicts(summary, findings, study):
    """What was declared beforehand, and what the seeds say; below 8 seeds, nothing."""
    yield "## Verdicts"
    if summary["seeds"] < statistics.MIN_SEEDS:
        yield f"{wording.count(summary['seeds'], 'seed')}: shown as dots, no test."
    if not findings:
        yield "No claim was declared before the run, so none is judged."
        return
    header = ["claim", "endpoint", "smallest effect", "difference", "p", "Holm p"]
    for family in dict.fromkeys(f.claim.family for f in findings):
        own = [f for f in findings if f.claim.family == family]
        if family:
            yield f"### {family}"
        yield markdown.table([*header, "verdict"], [_verdict(f, study) for f in own])
        yield _jointly(own, study)
    yield (
        "Paired differences by seed, positive in favour of the method named first; "
        "95% t-interval, exact two-sided sign-flip p, and p adjusted over its table. "
        "“Undecided” names the seeds that would decide with a power of 80%."
    )


def _verdict(f, study):
    """One finding as a row of the table."""
    factor = wording.scale(f.claim.endpoint)
    row = [wording.claim(f, study), wording.endpoint(f.claim.endpoint)]
    row.append(markdown.number(f.smallest_effect, factor))
    if f.verdict is None:
        return [*row, "", "", "", f"none: {f.reason}"]
    if f.verdict.word == "no test":
        return [*row, markdown.number(f.verdict.mean, factor), "", "", "no test"]
    ps = [markdown.number(f.verdict.p), markdown.number(f.p_holm)]
    gap = markdown.interval(f.verdict._asdict(), factor)
    return [*row, gap, *ps, f"**{f.verdict.word}**{wording.needed(f.verdict)}"]


def _jointly(findings, study):
    """The word on each claim that names several others: every comparison at 95%."""
    lines = []
    for claim in dict.fromkeys(f.claim for f in findings):
        parts = [f for f in findings if f.claim == claim]
        if len(parts) > 1 and all(f.verdict for f in parts):
            names = markdown.join(study.name(f.other) for f in parts)
            word = statistics.all_of([f.verdict for f in parts])
            text = wording.claim(parts[0]._replace(other=""), study).strip()
            where = wording.endpoint(claim.endpoint)
            lines.append(f"- {text} all of {names} ({where}): **{word}**")
    return "\n".join(lines)


def seeds_one_by_one(summary, study):
    """Every seed's final numbers, so that no mean hides one."""
    yield "## Seeds, one by one"
    seeds = sorted(
        {int(s) for m in summary["methods"].values() for s in m["per_seed"]["reward"]}
    )
    shown = ["reward", "gold", *study.axes]
    body = []
    for method, m in summary["methods"].items():
        for name in (n for n in shown if n in m["per_seed"]):
            values = m["per_seed"][name]
            cells = [
                markdown.number(values.get(str(s)), wording.scale(name)) for s in seeds
            ]
            body.append([study.name(method), wording.endpoint(name), *cells])
    yield markdown.table(["method", "final", *(f"seed {s}" for s in seeds)], body)


def budget(summary, study):
    """What each method cost."""
    spent = summary.get("budget") or {}
    known = [name for name in _BUDGET if any(name in b for b in spent.values())]
    if not known:
        return
    yield "## Budget"
    yield markdown.table(
        ["method", *(_BUDGET[name] for name in known)],
        [
            [study.name(m), *(markdown.count(b.get(name)) for name in known)]
            for m, b in spent.items()
        ],
    )
    yield "Over all seeds; evaluations apart."
    free = [study.name(m) for m in summary["methods"] if m not in spent]
    if free:
        yield (
            f"{markdown.join(free)}: read off the runs of other methods, at the price "
            "of averaging weights, which samples nothing and is nearly free."
        )


def negative_controls(controls):
    """What should show nothing, and whether it did."""
    if not controls:
        return
    yield "## Negative controls"
    yield markdown.table(
        ["control", "should happen", "happened", "passed"],
        [[*map(str, row[:3]), "yes" if row[3] else "**no**"] for row in controls],
    )


def unselected(rows, study):
    """20 samples a method, drawn blindly from the last evaluation of its seeds."""
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
        yield f"### {study.name(method)}"
        picked = samples.unselected(final, 20)
        header = ["seed", "step", "prompt", "completion", "score"]
        yield markdown.table(header, [_sample(row) for row in picked])


def _sample(row):
    texts = samples.shorten(row["prompt"], 200), samples.shorten(row["completion"], 400)
    return [row["seed"], row["step"], *texts, markdown.number(row.get("score"))]


def provenance(summary, study):
    """Command, versions, digests and notes: what it takes to do it again."""
    yield "## How it was made"
    if study.command:
        yield f"```\n{study.command}\n```"
    facts = dict(study.provenance)
    facts["seeds"] = str(summary["seeds"])
    if summary["wall_seconds"]:
        facts["wall seconds"] = f"{summary['wall_seconds']:.0f}"
    yield "\n".join(f"- {name}: {value}" for name, value in facts.items())
    yield "\n".join(f"- {note}" for note in study.notes)
    yield (
        "Numbers hold for "
        f"{study.place}. Curves and samples are of every seed; the data behind them "
        "is in `metrics.jsonl` and `results.json`."
    )


def headline(summary, study):
    """Who leads on which axis, in half a sentence."""
    leaders = _leaders(summary, study.axes)
    parts = {}
    for axis, (method, _) in leaders.items():
        parts.setdefault(study.name(method), []).append(canvas.label(axis)[0])
    said = ", ".join(
        f"{name} leads in the mean on {markdown.join(a)}" for name, a in parts.items()
    )
    if not said:
        return "no front could be read"
    return said + (", so the axes disagree" if len(parts) > 1 else ", on every axis")


def _leaders(summary, axes):
    """{axis: (method with the largest mean, by what)}."""
    result = {}
    for axis in axes:
        for group, how in (
            ("hypervolume", "hypervolume"),
            ("reward_at", "reward at matched drift"),
        ):
            means = {
                method: m[group][axis]["mean"]
                for method, m in summary["methods"].items()
                if m[group].get(axis, {}).get("mean") is not None
            }
            if means:
                best = max(means, key=means.get)
                mean = markdown.number(means[best], wording.scale(f"{group}/{axis}"))
                result[axis] = (best, f"{how} {mean}")
                break
    return result
