"""The rows of a labelling job: what is read, and what is written."""

import json
from typing import NamedTuple

import numpy as np

from rlhf_jax.data import conversations, preferences, sources
from rlhf_jax.feedback import judging
from rlhf_jax.runtime import files
from rlhf_jax.tasks import rows as rows_of

LABELS, FAILED = "labels.jsonl", "failed.jsonl"
_SIDES = (("chosen", "rejected"), ("response_a", "response_b"))


class Rows(NamedTuple):
    """Pairs as the data has them, and as a labeler reads them."""

    prompts: list | None  # texts or lists of messages; None: they are in the answers
    sides: tuple[list, list]  # answers, texts or lists of messages
    pairs: list[judging.Pair]
    given: np.ndarray | None  # [N] the data's own p(first is better)


def read(dataset, data, limit=0):
    """The first `limit` rows of a data set (0: all).

    Columns are prompt, chosen and rejected, as for a reward model, or prompt,
    response_a and response_b; `preference` is the probability that the first is better,
    where people have said so. Args: dataset: as for `rows.load`; data: the split and
    columns. Raises ValueError for other columns, and for rows without a text.
    """
    renames = rows_of.renames(data.columns)
    table = rows_of.load(dataset, split=data.split, columns=renames or ())
    names = table.column_names
    sides = next((pair for pair in _SIDES if set(pair) <= set(names)), None)
    if sides is None or (sides == _SIDES[1] and "prompt" not in names):
        raise ValueError(
            f"columns {', '.join(names)}: needed are prompt, chosen and rejected, or "
            "prompt, response_a and response_b; name yours with --data.columns "
            "chosen=..."
        )
    kept = [x for x in ("prompt", *sides, "preference") if x in names]
    table = sources.checked(table.select_columns(kept), kept, "the data set")
    table = table.select(range(min(limit, len(table)))) if limit else table
    known = dict(zip(sides, _SIDES[0], strict=True))
    table = table.rename_columns({k: v for k, v in known.items() if k != v})
    columns, texts = table[:], preferences.read(table)
    given = _given(texts.preference)
    if given is None and sides == _SIDES[0]:
        given = np.ones(len(texts.prompts))
    asked = [text.removesuffix(conversations.CUE) for text in texts.prompts]
    both = (texts.chosen, texts.rejected)
    return Rows(
        list(columns["prompt"]) if "prompt" in columns else None,
        (list(columns["chosen"]), list(columns["rejected"])),
        [judging.Pair(*pair) for pair in zip(asked, *both, strict=True)],
        given,
    )


def _given(values):
    if values is None:
        return None
    for row, value in enumerate(values):
        if not 0 <= value <= 1:
            raise ValueError(
                f"row {row} (counted from 0): preference {value:g} is no probability"
            )
    return np.array(values, np.float64)


def labelled(rows, found):
    """The rows that have a label, `chosen` being what the labeler prefers.

    `preference` is the probability that chosen is better, at least ½: soft labels, as
    a reward model reads them. `p_ab` and `p_ba` are those of the first slot, with
    chosen in it and with rejected; `given` is what the data says of this chosen; `row`
    counts the rows of the data from 0. A tie keeps the order of the data.
    """
    return [
        _labelled(rows, found, i)
        for i, failure in enumerate(found.failures)
        if failure is None
    ]


def _labelled(rows, found, i):
    swapped = found.preference[i] < 0.5
    order = (1, 0) if swapped else (0, 1)
    slots = (found.p_ab[i], found.p_ba[i])
    p = 1 - found.preference[i] if swapped else found.preference[i]
    row = {} if rows.prompts is None else {"prompt": rows.prompts[i]}
    row |= {"chosen": rows.sides[order[0]][i], "rejected": rows.sides[order[1]][i]}
    row |= {"preference": _number(p)}
    row |= {"p_ab": _number(slots[order[0]]), "p_ba": _number(slots[order[1]])}
    outside = found.outside[i]
    if not np.isnan(outside).all():
        row["outside"] = _number(np.nanmean(outside))
    texts = found.rationales[i]
    if any(text is not None for text in texts.flat):
        row["rationales_ab"], row["rationales_ba"] = map(list, texts[list(order)])
    if rows.given is not None:
        row["given"] = _number(1 - rows.given[i] if swapped else rows.given[i])
    return row | {"row": i}


def failed(rows, found):
    """The rows without a label, as the data has them, with the reason."""
    made = []
    for i, failure in enumerate(found.failures):
        if failure is not None:
            row = {} if rows.prompts is None else {"prompt": rows.prompts[i]}
            row |= {"first": rows.sides[0][i], "second": rows.sides[1][i]}
            made.append(row | {"failure": failure, "row": i})
    return made


def write(folder, rows, lost):
    """labels.jsonl, and failed.jsonl where some rows have no label."""
    for name, part in ((LABELS, rows), (FAILED, lost)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        if part:
            files.write(folder / name, "".join(lines))
        else:
            (folder / name).unlink(missing_ok=True)


def _number(value):
    """Six digits: more than float32 has to say of a probability."""
    return round(float(value), 6)
