"""The text of a sweep's report, from its results.json."""

from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import markdown

FIELDS = {
    "learning_rate": "learning rate",
    "kl_coef": "β",
    "strength": "penalty",
    "weight": "w",
    "decay": "decay",
    "every": "interval",
}
_COSTS = {
    "settings": "settings compared",
    "trials": "trials run for it",
    "tokens": "tokens sampled",
    "gradient_steps": "gradient steps",
    "reward_calls": "reward-model calls",
    "wall_seconds": "wall seconds",
}
_SIDES = {"low": "below", "high": "above"}
_REASONS = {"edge": "the edge was best", "tie": "a tie with the edge"}


def render(summary, report):
    """The text of report.md.

    Args: summary: the content of results.json; report: `sweep_report.Report`.
    """
    parts = [
        f"# {report.title}",
        f"**{answer(summary, report)}**",
        report.question,
        "![Front of fronts](front.png)",
        *choice(summary, report),
        *reasons(summary, report),
        *budget(summary, report),
        *trials(summary, report),
        *provenance(summary, report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def answer(summary, report):
    """One sentence: the best of each method, and that it is no test."""
    best = {
        method: _of(method, summary)[chosen["trial"] - 1]["mean"]
        for method, chosen in summary["chosen"].items()
    }
    if not best:
        return "Every trial failed"
    endpoint = report.chooses
    values = markdown.join(
        f"{report.name(method)} {markdown.number(best[method], endpoint.scale)}"
        for method in sorted(best, key=best.get, reverse=True)
    )
    return (
        f"On {report.scope}, over {report.sample} and so without a test, what was "
        f"chosen reaches a validation hypervolume ({endpoint.axis.title}) of: {values}."
    )


def choice(summary, report):
    """What was chosen, and how to run with it."""
    yield "## What was chosen"
    yield markdown.table(
        ["method", "trial", "hypervolume", "as flags"],
        [
            [
                report.name(method),
                best["trial"],
                _value(_of(method, summary)[best["trial"] - 1], report),
                f"`{best['flags']}`",
            ]
            for method, best in summary["chosen"].items()
        ],
    )
    failed = [method for method in summary["search"] if method not in summary["chosen"]]
    if failed:
        names = markdown.join(map(report.name, failed))
        yield f"**Every trial failed** of {names}: nothing was chosen."
    yield (
        "Chosen by the hypervolume of the proxy, "
        f"{report.chooses.axis.title} against reward: the largest mean over "
        f"{report.sample}, ± its standard error. The largest of several is biased "
        "upwards. Nothing here is a result: run the choice on fresh units and test "
        f"prompts, with this sweep's flags of the task:\n\n```\n{report.again}\n```"
    )
    if summary["derived"]:
        sources = "; ".join(
            f"{report.name(method)} from {report.name(source)}"
            for method, source in summary["derived"].items()
        )
        yield (
            f"Read off the runs of another method: {sources}. Each was searched by "
            "itself, over the trials of its source and over more where it wanted them; "
            "where its choice differs, --tuned trains its source once more for it."
        )


def reasons(summary, report):
    """The search of each method, line by line: what was tried, what was chosen, why."""
    yield "## How it was chosen"
    yield markdown.table(
        ["method", "parameter", "tried: hypervolume", "chosen", "grid"],
        [
            [
                report.name(method),
                FIELDS[line["field"]],
                _tried(line, report),
                "–" if line["chosen"] is None else f"{line['chosen']:.3g}",
                grown(line),
            ]
            for method, lines in summary["search"].items()
            for line in lines
        ],
    )
    yield (
        "Every method begins with the same grid of learning rates; its own parameters "
        "follow one after the other, at the best setting so far. While the best value "
        "is an edge of its grid, or no more than one standard error better than an "
        "edge (of the differences between them, over units), the grid grows on that "
        "side by its own ratio, w by that of its odds."
    )


def grown(line):
    """How a grid grew, and where it might not, in words."""
    words = []
    for side, where in _SIDES.items():
        asked = [one for one in line["extensions"] if one["side"] == side]
        added = [one for one in asked if one["value"] is not None]
        if added:
            why = ", ".join(dict.fromkeys(_REASONS[one["why"]] for one in added))
            words.append(f"extended {where} by {len(added)} ({why})")
        if len(added) < len(asked):
            words.append(f"at its limit {where}, {_REASONS[asked[-1]['why']]}")
    if len(line["tried"]) == 1:
        return "one value"
    return "; ".join(words) or "as given"


def _tried(line, report):
    words = []
    for one in line["tried"]:
        mark = "**" * (one["value"] == line["chosen"])
        words.append(f"{mark}{one['value']:.3g}: {_value(one, report)}{mark}")
    return ", ".join(words)


def budget(summary, report):
    """What each search took."""
    yield "## Budget"
    spent = summary["budget"]
    known = [name for name in _COSTS if any(name in told for told in spent.values())]
    yield markdown.table(
        ["method", *(_COSTS[name] for name in known)],
        [
            [report.name(m), *(markdown.integer(told.get(name)) for name in known)]
            for m, told in spent.items()
        ],
    )
    yield (
        "Over all units; evaluations apart. A trial that several methods compared is "
        "counted for the first of them: what is read off another method's runs costs "
        "only those that it alone wanted."
    )


def trials(summary, report):
    """Every trial, failures too."""
    yield "## All trials"
    titles = {"reward": "final reward", "gold": "final gold"}
    for axis in axes.drifts(report.axes):
        name = f"hypervolume/{axis.key}"
        titles[name] = report.endpoint(name).title
    rows, fields = summary["trials"], _fields(summary)
    names = [n for n in titles if any(n in row["final"] for row in rows)]
    header = ["method", "trial", *fields.values(), "chosen by"]
    header += [*(titles[name] for name in names), "failure"]
    yield markdown.table(header, [_trial(row, summary, report, names) for row in rows])
    yield (
        "Means over calibration units; in bold what was chosen. Final values and other "
        "hypervolumes chose nothing."
    )


def _trial(row, summary, report, names):
    best = summary["chosen"].get(row["method"], {}).get("trial")
    mark = "**" * (best == row["trial"])
    values = [row["values"].get(field) for field in _fields(summary)]
    return [
        f"{mark}{report.name(row['method'])}{mark}",
        row["trial"],
        *("–" if value is None else f"{value:.3g}" for value in values),
        _value(row, report),
        *(
            markdown.number(row["final"].get(name), report.endpoint(name).scale)
            for name in names
        ),
        row["failure"],
    ]


def provenance(summary, report):
    """What it takes to do it again."""
    yield "## How it was made"
    if report.command:
        yield f"```\n{report.command}\n```"
    facts = dict(report.provenance)
    facts["calibration units (world/seed)"] = ", ".join(map(str, report.units))
    if summary["wall_seconds"]:
        facts["wall seconds"] = f"{summary['wall_seconds']:.0f}"
    if report.axis in summary["corners"]:
        facts["corner that chooses"] = f"{summary['corners'][report.axis]:g}"
    yield "\n".join(f"- {name}: {value}" for name, value in facts.items())
    yield "\n".join(f"- {note}" for note in report.notes)
    yield (
        "The data of a trial is in `trials/<its setting>/study/metrics.jsonl`; "
        "results.json says which trial is which."
    )


def _of(method, summary):
    return [row for row in summary["trials"] if row["method"] == method]


def _fields(summary):
    """Those FIELDS that any trial has, and their names."""
    used = {field for row in summary["trials"] for field in row["values"]}
    return {field: name for field, name in FIELDS.items() if field in used}


def _value(told, report):
    """mean ± error of what a trial was judged by."""
    if told["mean"] is None:
        return "failed"
    scale = report.chooses.scale
    mean, error = (markdown.number(told[name], scale) for name in ("mean", "error"))
    return f"{mean} ± {error}"
