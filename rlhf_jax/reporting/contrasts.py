"""Pairs of methods that differ in one part: what the part is worth, paired by unit.

An ablation table. No claim is declared about its rows, so they carry intervals and no
verdict: with ten rows on three axes some interval misses 0 by chance.
"""

import functools
from typing import NamedTuple

from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation import units
from rlhf_jax.reporting import markdown, results, sections


class Contrast(NamedTuple):
    """`method` has a part that `other` lacks, and is otherwise the same."""

    part: str
    method: str
    other: str


def section(contrasts):
    """The ablation table as a section of a report, "contrasts" in results.json."""
    compute = functools.partial(_compute, tuple(contrasts))
    return sections.Section("contrasts", compute, render)


def table(summary, contrasts, axes):
    """Paired differences `method` − `other`, of the pairs that were both run.

    Endpoints: reward, gold, and the hypervolume on each drift axis; more is better on
    all of them, so positive is in favour of the part. Units that only one of the two
    has are left out.

    Args: summary: of `results.summarize`; axes: sequence of Axis. Returns a list of
    {"part", "method", "other", "differences": {endpoint: estimate}}, in order.
    """
    rows = []
    for part, method, other in contrasts:
        if not {method, other} <= set(summary["methods"]):
            continue
        one, two = (summary["methods"][name]["per_unit"] for name in (method, other))
        differences = {}
        for name in _columns(axes):
            gaps = _gaps(one.get(name, {}), two.get(name, {}))
            if gaps and (
                not name.startswith("hypervolume") or _alike(summary, method, other)
            ):
                differences[name] = results.estimate(gaps)
        names = {"part": part, "method": method, "other": other}
        rows.append({**names, "differences": differences})
    return rows


def render(rows, evidence):
    """The table as paragraphs of a report; nothing where no pair was run."""
    if not rows:
        return
    report, columns = evidence.report, _columns(evidence.report.axes)
    known = [n for n in columns if any(n in row["differences"] for row in rows)]
    shown = {name: report.endpoint(name) for name in known}
    yield "## Ablations: what each part is worth"
    yield (
        "Paired differences between two methods that differ in one part, "
        f"positive in favour of the part; {markdown.brackets(evidence.summary)}. "
        "Nothing was claimed of them beforehand, so nothing is judged."
    )
    yield markdown.table(
        ["part", "difference", *(endpoint.title for endpoint in shown.values())],
        [
            [
                row["part"],
                f"{report.name(row['method'])} − {report.name(row['other'])}",
                *(
                    markdown.interval(row["differences"].get(name), endpoint.scale)
                    for name, endpoint in shown.items()
                ),
            ]
            for row in rows
        ],
    )


def _compute(contrasts, evidence):
    return table(evidence.summary, contrasts, evidence.report.axes)


def _gaps(one, two):
    return {units.parse(unit): one[unit] - two[unit] for unit in one if unit in two}


def _alike(summary, method, other):
    """Whether two methods were looked at as often: else areas do not compare."""
    looks = [summary["methods"][name]["checkpoints"] for name in (method, other)]
    return looks[0] == looks[1]


def _columns(axes):
    drifts = axes_.drifts(axes)
    return ("reward", "gold", *(f"hypervolume/{axis.key}" for axis in drifts))
