"""What a labelling job found: how far its labels can be trusted, and what they cost."""

import collections
import re

import numpy as np

from rlhf_jax.evaluation import agreement, position_bias
from rlhf_jax.feedback import ledger
from rlhf_jax.reporting import markdown
from rlhf_jax.runtime import files

_CALL = re.compile(r"^(order (ab|ba)(, sample \d+)?(, rationale)?: )")
_UNANSWERED = 0.5  # probability outside the labels at which a reader is warned


def results(rows, found, book):
    """The numbers of results.json.

    Args: rows: `pairs.Rows`; found: `judging.Preferences`; book: the ledger.
    """
    outside = found.outside[~np.isnan(found.outside)]
    reasons = (_CALL.sub("", x) for x in found.failures if x is not None)
    told = {
        "pairs": len(rows.pairs),
        "labelled": sum(x is None for x in found.failures),
        "failures": dict(collections.Counter(reasons).most_common()),
        "ties": int((found.preference == 0.5).sum()),
        "outside": float(outside.mean()) if outside.size else None,
        "prompt_tokens": int(found.prompt_tokens.sum()),
        "completion_tokens": int(found.completion_tokens.sum()),
        "spent": {k: x._asdict() for k, x in ledger.summary(book).items()},
    }
    if not told["labelled"]:
        return told
    bias = position_bias.measure(found.p_ab, found.p_ba)
    told["position_bias"] = bias._asdict()
    if rows.given is not None:
        told["agreement"] = agreement.agreement(found.preference, rows.given)._asdict()
    return told


def lines(told):
    """The numbers as lines for people, the most telling first."""
    said = [f"{told['labelled']} of {told['pairs']} pairs labelled"]
    if "agreement" in told:
        x = told["agreement"]
        said.append(
            f"agreement with the data's own labels: {100 * x['share']:.1f}% "
            f"[{100 * x['low']:.1f}, {100 * x['high']:.1f}] of {x['pairs']} pairs, "
            f"{x['ties']} of them ties"
        )
    if "position_bias" in told:
        x = told["position_bias"]
        said += bias(position_bias.PositionBias(**x))
    if told["outside"] is not None:
        text = f"probability of anything but a label: {told['outside']:.3f}"
        if told["outside"] > _UNANSWERED:
            text += " (the prompt mostly did not make the labeler answer)"
        said.append(text)
    said += [
        f"{markdown.count(count, 'row')} without a label: {reason}"
        for reason, count in told["failures"].items()
    ]
    return said


def bias(measured):
    """A `position_bias.PositionBias` as lines for people."""
    first = f", the first in {100 * measured.first:.0f}% of these"
    return [
        f"position bias: mean |p_ab − (1 − p_ba)| {measured.gap:.3f}, beyond 0.1 in "
        f"{100 * measured.beyond:.0f}% of {measured.pairs} pairs",
        f"the same slot in both orders in {100 * measured.same_slot:.0f}%"
        + first * (measured.same_slot > 0),
    ]


def spent(summary):
    """A table of a ledger's `Spent` records, as dictionaries by model."""
    rows = [
        [
            model,
            *(markdown.integer(x[k]) for k in ("calls", "answers")),
            markdown.integer(x["calls"] - x["answers"]),
            *(markdown.integer(x[k]) for k in ("prompt_tokens", "completion_tokens")),
            f"{x['cost']:.4f}",
        ]
        for model, x in summary.items()
    ]
    header = ["model", "calls", "answers", "failed", "tokens read", "written", "money"]
    return markdown.table(header, rows)


def write(folder, told, about, facts, command):
    """report.md and results.json.

    Args: told: of `results`; about: lines on what was asked; facts: {name: fact} of
    what it was made with; command: the command line.
    """
    files.write_json(folder / "results.json", told)
    parts = (
        "# Labels of preference pairs",
        "\n".join(f"- {line}" for line in about),
        "## How far they can be trusted",
        "\n".join(f"- {line}" for line in lines(told)),
        "## What they cost",
        spent(told["spent"]),
        "All calls in the ledger, failed ones and those of earlier runs too.",
        "## How they were made",
        f"```\n{command}\n```",
        "\n".join(f"- {name}: {value}" for name, value in facts.items()),
    )
    return files.write(folder / "report.md", "\n\n".join(parts) + "\n")
