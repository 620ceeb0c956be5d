"""Negative controls: what should show nothing, and whether it did."""

import numpy as np

from rlhf_jax.evaluation import units
from rlhf_jax.evaluation.axes import GOLD
from rlhf_jax.reporting import claims, endpoints, evaluations, markdown, sections

_ENOUGH = 0.9  # of the units


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


def of_gold(records, controls):
    """Rows of the controls that gold can show, of methods that were run.

    controls: {method: (name, what should happen, holds)}; holds(start, peak, last) says
    whether the gold of a unit is as it should be, which it must be in nine of ten.
    """
    for method, (name, should, holds) in controls.items():
        found = {}
        for record in records:
            if record["method"] == method and GOLD.key in record:
                found.setdefault(units.of(record), []).append(record[GOLD.key])
        if found:
            golds = [(series[0], max(series), series[-1]) for series in found.values()]
            held = sum(holds(*gold) for gold in golds)
            start, peak, last = np.mean(golds, axis=0)
            what = (
                f"in {held} of {len(golds)} runs; in the mean {start:.3f} → peak "
                f"{peak:.3f} → {last:.3f}"
            )
            yield name, should, what, held >= _ENOUGH * len(golds)


def of_copies(records, method, copy, names, axes, what):
    """Rows of one arm against its own copy under another key: no verdict may come out.

    Args: names: of endpoints; what: how the row is called.
    """
    found = claims.judge(
        [claims.Claim(method, (copy,), name) for name in names],
        evaluations.runs(records),
        axes=axes,
    )
    for finding in found:
        verdict, endpoint = finding.verdict, finding.claim.endpoint
        if verdict is None or verdict.word == "no test":
            continue
        fine = verdict.word in ("undecided", "not reproduced", "≈")
        scale = endpoints.parse(endpoint, axes).scale
        gap = markdown.interval(verdict._asdict(), scale)
        yield f"{what}, {endpoint}", "no verdict", f"{verdict.word}, {gap}", fine
