"""Texts of which neighbours begin alike, in rows that hold each beginning once.

R texts; N rows of W tokens and K targets. A question with its options, few examples
with the questions after them: what texts have in common is read once for all of them.
"""

from typing import NamedTuple

import numpy as np

from rlhf_jax.data import batching, packing, tokenization

_WIDTH = 256  # tokens of a row, at least
_TARGETS = 64  # of a row, or a multiple


class Branched(NamedTuple):
    """Groups of texts side by side: each a beginning, then what follows it, in parts.

    The last token of a text is predicted and not read, so it is not among the tokens.
    """

    tokens: np.ndarray  # [N, W] int32, right-padded
    mask: np.ndarray  # [N, W] int32
    texts: np.ndarray  # [N, W] int32, from 1: the group; 0: padding
    branches: np.ndarray  # [N, W] int32: 0 the beginning, from 1: the text of the group
    states: np.ndarray  # [N, K] int32: where the state is that predicts a target
    targets: np.ndarray  # [N, K] int32: the token
    owners: np.ndarray  # [N, K] int32: its text; −1: padding


class _Group(NamedTuple):
    """Neighbours and how much they share."""

    texts: list[int]
    common: int  # tokens
    size: int  # tokens to be read, the common ones once


def pack(rows):
    """`Branched` of R `Tokens` [R, T], padded on the right.

    A text joins the group of those before it where this saves tokens and W has room.
    Every target but a text's first token, which nothing predicts, is some row's target.
    Raises ValueError if padding is not on the right.
    """
    tokens, learned = np.asarray(rows.tokens), np.asarray(rows.target_mask)
    mask = batching.right_padded(rows.mask)
    read = np.maximum(mask.sum(-1) - 1, 1)
    width = max(_WIDTH, batching.power_of_two(read.max()))
    groups = _grouped(tokens, read, width)
    bins = packing.first_fit([group.size for group in groups], width)
    parts = [
        _joined([groups[i] for i in each], tokens, read, mask * learned)
        for each in bins
    ]
    most = max(len(states) for *_, states, _, _ in parts)
    widths = [width] * 3 + [max(-(-most // _TARGETS), 1) * _TARGETS] * 3
    columns = [
        tokenization.pad_rows(column, length, fill, "right")
        for column, length, fill in zip(
            zip(*parts, strict=True), widths, (0, 0, 0, 0, 0, -1), strict=True
        )
    ]
    (ids, mask), *others = columns
    return Branched(ids, mask, *(array for array, _ in others))


def _grouped(tokens, read, room):
    """Neighbours in `_Group`s, none of more than `room` tokens."""
    groups = [_Group([0], read[0], read[0])]
    for i in range(1, len(tokens)):
        last = groups[-1]
        most = min(last.common, read[i])
        differ = tokens[i, :most] != tokens[last.texts[0], :most]
        common = int(differ.argmax()) if differ.any() else most
        texts = [*last.texts, i]
        size = read[texts].sum() - (len(texts) - 1) * common
        if size < last.size + read[i] and size <= room:
            groups[-1] = _Group(texts, common, size)
        else:
            groups.append(_Group([i], read[i], read[i]))
    return groups


def _joined(groups, tokens, read, learned):
    """The columns of a row of `Branched`, without padding."""
    columns, start = [], 0
    for number, (texts, common, size) in enumerate(groups, start=1):
        lengths = read[texts] - common
        ids = [tokens[i, common : read[i]] for i in texts]
        branches = np.repeat(np.arange(len(texts) + 1), [common, *lengths])
        firsts = start + common + np.cumsum([0, *lengths[:-1]])
        found = [
            _targets(tokens[i], learned[i], common, start, first)
            for i, first in zip(texts, firsts, strict=True)
        ]
        states, targets = (np.concatenate(x) for x in zip(*found, strict=True))
        owners = np.repeat(texts, [len(x) for x, _ in found])
        columns.append(
            (
                np.concatenate([tokens[texts[0], :common], *ids]),
                np.full(size, number),
                branches,
                states,
                targets,
                owners,
            )
        )
        start += size
    return [np.concatenate(column) for column in zip(*columns, strict=True)]


def _targets(tokens, learned, common, start, first):
    """(where the states of a text's targets are, the targets)."""
    places = np.flatnonzero(learned[1:])  # of the tokens before
    states = np.where(places < common, start + places, first + places - common)
    return states, tokens[places + 1]
