"""How far and in how many directions training moved weights, by hand."""

import numpy as np
import pytest

from rlhf_jax.evaluation import updates

RNG = np.random.default_rng(0)
START = {
    "embedding": RNG.normal(size=(5, 4)).astype(np.float32),
    "layers": {"mlp": {"kernel": RNG.normal(size=(2, 4, 6)).astype(np.float32)}},
}


def moved(update):
    kernel = START["layers"]["mlp"]["kernel"] + np.asarray(update, np.float32)
    return {**START, "layers": {"mlp": {"kernel": kernel}}}


def test_nothing_moved_is_no_distance_and_no_rank():
    assert updates.distance(START, START) == 0
    assert updates.effective_rank(START, START) == 0


def test_the_distance_is_relative_to_all_weights():
    leaves = (START["embedding"], START["layers"]["mlp"]["kernel"])
    norm = np.sqrt(sum(np.square(x, dtype=np.float64).sum() for x in leaves))
    found = updates.distance(START, moved(np.full((2, 4, 6), 0.5)))
    assert found == pytest.approx(0.5 * np.sqrt(48) / norm, rel=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_equal_singular_values_have_as_much_rank_as_there_are(rank):
    left, _ = np.linalg.qr(RNG.normal(size=(4, 4)))
    right, _ = np.linalg.qr(RNG.normal(size=(6, 6)))
    update = left[:, :rank] @ right[:rank]
    found = updates.effective_rank(START, moved([update, 10 * update]))
    assert found == pytest.approx(rank, rel=1e-4)


def test_a_matrix_that_did_not_move_lowers_the_mean():
    update = np.outer(RNG.normal(size=4), RNG.normal(size=6))
    found = updates.effective_rank(START, moved([update, np.zeros((4, 6))]))
    assert found == pytest.approx(0.5, rel=1e-3)


def test_embeddings_are_no_matrix_of_the_mean():
    other = {**START, "embedding": START["embedding"] + 1}
    assert updates.effective_rank(START, other) == 0
