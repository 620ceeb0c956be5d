"""Orderings of labelers and of reward models: studies of their own beside the policies.

The paper's checklist says that a larger labeler agrees more with people and is less
biased, and that a reward model of people's labels is the more accurate one. Policies
have no part in it: each family has an endpoint and a smallest effect of its own, and
was declared before any run.
"""

from typing import NamedTuple

from experiments.rlaif import measures, methods
from rlhf_jax.evaluation import units
from rlhf_jax.evaluation.axes import Axis
from rlhf_jax.reporting import markdown, results, statements
from rlhf_jax.reporting.sections import Section
from rlhf_jax.reporting.statements import Statement

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
BIAS = "The larger the labeler, the less often both orders prefer the same slot"
AGREE = "The larger the labeler, the more it agrees with people"
MODELS = "A reward model of people's labels is more accurate than of a labeler's"
ORDERINGS = (
    *(
        Ordering(BIAS, *(_labeler(x, "same_slot") for x in pair), 0.05, True)
        for pair in _SIZES
    ),
    *(
        Ordering(AGREE, *(_labeler(x, "agreement") for x in pair), 0.03)
        for pair in _SIZES
    ),
    *(
        Ordering(MODELS, _model("rlhf"), _model(other), 0.03)
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
    return statements.judge([_stated(records, ordering) for ordering in ORDERINGS])


def _stated(records, ordering):
    """An ordering with the difference of every unit that has both numbers."""
    one, other = (read(records, *side[1:]) for side in (ordering.one, ordering.other))
    sign = -1.0 if ordering.less else 1.0
    return Statement(
        ordering.family,
        f"{ordering.one[0]} before {ordering.other[0]}",
        {
            unit: sign * (value - other[unit])
            for unit, value in sorted(one.items())
            if unit in other
        },
        ordering.smallest,
        scale=100.0,
    )


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
    yield from statements.render(rows)


SECTIONS = (
    Section(
        "labelers", lambda evidence: quality(evidence.records), _render_quality,
        after="results",
    ),
    Section("orderings", lambda evidence: judge(evidence.records), _render_verdicts),
)  # fmt: skip
