"""Batches that count tokens: what they hold, and that the step alone decides it."""

import itertools

import checks
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.data.translation import token_batches

LENGTHS = st.lists(st.integers(1, 12), min_size=1, max_size=40)


def batches(lengths, tokens=24, classes=3, **changes):
    edges = token_batches.edges(lengths, classes)
    return token_batches.TokenBatches(lengths, tokens=tokens, edges=edges, **changes)


def one_epoch(made, epoch=0):
    start = sum(made.steps(p) for p in range(epoch))
    return [made.batch(start + i) for i in range(made.steps(epoch))]


@checks.examples
@given(LENGTHS, st.integers(12, 60), st.integers(0, 3))
def test_each_row_comes_once_a_pass_in_batches_within_the_tokens(lengths, tokens, seed):
    made = batches(lengths, tokens, seed=seed)
    lengths = np.array(lengths)
    for epoch in range(2):
        rows = [row[row >= 0] for row, _ in one_epoch(made, epoch)]
        assert sorted(np.concatenate(rows).tolist()) == list(range(len(lengths)))
        assert all(0 < lengths[row].sum() <= tokens for row in rows)


@checks.examples
@given(LENGTHS, st.integers(0, 30))
def test_a_batch_depends_on_the_seed_and_the_step_alone(lengths, step):
    warm = batches(lengths, seed=3)
    for earlier in range(step):
        warm.batch(earlier)
    fresh = batches(lengths, seed=3)
    for ours, theirs in zip(fresh.batch(step), warm.batch(step), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@checks.examples
@given(LENGTHS)
def test_batches_have_the_shapes_that_were_announced(lengths):
    made = batches(lengths, multiple=4)
    lengths = np.array(lengths)
    seen = set()
    for rows, edge in one_epoch(made):
        assert lengths[rows[rows >= 0]].max() <= edge
        assert len(rows) % 4 == 0 and (rows[: (rows >= 0).sum()] >= 0).all()
        seen.add((len(rows), edge))
    assert seen == set(made.shapes()) and len(seen) <= 3


def padded(lengths, chosen):
    chosen = np.array(sorted(chosen))
    return chosen[np.searchsorted(chosen, lengths)].sum()


@checks.examples
@given(st.lists(st.integers(1, 8), min_size=1, max_size=12), st.integers(1, 4))
def test_no_other_edges_pad_less(lengths, classes):
    result = token_batches.edges(lengths, classes)
    assert list(result) == sorted(set(result)) and result[-1] == max(lengths)
    values = sorted(set(lengths))
    others = itertools.combinations(values[:-1], min(classes, len(values)) - 1)
    best = min(padded(lengths, [*other, values[-1]]) for other in others)
    assert padded(lengths, result) == best


def test_edges_by_hand():
    # (2, 10) pads four rows by 1 each, (1, 10) one row by 8.
    assert token_batches.edges([1, 1, 1, 1, 2, 10], 2) == (2, 10)
    assert token_batches.edges([1, 1, 1, 1, 2, 10], 1) == (10,)
    assert token_batches.edges([4, 4], 3) == (4,)


def test_a_batch_is_filled_while_the_sum_stays_within():
    made = token_batches.TokenBatches(
        [3, 3, 4, 1, 5, 5], tokens=10, edges=(5,), shuffle=False
    )
    result = [rows[rows >= 0].tolist() for rows, _ in one_epoch(made)]
    assert result == [[0, 1, 2], [3, 4], [5]]


def test_without_shuffling_every_pass_is_the_first():
    made = batches([3, 1, 2, 5, 1] * 4, shuffle=False)
    for ours, theirs in zip(one_epoch(made, 0), one_epoch(made, 1), strict=True):
        np.testing.assert_array_equal(ours[0], theirs[0])


def test_passes_and_seeds_are_shuffled_differently():
    lengths = [3] * 40
    orders = [
        np.concatenate([rows for rows, _ in one_epoch(batches(lengths, seed=seed), p)])
        for seed, p in ((0, 0), (0, 1), (1, 0))
    ]
    for one, other in itertools.combinations(orders, 2):
        assert (one != other).any()


def test_most_of_a_shape_is_rows():
    """Padding and fillers: on lengths as sentences have them, a fifth at most."""
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.gamma(6, 2.5, 20_000).astype(int), 3, 50)
    made = batches(lengths, tokens=2000, classes=6)
    area = sum(len(rows) * edge for rows, edge in one_epoch(made))
    assert lengths.sum() / area > 0.8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(lengths=[]), "0 rows"),
        (dict(lengths=[2, 0]), "2 rows, the shortest of length 0"),
        (dict(lengths=[2, 9]), r"9 tokens: tokens=8 and the last of edges=\(10,\)"),
        (dict(lengths=[2, 7], edges=(3, 6)), r"7 tokens.*edges=\(3, 6\)"),
    ],
)
def test_misuse_names_the_value_and_the_fix(arguments, message):
    with pytest.raises(ValueError, match=message):
        token_batches.TokenBatches(**(dict(tokens=8, edges=(10,)) | arguments))


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="0 classes of 1 different lengths"):
        token_batches.edges([3], 0)
