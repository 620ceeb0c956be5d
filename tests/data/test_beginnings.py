"""What neighbours have in common at their beginning is held once, nothing is lost."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from rlhf_jax.data import beginnings
from rlhf_jax.types import Tokens

QUESTION = [5, 6, 7, 8]


def rows(*texts):
    """`Tokens` of (ids, how many of the last ones are targets)."""
    longest = max(len(ids) for ids, _ in texts)
    tokens = [ids + [0] * (longest - len(ids)) for ids, _ in texts]
    places = np.arange(longest)
    lengths = np.array([len(ids) for ids, _ in texts])[:, None]
    counts = np.array([count for _, count in texts])[:, None]
    mask = (places < lengths).astype(np.int32)
    targets = mask * (places >= lengths - counts)
    return Tokens(np.array(tokens, np.int32), mask, targets.astype(np.int32))


def unpacked(packed):
    """{text: [(all tokens that its target sees, the target)]}."""
    found = {}
    for row in range(len(packed.tokens)):
        for state, target, owner in zip(
            packed.states[row], packed.targets[row], packed.owners[row], strict=True
        ):
            if owner < 0:
                continue
            text, branch = packed.texts[row, state], packed.branches[row, state]
            seen = (np.arange(packed.tokens.shape[1]) <= state) & (
                packed.texts[row] == text
            )
            seen &= np.isin(packed.branches[row], (0, branch))
            before = packed.tokens[row, seen].tolist()
            found.setdefault(int(owner), []).append((before, int(target)))
    return found


def expected(data):
    return {
        i: [
            (data.tokens[i, :k].tolist(), int(data.tokens[i, k]))
            for k in np.flatnonzero(data.target_mask[i])
            if k
        ]
        for i in range(len(data.tokens))
        if data.target_mask[i, 1:].any()
    }


def test_a_question_is_held_once_for_all_its_options():
    data = rows((QUESTION + [1, 2], 2), (QUESTION + [3], 1), (QUESTION + [1, 4], 2))
    packed = beginnings.pack(data)
    assert packed.tokens.shape[0] == 1
    # The question, and one token of each long option: the last ones are not read.
    assert packed.mask.sum() == len(QUESTION) + 2
    assert unpacked(packed) == expected(data)


def test_options_may_begin_alike_or_be_equal():
    data = rows((QUESTION + [1, 2], 2), (QUESTION + [1, 2], 2), (QUESTION + [1, 3], 2))
    packed = beginnings.pack(data)
    assert packed.mask.sum() == len(QUESTION) + 1
    assert unpacked(packed) == expected(data)


def test_texts_without_a_common_beginning_do_not_see_each_other():
    data = rows(([1, 2, 3], 2), ([4, 5, 6], 1), ([7, 8], 1))
    packed = beginnings.pack(data)
    assert packed.tokens.shape[0] == 1  # side by side
    assert len(np.unique(packed.texts[packed.mask != 0])) == 3
    assert unpacked(packed) == expected(data)


def test_a_text_joins_only_where_this_saves_tokens():
    """Sharing one token with the next question would give up four of this one."""
    other = [5, 9, 9, 9]
    data = rows((QUESTION + [1], 1), (QUESTION + [2], 1), (other + [1], 1))
    packed = beginnings.pack(data)
    assert packed.mask.sum() == len(QUESTION) + len(other)


def test_rows_are_as_wide_as_the_longest_text_needs():
    long = list(range(300))
    packed = beginnings.pack(rows((long, 3), (long[:299] + [7], 3), ([1, 2], 1)))
    assert packed.tokens.shape == (1, 512)
    assert packed.mask.sum() == 299 + 1


def test_padding_must_be_on_the_right():
    data = rows(([1, 2, 3], 1), ([1, 2], 1))
    flipped = Tokens(*(x[:, ::-1] for x in data))
    with pytest.raises(ValueError, match="row 1 is not padded on the right"):
        beginnings.pack(flipped)


TEXT = st.lists(st.integers(1, 3), min_size=1, max_size=8)


@hypothesis.given(st.lists(st.tuples(TEXT, st.integers(0, 8)), min_size=1, max_size=12))
def test_every_target_sees_what_it_saw_in_its_own_text(texts):
    data = rows(*((ids, min(count, len(ids))) for ids, count in texts))
    packed = beginnings.pack(data)
    assert unpacked(packed) == expected(data)
    read = np.maximum(data.mask.sum(-1) - 1, 1).sum()
    assert packed.mask.sum() <= read
