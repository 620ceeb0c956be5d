"""Orderings of labelers and of reward models: studies of their own beside the policies.

The paper's checklist says that a larger labeler agrees more with people and is less
biased, and that a reward model of people's labels is the more accurate one. Policies
have no part in it: each family has an endpoint and a smallest effect of its own, and
was declared before any run.
"""

from typing import NamedTuple

import numpy as np

from experiments.rlaif import measures, methods
from rlhf_jax.evaluation import statistics, units
from rlhf_jax.evaluation.axes import Axis
from rlhf_jax.reporting import markdown, results, verdicts
from rlhf_jax.reporting.sections import Section

LABELERS = {
    "tiny": "tiny labeler",
    "same": "labeler of the policy's size (π₀)",
    "large": "large labeler",
    "judge": "the judge of win rates",
}
_COLUMNS = {
    "agreement": "agrees with people",
    "gold_agreement": "with gold",
    "same_slot": "same slot in both orders",
    "first_slot": "of these the first",
    "bias": "mean |p_ab − (1 − p_ba)|",
    "beyond": "beyond 0.1",
}


# What is measured of them, so that kept results hold it; no axis of a front.
AXES = tuple(
    Axis(f"labeler/{name}/{key}", f"{label}: {title}")
    for name, label in LABELERS.items()
    for key, title in _COLUMNS.items()
)


class Ordering(NamedTuple):
    """ "`one` is better than `other`", of numbers that stand in records."""

    family: str
    one: tuple  # (what tables print, the method of the records, the key)
    other: tuple
    smallest: float  # effect of interest, a share
    less: bool = False  # the smaller number is the better one


def _labeler(name, key):
    return LABELERS[name], None, f"labeler/{name}/{key}"


def _model(name):
    return methods.ARMS[name][1], name, measures.ACCURACY.key


_SIZES = (("same", "tiny"), ("large", "same"), ("large", "tiny"))
_BIAS = "The larger the labeler, the less often both orders prefer the same slot"
_AGREE = "The larger the labeler, the more it agrees with people"
_MODELS = "A reward model of people's labels is more accurate than of a labeler's"
ORDERINGS = (
    *(
        Ordering(_BIAS, *(_labeler(x, "same_slot") for x in pair), 0.05, True)
        for pair in _SIZES
    ),
    *(
        Ordering(_AGREE, *(_labeler(x, "agreement") for x in pair), 0.03)
        for pair in _SIZES
    ),
    *(
        Ordering(_MODELS, _model("rlhf"), _model(other), 0.03)
        for other in ("rlaif", "rlaif_same")
    ),
)


def read(records, method, key):
    """{unit: the last number under a key}, of a method or, None, of any."""
    return {
        units.of(record): record[key]
        for record in records
        if key in record and method in (None, record["method"])
    }


def judge(records):
    """Every ordering that was measured, as rows of results.json."""
    rows = []
    for ordering in ORDERINGS:
        one, other = (read(records, *side[1:]) for side in ordering[1:3])
        pairs = {
            unit: (one[unit], other[unit]) for unit in sorted(one) if unit in other
        }
        if not pairs:
            continue
        sign = -1.0 if ordering.less else 1.0
        gaps = {unit: sign * (a - b) for unit, (a, b) in pairs.items()}
        verdict = statistics.verdict(
            list(units.worlds(gaps).values()), ordering.smallest
        )
        rows.append(
            {
                "family": ordering.family,
                "one": ordering.one[0],
                "other": ordering.other[0],
                "smallest_effect": ordering.smallest,
                "per_unit": {str(unit): list(pair) for unit, pair in pairs.items()},
                **verdict._asdict(),
            }
        )
    return _adjusted(rows)


def quality(records):
    """{labeler: {number: estimate}} of the labelers that were asked."""
    found = {
        name: {key: read(records, None, f"labeler/{name}/{key}") for key in _COLUMNS}
        for name in LABELERS
    }
    return {
        name: {key: results.estimate(values) for key, values in numbers.items()}
        for name, numbers in found.items()
        if numbers["bias"]
    }


def _adjusted(rows):
    """The rows with Holm's p over each family."""
    for family in {row["family"] for row in rows}:
        tested = [r for r in rows if r["family"] == family and np.isfinite(r["p"])]
        adjusted = statistics.holm([row["p"] for row in tested])
        for row, p in zip(tested, adjusted, strict=True):
            row["p_holm"] = float(p)
    return rows


def _render_quality(found, evidence):
    if not found:
        return
    yield "## The labelers"
    yield (
        "Asked in both orders about pairs that people labelled; in percent, the bias "
        f"apart; {markdown.brackets(evidence.summary)}."
    )
    body = [
        [
            LABELERS[name],
            *(
                markdown.interval(one[key], 1.0 if key == "bias" else 100.0)
                for key in _COLUMNS
            ),
        ]
        for name, one in found.items()
    ]
    yield markdown.table(["", *_COLUMNS.values()], body)


def _render_verdicts(rows, evidence):
    if not rows:
        return
    yield "## Orderings of labelers and of reward models"
    yield (
        "Policies have no part in these: each family is judged as a study of its own, "
        "differences in points, positive in favour of what is named first."
    )
    for family in dict.fromkeys(row["family"] for row in rows):
        yield f"### {family}"
        body = [_line(row) for row in rows if row["family"] == family]
        header = ["claim", "smallest effect", "difference", "p", "Holm p", "verdict"]
        yield markdown.table(header, body)


def _line(row):
    line = [
        f"{row['one']} before {row['other']}",
        markdown.number(row["smallest_effect"], 100.0),
        markdown.interval(row, 100.0),
    ]
    if row["word"] == "no test":
        return [
            line[0],
            line[1],
            markdown.number(row["mean"], 100.0),
            "",
            "",
            "no test",
        ]
    verdict = statistics.Verdict(*(row[name] for name in statistics.Verdict._fields))
    ps = [markdown.number(row["p"]), markdown.number(row["p_holm"])]
    return [*line, *ps, f"**{row['word']}**{verdicts.needed(verdict)}"]


SECTIONS = (
    Section(
        "labelers", lambda evidence: quality(evidence.records), _render_quality,
        after="results",
    ),
    Section("orderings", lambda evidence: judge(evidence.records), _render_verdicts),
)  # fmt: skip
