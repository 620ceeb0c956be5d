"""The text of a sweep's report, from its results.json."""

import numpy as np

from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import markdown, sections

FIELDS = {
    "learning_rate": "learning rate",
    "kl_coef": "β",
    "weight": "w",
    "every": "interval",
    "decay": "decay",
    "strength": "penalty",
}


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
        *trials(summary, report),
        *sections.budget(summary, report),
        *provenance(summary, report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def answer(summary, report):
    """One sentence: the best of each method, and that it is no test."""
    best = {}
    for row in summary["trials"]:
        if row["validation"] is not None:
            before = best.get(row["method"], -np.inf)
            best[row["method"]] = max(before, row["validation"])
    if not best:
        return "Every trial failed"
    endpoint = report.chooses
    values = markdown.join(
        f"{report.name(method)} {markdown.number(best[method], endpoint.scale)}"
        for method in sorted(best, key=best.get, reverse=True)
    )
    count = markdown.count(len(report.seeds), "calibration seed")
    return (
        f"On {report.scope}, over {count} and so without a test, the best trials reach "
        f"a validation hypervolume ({endpoint.axis.title}) of: {values}."
    )


def choice(summary, report):
    """What was chosen, and how to run with it."""
    yield "## What was chosen"
    header = ["method", "trial", *_fields(summary).values(), "chosen by", "other half"]
    header += ["trial 0", "as flags", "at the edge of what was tried"]
    chosen = summary["chosen"].items()
    rows = [_chosen(method, best, summary, report) for method, best in chosen]
    yield markdown.table(header, rows)
    methods = dict.fromkeys(row["method"] for row in summary["trials"])
    failed = [method for method in methods if _all_failed(summary, method)]
    if failed:
        names = markdown.join(map(report.name, failed))
        yield f"**Every trial failed** of {names}: nothing was chosen."
    yield (
        "Chosen by the mean over calibration seeds of the hypervolume of the proxy on "
        f"half A of the prompts, {report.chooses.axis.title} against reward. The "
        "largest of several is biased upwards; the next column has the same "
        "checkpoints on the other half. Nothing here is a result: run the choice on "
        "fresh seeds and test prompts, with this sweep's flags of the task:\n\n"
        f"```\n{report.again}\n```"
    )
    if summary["derived"]:
        sources = "; ".join(
            f"{report.name(method)} from {report.name(source)}"
            for method, source in summary["derived"].items()
        )
        yield (
            f"Derived from the trials of another method: {sources}. If another trial "
            "was chosen for one than for its source, --tuned gives it a run of its "
            "own; an early stop stays with its source."
        )


def _chosen(method, best, summary, report):
    """The row of a method whose trial was chosen."""
    rows = _of(method, summary)
    chosen = next(row for row in rows if row["trial"] == best["trial"])
    return [
        report.name(method),
        *_numbers(chosen, summary, report),
        _value(rows[0], report),
        f"`{best['flags']}`",
        _edges(rows, chosen),
    ]


def _edges(rows, chosen):
    """The fields whose chosen value is the least or the largest that was tried."""
    names = []
    for field, value in chosen["values"].items():
        values = {row["values"][field] for row in rows}
        if len(values) > 1 and value in (min(values), max(values)):
            names.append(FIELDS[field])
    return ", ".join(names)


def trials(summary, report):
    """Every trial, failures too."""
    yield "## All trials"
    header = ["method", "trial", *_fields(summary).values(), "chosen by", "other half"]
    titles = {"reward": "final reward", "gold": "final gold"}
    for axis in axes.drifts(report.axes):
        name = f"hypervolume/{axis.key}"
        titles[name] = report.endpoint(name).title
    names = [n for n in titles if any(n in row["final"] for row in summary["trials"])]
    body = []
    for row in summary["trials"]:
        best = summary["chosen"].get(row["method"], {}).get("trial")
        mark = "**" * (best == row["trial"])
        final = [
            markdown.number(row["final"].get(name), report.endpoint(name).scale)
            for name in names
        ]
        method = f"{mark}{report.name(row['method'])}{mark}"
        body.append([method, *_numbers(row, summary, report), *final, row["failure"]])
    yield markdown.table([*header, *(titles[name] for name in names), "failure"], body)
    yield (
        "Means over calibration seeds; in bold what was chosen. Trial 0 is the run as "
        "its flags have it. Final values and other hypervolumes chose nothing."
    )


def provenance(summary, report):
    """What it takes to do it again."""
    yield "## How it was made"
    if report.command:
        yield f"```\n{report.command}\n```"
    facts = dict(report.provenance)
    facts["calibration seeds"] = ", ".join(map(str, report.seeds))
    if summary["wall_seconds"]:
        facts["wall seconds"] = f"{summary['wall_seconds']:.0f}"
    if report.axis in summary["corners"]:
        facts["corner that chooses"] = f"{summary['corners'][report.axis]:g}"
    yield "\n".join(f"- {name}: {value}" for name, value in facts.items())
    yield "\n".join(f"- {note}" for note in report.notes)
    yield "The data of a trial is in `trials/<method>-<trial>/metrics.jsonl`."


def _of(method, summary):
    return [row for row in summary["trials"] if row["method"] == method]


def _all_failed(summary, method):
    return all(row["validation"] is None for row in _of(method, summary))


def _fields(summary):
    """Those FIELDS that any trial has, and their names."""
    used = {field for row in summary["trials"] for field in row["values"]}
    return {field: name for field, name in FIELDS.items() if field in used}


def _numbers(row, summary, report):
    """Trial, values and validation of a trial, as a table shows them."""
    values = [
        "–" if row["values"].get(field) is None else f"{row['values'][field]:.3g}"
        for field in _fields(summary)
    ]
    other = markdown.number(row["other_half"], report.chooses.scale)
    return [row["trial"], *values, _value(row, report), other]


def _value(row, report):
    number = markdown.number(row["validation"], report.chooses.scale)
    return "failed" if row["failure"] else number
