"""Statements about numbers that are no endpoint of a front, judged like claims.

A labeler agrees more than another, gold falls after its peak, a rank correlation lies
below its ceiling: what is tested is one difference a unit, positive in favour of the
statement. Each family of statements is judged as a study of its own, with a smallest
effect that was declared before the run.
"""

import math
from typing import NamedTuple

from rlhf_jax.evaluation import statistics, units
from rlhf_jax.reporting import markdown, verdicts

_HEADER = ("statement", "smallest effect", "difference", "p", "Holm p", "verdict")


class Statement(NamedTuple):
    """What is said, and the evidence of every unit."""

    family: str  # p-values are adjusted within it; a heading of the report
    text: str  # "gold falls after its peak"
    differences: dict  # {unit: number}, positive in favour; NaN where it has none
    smallest: float  # effect of interest, in the unit of the differences
    kind: str = "greater"  # or "equal": the differences are about 0
    scale: float = 1.0  # from the recorded to the printed unit
    unit: str = ""  # that is printed: "points", "sd"


def judge(statements):
    """Every statement that has evidence, as rows of results.json.

    Seeds are averaged within worlds before anything is tested. A unit without a number
    is left out and counted as `missing`; p-values are Holm's over each family.
    """
    rows = [_row(one) for one in statements if _finite(one.differences)]
    for family in {row["family"] for row in rows}:
        tested = [r for r in rows if r["family"] == family and math.isfinite(r["p"])]
        adjusted = statistics.holm([row["p"] for row in tested])
        for row, p in zip(tested, adjusted, strict=True):
            row["p_holm"] = float(p)
    return rows


def render(rows):
    """A table a family, as paragraphs."""
    for family in dict.fromkeys(row["family"] for row in rows):
        yield f"### {family}"
        body = [line(row) for row in rows if row["family"] == family]
        yield markdown.table(_HEADER, body)


def line(row):
    """A row of results.json as a line of the table."""
    scale, unit = row["scale"], f" {row['unit']}" if row["unit"] else ""
    start = [row["text"], markdown.number(row["smallest"], scale) + unit]
    lost = f"; {markdown.count(row['missing'], 'unit')} without" * bool(row["missing"])
    if row["word"] == "no test":
        return [*start, markdown.number(row["mean"], scale) + lost, "", "", "no test"]
    ps = [markdown.number(row["p"]), markdown.number(row["p_holm"])]
    found = statistics.Verdict(*(row[name] for name in statistics.Verdict._fields))
    word = f"**{row['word']}**{verdicts.needed(found)}"
    return [*start, markdown.interval(row | {"missing": 0}, scale) + lost, *ps, word]


def _row(one):
    values = _finite(one.differences)
    verdict = statistics.verdict(
        list(units.worlds(values).values()), one.smallest, kind=one.kind
    )
    return {
        **{name: getattr(one, name) for name in ("family", "text", "smallest")},
        **{name: getattr(one, name) for name in ("kind", "scale", "unit")},
        "per_unit": {str(unit): float(x) for unit, x in one.differences.items()},
        "missing": len(one.differences) - len(values),
        **verdict._asdict(),
    }


def _finite(differences):
    return {unit: x for unit, x in differences.items() if math.isfinite(x)}
