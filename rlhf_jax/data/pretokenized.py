"""Rows that are tokens already: a column `input_ids`, as TRL has it.

What is learned is said by `labels` (−100 where nothing is), by `completion_mask` or
`assistant_masks` (1 where something is); without them all of a row is. Where there are
several, a token is learned that all of them name. `attention_mask` 0 is padding.
"""

import numpy as np

from rlhf_jax.data import diagnosis, origins, spans

IGNORED = -100
_MASKS = ("completion_mask", "assistant_masks", "attention_mask")


def read(rows, vocab_size):
    """`spans.Rows` of a data set, as they are: no token is added.

    Raises ValueError, naming the row, for ids outside the vocabulary, for other columns
    of another length, and for labels that are not the next token.
    """
    names = [n for n in ("labels", *_MASKS) if n in rows.column_names]
    found = spans.Rows([], [])
    for i, row in enumerate(rows.select_columns(["input_ids", *names])):
        try:
            ids = _integers("input_ids", row["input_ids"])
            outside = (ids < 0) | (ids >= vocab_size)
            if not len(ids) or outside.any():
                raise ValueError(_outside(ids, outside, vocab_size))
            others = {name: _integers(name, row[name], len(ids)) for name in names}
            learned = _learned(ids, others)
        except ValueError as error:
            raise ValueError(f"{origins.words(rows, i)}: {error}") from None
        kept = others.get("attention_mask", np.ones_like(ids)) != 0
        found.ids.append(ids[kept].astype(np.int32))
        found.learned.append(learned[kept].astype(np.int32))
    return found


def _learned(ids, others):
    """[n], 1 at targets."""
    learned = np.ones_like(ids)
    for name in _MASKS:
        if name in others:
            if not np.isin(others[name], (0, 1)).all():
                raise ValueError(f"{name} has numbers that are neither 0 nor 1")
            learned *= others[name]
    labels = others.get("labels")
    if labels is None:
        return learned
    odd = (labels != IGNORED) & (labels != ids)
    if odd.any():
        at = int(odd.argmax())
        raise ValueError(
            f"labels has {labels[at]} at position {at}, where input_ids has {ids[at]}; "
            f"labels are input_ids, or {IGNORED} where nothing is learned (they are "
            "shifted later)"
        )
    return learned * (labels != IGNORED)


def _outside(ids, outside, vocab_size):
    if not len(ids):
        return "input_ids is empty; remove the row"
    at = int(outside.argmax())
    return (
        f"input_ids has {ids[at]} at position {at}; the model's vocabulary has the ids "
        f"0 to {vocab_size - 1}: tokenise with the model's own tokenizer"
    )


def _integers(name, values, count=None):
    whole = isinstance(values, list) and all(type(v) is int for v in values)
    if not whole:
        raise ValueError(
            f"{name} is {diagnosis.named(values)}; it must be a list of whole numbers"
        )
    if count is not None and len(values) != count:
        raise ValueError(f"{name} has {len(values)} numbers, input_ids {count}")
    return np.array(values, np.int64)
