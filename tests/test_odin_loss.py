"""losses.odin: quality and length in two heads, kept apart by correlations."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close

from rlhf_jax import losses

B, D = 4, 3
APART = np.eye(D)[:, :2]  # two directions at a right angle
MASK = np.array([1, 1, 0, 1])


@pytest.fixture
def given(rng):
    """(chosen, rejected [B, 2], their lengths [B], directions [D, 2])."""
    scores = [rng.normal(size=(B, 2)).astype(np.float32) for _ in range(2)]
    lengths = [rng.integers(1, 30, B).astype(np.float32) for _ in range(2)]
    return *scores, *lengths, rng.normal(size=(D, 2)).astype(np.float32)


def formula(chosen, rejected, chosen_lengths, rejected_lengths, directions, mask):
    """The definition in float64, of the valid rows."""
    keep = mask != 0
    chosen, rejected = (x[keep].astype(np.float64) for x in (chosen, rejected))
    gap = (chosen - rejected).sum(1)
    quality, length = np.concatenate([chosen, rejected]).T
    lengths = np.concatenate([chosen_lengths[keep], rejected_lengths[keep]])
    rho = lambda x: np.corrcoef(lengths, x)[0, 1]  # noqa: E731
    w_q, w_l = directions.T.astype(np.float64)
    cosine = w_q @ w_l / np.linalg.norm(w_q) / np.linalg.norm(w_l)
    apart = 1 - rho(length) + abs(rho(quality)) + abs(rho(quality + length))
    return np.logaddexp(0, -gap).mean() + apart + abs(cosine)


def test_odin_by_hand():
    """r_L is the length and r_Q has nothing to do with it: ρ is 1 and 0."""
    chosen, rejected = np.array([[1.0, 1], [-1, 2]]), np.array([[-1.0, 1], [1, 2]])
    lengths = np.array([1.0, 2.0])
    loss, metrics = losses.odin(chosen, rejected, lengths, lengths, APART)
    # The sums are 2, 1 and 0, 3, so gaps are 2 and −2. Against lengths 1, 2, 1, 2 their
    # covariance is ¼, their deviations are √1.25 and ½.
    ranking = (np.log1p(np.exp(-2)) + np.log1p(np.exp(2))) / 2
    close(loss, ranking + 0.25 / (np.sqrt(1.25) * 0.5), 1e-5)
    close(metrics["quality_length"], 0.0, atol=1e-6)
    close(metrics["length_length"], 1.0, 1e-5)
    close(metrics["cosine"], 0.0, atol=1e-6)
    assert metrics["accuracy"] == 0.5


def test_without_weight_odin_is_bradley_terry_of_the_sum(given):
    chosen, rejected, *_ = given
    plain, _ = losses.bradley_terry(chosen.sum(-1), rejected.sum(-1))
    close(losses.odin(*given, weight=0.0)[0], plain)
    half = (losses.odin(*given)[0] + plain) / 2
    close(losses.odin(*given, weight=0.5)[0], half, 1e-5)


@pytest.mark.parametrize("mask", [np.ones(B, int), MASK])
def test_odin_is_the_numpy_formula(given, mask):
    loss, _ = losses.odin(*given, mask=mask)
    close(loss, formula(*given, mask), 1e-5, 1e-5)


def test_correlations_ignore_the_units_of_length(given):
    chosen, rejected, *lengths, directions = given
    other = losses.odin(chosen, rejected, *(7 * x + 5 for x in lengths), directions)
    jax.tree.map(lambda x, y: close(x, y, 1e-4, 1e-5), other, losses.odin(*given))


def test_junk_reaches_neither_value_nor_gradient(given):
    directions = given[-1]
    checks.assert_ignores(
        lambda *x: losses.odin(*x, directions, mask=MASK), given[:-1], MASK
    )


def test_gradients_are_the_numerical_ones(given):
    chosen, rejected, *lengths, directions = given
    lengths = [x.astype(np.float64) for x in lengths]
    checks.assert_gradients(
        lambda c, r, w: losses.odin(c, r, *lengths, w, mask=MASK)[0],
        chosen,
        rejected,
        directions,
    )


def test_equal_scores_have_a_finite_gradient(given):
    _, _, *lengths, directions = given
    zeros = jnp.zeros((B, 2))
    grad = jax.grad(lambda s: losses.odin(s, s, *lengths, directions)[0])(zeros)
    assert np.isfinite(grad).all()


def test_devices_hold_the_loss_of_all_rows(given):
    *rows, directions = given

    def device(*rows):
        rows = [x[None] for x in rows]
        return losses.odin(*rows, directions, axis_name=checks.AXIS)[0]

    split = jax.vmap(device, axis_name=checks.AXIS)(*rows)
    close(split, np.full(B, losses.odin(*given)[0]), 1e-5, 1e-6)


def test_shares_of_a_count_are_halves_of_the_parts_loss(given):
    """Of micro-batches: the mean of their losses, each with its own correlations."""
    *rows, directions = given
    part = [x[:2] for x in rows]
    whole, metrics = losses.odin(*part, directions)
    share, shares = losses.odin(*part, directions, count=4)
    close(share, whole / 2, 1e-5)
    jax.tree.map(lambda x, y: close(x, y / 2, 1e-5, 1e-6), shares, metrics)
