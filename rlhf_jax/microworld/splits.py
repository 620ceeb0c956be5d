"""The split of a row of words, determined by a hash."""

import numpy as np

SPLITS = {"train": range(0, 16), "validation": range(16, 18), "test": range(18, 20)}


def number(split):
    """The index of a split: 0, 1 or 2. Raises ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    return list(SPLITS).index(split)


def draws_needed(n, split):
    """How many rows to draw to get about n in a split, with a margin."""
    number(split)
    return 64 + int(1.2 * n * 20 / len(SPLITS[split]))


def contains(rows, split, *, salt=0):
    """[N] bool: which rows [N, any] of word ids are in a split (80, 10, 10%).

    A variant of 64-bit FNV-1a that hashes a word at a time.
    """
    mixed = np.full(len(rows), 0xCBF29CE484222325 ^ salt, np.uint64)
    for column in rows.T.astype(np.uint64):
        mixed = (mixed ^ column) * np.uint64(0x100000001B3)
        mixed ^= mixed >> np.uint64(29)  # the low bits alone would depend on parity
    return np.isin((mixed >> np.uint64(20)) % np.uint64(20), SPLITS[split])
