"""Concatenating padded pieces of token rows."""

import numpy as np


def join(*pieces, pad="right", width=None):
    """Concatenates pieces row by row and moves all padding to one side.

    A piece is (tokens [N, L], mask [N, L]), or one word id for all rows. Returns tokens
    and mask, [N, W] int32, padded with 0; `width` cuts or pads them to W on the padded
    side.
    """
    rows = max(len(piece[0]) for piece in pieces if isinstance(piece, tuple))
    columns = [_columns(piece, rows) for piece in pieces]
    tokens, mask = (
        np.concatenate(parts, axis=1) for parts in zip(*columns, strict=True)
    )
    misplaced = mask == 0 if pad == "right" else mask != 0
    order = np.argsort(misplaced, axis=1, kind="stable")
    mask = np.take_along_axis(mask, order, axis=1).astype(np.int32)
    tokens = np.where(mask, np.take_along_axis(tokens, order, axis=1), 0)
    if width is not None:
        short = [(0, 0), (0, max(0, width - mask.shape[1]))]
        short = short if pad == "right" else [(0, 0), short[1][::-1]]
        keep = slice(0, width) if pad == "right" else slice(-width, None)
        tokens, mask = (np.pad(x, short)[:, keep] for x in (tokens, mask))
    return tokens.astype(np.int32), mask


def pack(tokens, mask, *, rows, width):
    """Fills rows with texts one after the other, each text whole in one row.

    tokens, mask [N, L], padded on the right. Texts go into a row until one does not
    fit, which begins the next. Returns tokens and mask, [rows, width] int32, of the
    texts that these rows hold. Raises ValueError if there are too few texts, or one is
    longer than a row.
    """
    lengths = np.asarray(mask).sum(1)
    if lengths.max() > width:
        raise ValueError(f"a text of {lengths.max()} tokens does not fit {width}")
    row, start = np.zeros((2, len(lengths)), int)
    number = used = 0
    for text, length in enumerate(lengths.tolist()):
        if used + length > width:
            number, used = number + 1, 0
        row[text], start[text] = number, used
        used += length
    if number < rows:
        raise ValueError(f"{len(lengths)} texts fill {number} rows, not {rows}")
    text, place = np.nonzero(np.asarray(mask) * (row < rows)[:, None])
    packed, packed_mask = np.zeros((2, rows, width), np.int32)
    where = row[text], start[text] + place
    packed[where], packed_mask[where] = np.asarray(tokens)[text, place], 1
    return packed, packed_mask


def _columns(piece, rows):
    if isinstance(piece, tuple):
        return np.asarray(piece[0]), (np.asarray(piece[1]) != 0).astype(np.int8)
    return np.full((rows, 1), int(piece)), np.ones((rows, 1), np.int8)
