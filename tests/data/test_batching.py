"""Batches: every row once a pass, and nothing remembered but the step."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.data import batching
from rlhf_jax.types import Tokens

SIZES = st.integers(1, 12)
FEW = settings(max_examples=25, deadline=None)


@FEW
@given(SIZES, SIZES, st.integers(0, 5))
def test_each_row_comes_once_in_every_pass(n_rows, batch_size, seed):
    epochs = batching.Epochs(n_rows, batch_size, seed)
    stream = np.concatenate([epochs.indices(step) for step in range(3 * n_rows)])
    for start in range(0, 3 * n_rows, n_rows):
        np.testing.assert_array_equal(
            np.sort(stream[start : start + n_rows]), np.arange(n_rows)
        )


@FEW
@given(SIZES, SIZES, st.integers(0, 40))
def test_a_batch_depends_on_seed_and_step_alone(n_rows, batch_size, step):
    warm = batching.Epochs(n_rows, batch_size, seed=3)
    for earlier in range(step):
        warm.indices(earlier)
    batching._permutation.cache_clear()
    fresh = batching.Epochs(n_rows, batch_size, seed=3)
    np.testing.assert_array_equal(fresh.indices(step), warm.indices(step))


@pytest.mark.parametrize("steps", [1, 2, 3, 9])
def test_the_rows_that_some_batches_use_are_theirs_each_once(steps):
    epochs = batching.Epochs(n_rows=10, batch_size=4, seed=5)
    taken = np.concatenate([epochs.indices(step) for step in range(steps)])
    np.testing.assert_array_equal(epochs.used(steps), np.unique(taken))


def test_passes_and_seeds_are_shuffled_differently():
    epochs = batching.Epochs(100, 100, seed=0)
    orders = [epochs.indices(0), epochs.indices(1)]
    orders.append(batching.Epochs(100, 100, seed=1).indices(0))
    for i, order in enumerate(orders):
        for other in orders[:i]:
            assert (order != other).any()
    assert epochs.epoch(2) == 2.0 and batching.Epochs(5, 3).epoch(5) == 3.0


def test_the_caller_cannot_alter_later_batches():
    epochs = batching.Epochs(8, 8, seed=0)
    before = epochs.indices(0).copy()
    epochs.indices(0)[:] = 0
    np.testing.assert_array_equal(epochs.indices(0), before)


def test_take_picks_rows_of_arrays_and_of_lists():
    tree = {"tokens": np.arange(8).reshape(4, 2), "texts": ["a", "b", "c", "d"]}
    picked = batching.take(tree, np.array([2, 0]))
    np.testing.assert_array_equal(picked["tokens"], [[4, 5], [0, 1]])
    assert picked["texts"] == ["c", "a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            dict(n_rows=0, batch_size=2),
            "n_rows=0: must be a whole number of at least 1",
        ),
        (
            dict(n_rows=4, batch_size=0),
            "batch_size=0: must be a whole number of at least 1",
        ),
    ],
)
def test_misuse_names_the_value_and_the_fix(arguments, message):
    with pytest.raises(ValueError, match=message):
        batching.Epochs(**arguments)


@FEW
@given(st.lists(st.integers(0, 40), min_size=1, max_size=9), st.integers(1, 12))
def test_rows_of_one_width_lose_padding_alone(lengths, least):
    mask = (np.arange(40) < np.array(lengths)[:, None]).astype(np.int32)
    tokens = np.arange(mask.size, dtype=np.int32).reshape(mask.shape)
    parts = batching.by_width(Tokens(tokens, mask, mask), least=least)
    every = np.concatenate([indices for indices, _ in parts])
    np.testing.assert_array_equal(np.sort(every), np.arange(len(lengths)))
    assert len({rows.mask.shape[1] for _, rows in parts}) == len(parts)
    for indices, rows in parts:
        width = rows.mask.shape[1]
        np.testing.assert_array_equal(rows.tokens, tokens[indices, :width])
        np.testing.assert_array_equal(rows.mask.sum(-1), mask[indices].sum(-1))
        assert (rows.mask.sum(-1) * 2 > width).all() or width == min(least, 40)


def test_rows_padded_on_the_left_are_refused():
    mask = np.array([[1, 1, 0], [0, 1, 1]])
    with pytest.raises(ValueError, match="row 1 is not padded on the right"):
        batching.by_width(Tokens(mask, mask, mask))
