"""Negative controls: what should show nothing, and whether it did."""

from rlhf_jax.reporting import markdown, sections


def section(judge):
    """The controls as a section of a report, "controls" in results.json.

    judge: records of metrics.jsonl -> a sequence of (name, what should happen, what
    happened, whether it passed), one for each control that was run.
    """

    def compute(evidence):
        return [[*map(str, row[:3]), bool(row[3])] for row in judge(evidence.records)]

    return sections.Section("controls", compute, render, after="budget")


def render(rows, evidence):
    """The controls as a table; nothing where none was run."""
    if not rows:
        return
    yield "## Negative controls"
    yield markdown.table(
        ["control", "should happen", "happened", "passed"],
        [[*row[:3], "yes" if row[3] else "**no**"] for row in rows],
    )
