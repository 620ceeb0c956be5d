"""Texts side by side in long rows, so that little of a batch is padding, or none."""

import numpy as np

from rlhf_jax.data import tokenization
from rlhf_jax.types import Packed, Tokens


def documents(tokenizer, texts, *, length):
    """`Tokens` [N, L] without padding: documents with EOS, concatenated and cut.

    The incomplete row at the end is dropped. Raises ValueError if there is no other.
    """
    before, _ = tokenization.frame(tokenizer)
    end = np.array([tokenization.eos_id(tokenizer)], np.int32)
    stream = []
    for chunk in tokenization.chunks(texts):
        rows = tokenization.ids(tokenizer, chunk)
        stream.append(np.concatenate([x for row in rows for x in (before, row, end)]))
    stream = np.concatenate([end[:0], *stream])
    blocks = len(stream) // length
    if not blocks:
        raise ValueError(
            f"the texts have {len(stream)} tokens in all, less than one row of "
            f"length={length}; give more text, or a smaller length"
        )
    tokens = stream[: blocks * length].reshape(blocks, length)
    ones = np.broadcast_to(np.int32(1), tokens.shape)  # takes no memory
    return Tokens(tokens, ones, ones)


def pack(rows, length, pad_id):
    """`Packed` [M, L] of `spans.Rows`, none of which is longer than L.

    Texts of a row are segments 1, 2, ...; their first tokens are no targets, as they
    are not predicted from the text before.
    """
    bins = first_fit([len(row) for row in rows.ids], length)
    learned = [np.concatenate([row[:1] * 0, row[1:]]) for row in rows.learned]
    numbers = [
        np.repeat(np.arange(1, len(group) + 1), [len(rows.ids[i]) for i in group])
        for group in bins
    ]
    joined = [
        [np.concatenate([part[i] for i in group]) for group in bins]
        for part in (rows.ids, learned)
    ]
    tokens, mask = tokenization.pad_rows(joined[0], length, pad_id, "right")
    targets, segments = (
        tokenization.pad_rows(part, length, 0, "right")[0]
        for part in (joined[1], numbers)
    )
    return Packed(tokens, mask, targets, segments)


def first_fit(sizes, room):
    """Items in bins by first fit decreasing: a list of the items of each bin.

    The largest items first, each into the first bin that has room for it; this takes at
    most 11/9 of the fewest bins, and 2/3 of one (Dósa 2007, "The Tight Bound of First
    Fit Decreasing Bin-Packing Algorithm"). sizes: at least 1 and at most `room` each.
    """
    sizes = np.asarray(sizes)
    bins, left = [], np.zeros(0, np.int64)
    for size in np.unique(sizes)[::-1]:
        items = np.flatnonzero(sizes == size)
        # Equal items fill one bin after the other, then new ones.
        fits = np.minimum(left // size, len(items))
        before = np.cumsum(fits) - fits
        taken = np.clip(len(items) - before, 0, fits)
        rest = len(items) - int(taken.sum())
        each = room // size
        fresh = np.full(-(-rest // each), each)
        if len(fresh):
            fresh[-1] = rest - each * (len(fresh) - 1)
        taken = np.concatenate([taken, fresh])
        left = np.concatenate([left, np.full(len(fresh), room)]) - size * taken
        bins += [[] for _ in fresh]
        cuts = np.cumsum(taken)
        for number in np.flatnonzero(taken):
            end = cuts[number]
            bins[number] += items[end - taken[number] : end].tolist()
    return bins
