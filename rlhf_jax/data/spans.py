"""Texts in parts, of which only some are learned, as rows of tokens.

    rows = spans.encode(tokenizer, [[("Why? ", False), ("So.", True)]])
    rows, count = spans.shorten(rows, 512)
    tokens = spans.pad(rows, 512, tokenization.pad_id(tokenizer))

`packing.pack` puts several of the rows into one.
"""

from typing import NamedTuple

import numpy as np

from rlhf_jax.data import tokenization
from rlhf_jax.types import Tokens


class Rows(NamedTuple):
    """Rows of any length: for each an array [n] of ids and one of what is learned."""

    ids: list[np.ndarray]  # int32
    learned: list[np.ndarray]  # int32, 1: a target
    start: int = 0  # tokens at the beginning of every row that are never cut off


def encode(tokenizer, rows, *, end=None):
    """`Rows` of texts in parts, framed by the tokenizer's first token.

    Parts are encoded one after the other, as in generation. `end`, by default EOS,
    follows the last part and is learned if that is.

    Args: rows: one list [(text, is it learned?), ...] per row.
    """
    before, _ = tokenization.frame(tokenizer)
    last = tokenization.eos_id(tokenizer) if end is None else end
    texts = [text for row in rows for text, _ in row]
    pieces = iter(tokenization.encode_after(tokenizer, _befores(rows), texts))
    ids, learned = [], []
    for row in rows:
        # BOS is a target only if the whole row is.
        flags = [all(flag for _, flag in row), *(flag for _, flag in row), row[-1][1]]
        parts = [before, *(next(pieces) for _ in row), np.array([last], np.int32)]
        ids.append(np.concatenate(parts))
        learned.append(np.repeat(np.array(flags, np.int32), list(map(len, parts))))
    return Rows(ids, learned, len(before))


def _befores(rows):
    """What stands before each part in its row, in the order of all parts."""
    befores = []
    for row in rows:
        text = ""
        for part, _ in row:
            befores.append(text)
            text += part
    return befores


def shorten(rows, length, *, truncate="right", words="row {}".format):
    """(`Rows` of at most `length` tokens, how many were cut).

    truncate: "right" cuts the end of a long row, "left" the beginning, "error" raises.
    words: number -> how errors call a row.
    """
    room, cut = length - rows.start, tokenization.cut
    ids, learned, count = [], [], 0
    for i, row in enumerate(zip(rows.ids, rows.learned, strict=True)):
        excess = len(row[0]) - length
        if excess > 0:
            what = f"{words(i) if truncate == 'error' else i}: the text has "
            what += f"{len(row[0])} tokens"
            kept = (cut(x[rows.start :], room, truncate, what, length) for x in row)
            row = [
                np.concatenate([x[: rows.start], part])
                for x, part in zip(row, kept, strict=True)
            ]
            count += 1
        ids.append(row[0])
        learned.append(row[1])
    return Rows(ids, learned, rows.start), count


def pad(rows, length, pad_id):
    """`Tokens` [N, L] of `Rows`, padded on the right."""
    tokens, mask = tokenization.pad_rows(rows.ids, length, pad_id, "right")
    learned = tokenization.pad_rows(rows.learned, length, 0, "right")[0]
    return Tokens(tokens, mask, learned)


def useful(rows):
    """`Rows` without those that have nothing to learn: no target but the first token,
    which nothing predicts."""
    kept = [i for i, learned in enumerate(rows.learned) if learned[1:].any()]
    return rows._replace(
        ids=[rows.ids[i] for i in kept], learned=[rows.learned[i] for i in kept]
    )


def tokens(tokenizer, rows, *, length, truncate="right", end=None):
    """`Tokens` [N, L] of texts in parts: `encode`, `shorten`, `pad`.

    A row may be left with nothing to learn.
    """
    encoded = encode(tokenizer, rows, end=end)
    short, _ = shorten(encoded, length, truncate=truncate)
    return pad(short, length, tokenization.pad_id(tokenizer))


def count_long(tokenizer, *columns, length, end=1):
    """How many rows have more than `length` tokens: those of their first text, of the
    longest of the others, of the tokenizer's own at the start, and `end`."""
    added = len(tokenization.frame(tokenizer)[0]) + end
    rows = [
        row
        for row in zip(*columns, strict=True)
        # A token has at least a byte, but for SentencePiece's mark of the start.
        if sum(len(text.encode()) + 1 for text in row) + added > length
    ]
    if not rows:
        return 0
    sizes = [
        [len(ids) for ids in tokenization.encode(tokenizer, c)]
        for c in zip(*rows, strict=True)
    ]
    first, others = sizes[0], sizes[1:] or [[0] * len(rows)]
    longest = np.max(others, axis=0)
    return int((np.array(first) + longest + added > length).sum())
