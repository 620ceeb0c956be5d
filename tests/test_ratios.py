"""ratios: whatever the scores, the mean stands and no ratio leaves [0, 1]."""

import itertools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import heterogeneous, ratios

MEANS = (0.2, 0.5, 0.8)
compiled = jax.jit(lambda scores, mean: ratios.of_scores(scores, mean=mean))


def logit(p):
    return np.log(p) - np.log1p(-p)


# Ratios of scores


def test_ratios_of_scores_by_hand():
    """Two opposite scores are symmetric about ½; a third of 0 stays there."""
    out = ratios.of_scores(jnp.array([np.log(3), 0.0, -np.log(3)]), mean=0.5)
    close(out, [0.75, 0.5, 0.25])
    # σ(s + c) of 0.9 and 0.7, shifted by some c, have mean 0.8 again.
    out = ratios.of_scores(jnp.asarray(logit(np.array([0.9, 0.7])) + 5), mean=0.8)
    close(out, [0.9, 0.7], 1e-5)


def oracle(scores, mean, weights):
    """Bisection in float64, on c itself."""
    scores, weights = np.asarray(scores, np.float64), weights / np.sum(weights)
    low, high = -50.0 - scores.max(), 50.0 - scores.min()
    for _ in range(200):
        c = (low + high) / 2
        alphas = 1 / (1 + np.exp(-(scores + c)))
        low, high = (c, high) if weights @ alphas < mean else (low, c)
    return alphas


@examples
@given(checks.floats((3,)), st.sampled_from(MEANS), st.booleans())
def test_ratios_of_scores_are_those_of_a_float64_search(scores, mean, weighted):
    weights = np.array([1.0, 5.0, 2.0]) if weighted else np.ones(3)
    out = ratios.of_scores(scores, mean=mean, weights=weights)
    close(out, oracle(scores, mean, weights), 1e-5, 1e-6)


@pytest.mark.parametrize("size", [1.0, 1e2, 1e4, 1e30])
def test_the_mean_stands_and_ratios_stay_in_range_for_extreme_scores(rng, size):
    ends = [[1, -1, 0], [1, 1, -1], [-1, 1, 0.5], [0, 0, 0], [-1, -1, -1]]
    random = rng.uniform(-1, 1, (20, 3))
    for scores in size * np.array([*ends, *random], np.float32):
        for mean in (0.0, 1e-8, 1e-3, *MEANS, 0.999, 1.0):
            out = np.asarray(compiled(scores, mean), np.float64)
            assert abs(out.mean() - mean) < 1e-6
            assert out.min() >= 0.0 and out.max() <= 1.0


@examples
@given(checks.floats((6,), -80, 80), st.floats(0, 1), checks.floats((6,), 0.5, 1e6))
def test_the_weighted_mean_stands(scores, mean, weights):
    out = ratios.of_scores(scores, mean=mean, weights=weights)
    shares = weights.astype(np.float64) / weights.sum(dtype=np.float64)
    assert abs(shares @ np.asarray(out, np.float64) - mean) < 1e-6
    assert out.min() >= 0.0 and out.max() <= 1.0


def test_ratios_keep_the_order_of_scores_and_ignore_what_all_have_in_common():
    scores = jnp.array([0.3, -1.0, 2.0])
    out = ratios.of_scores(scores, mean=0.8)
    assert out[1] < out[0] < out[2]
    close(ratios.of_scores(scores + 7, mean=0.8), out, 1e-5)


def test_many_means_and_scores_are_one_program(rng):
    traces = []

    @jax.jit
    def of(scores, mean):
        traces.append(1)
        return ratios.of_scores(scores, mean=mean)

    for mean in MEANS:
        scores = rng.normal(size=3).astype(np.float32)
        close(of(scores, mean), ratios.of_scores(scores, mean=mean), 1e-6, 1e-7)
    assert len(traces) == 1


def test_gradients_are_the_numerical_ones(rng):
    scores, weights = rng.normal(size=4), np.array([1.0, 2.0, 3.0, 4.0])
    checks.assert_gradients(
        lambda s, m: ratios.of_scores(s, mean=m, weights=weights),
        scores,
        np.array(0.7),
    )
    checks.assert_gradients(lambda s: ratios.scaled(s, mean=0.3), scores)
    checks.assert_gradients(
        lambda r: ratios.penalty(r, mean=0.5, weights=weights, power=2), scores
    )


def test_a_saturated_ratio_has_no_gradient_and_no_nan():
    scores = jnp.array([200.0, -200.0])
    slope = jax.jacobian(lambda s: ratios.of_scores(s, mean=0.5))(scores)
    np.testing.assert_array_equal(slope, np.zeros((2, 2)))


@pytest.mark.parametrize("mean", [-0.1, 1.1, np.nan])
def test_a_mean_outside_of_0_to_1_is_refused(mean):
    for of in (
        lambda: ratios.of_scores(jnp.zeros(3), mean=mean),
        lambda: ratios.scaled(jnp.zeros(3), mean=mean),
        lambda: ratios.init(3, mean=mean),
    ):
        with pytest.raises(
            ValueError, match="ratios of mean .*: choose it from 0 to 1"
        ):
            of()


@pytest.mark.parametrize("mean", [0.0, 0.2, 0.8, 1.0])
def test_training_starts_at_plain_averaging(mean):
    scores = ratios.init(3, mean=mean)
    assert scores.dtype == jnp.float32 and np.isfinite(scores).all()
    close(ratios.of_scores(scores, mean=mean), np.full(3, mean), 0, 1e-7)
    if 0 < mean < 1:
        close(scores, np.full(3, logit(mean)), 1e-5)


# The form of the paper


def test_scaled_ratios_by_hand():
    """a = (½ + ½, ½ + ½, 1 − 0 + ½ in the limit): 1, 1, 1½ of 3½."""
    out = ratios.scaled(jnp.array([0.0, 0.0, 40.0]), mean=0.35, offset=0.5)
    close(out, [0.3, 0.3, 0.45])


@pytest.mark.parametrize(
    "K, offset, least, greatest",
    [(3, 0.1, 0.13, 2.54), (3, 0.2, 0.23, 2.25), (6, 0.5, 0.38, 2.25),
     (9, 0.9, 0.50, 1.88), (3, 1.0, 0.6, 1.5)],
)  # fmt: skip
def test_the_range_of_scaled_ratios_is_that_of_the_paper(K, offset, least, greatest):
    found = ratios.reach(K, mean=1.0, offset=offset)
    close(found, [least, greatest], 0, 5.1e-3)
    scores = np.full(K, -60.0, np.float32)
    scores[0] = 60.0
    mean = 0.2
    ends = [ratios.scaled(jnp.asarray(x), mean=mean, offset=offset)[0] for x in
            (scores, -scores)]  # fmt: skip
    close(ends[::-1], mean * np.array(found), 1e-5)


@examples
@given(checks.floats((3,), -60, 60))
def test_scaled_ratios_have_the_mean_and_the_formula(scores):
    out = ratios.scaled(scores, mean=0.4, offset=0.2)
    parts = 1 / (1 + np.exp(-scores.astype(np.float64))) + 0.2
    close(out, 3 * 0.4 * parts / parts.sum(), 1e-5)
    assert abs(out.mean() - 0.4) < 1e-6 and out.max() <= 1.0


@pytest.mark.parametrize("mean, offset", [(0.6, 0.2), (0.4, 0.0), (0.7, 1.0)])
def test_scaled_ratios_that_could_pass_1_are_refused(mean, offset):
    with pytest.raises(ValueError, match="reach .*, and ratios end at 1"):
        ratios.scaled(jnp.zeros(3), mean=mean, offset=offset)


def test_one_block_is_the_mean_whatever_its_score():
    assert ratios.reach(1, mean=0.9, offset=0.0) == (0.9, 0.9)
    for of in (ratios.of_scores, ratios.scaled):
        close(of(jnp.array([3.0]), mean=0.9), [0.9])


# The regulariser


def test_the_penalty_by_hand():
    given = jnp.array([0.5, 0.75, 0.25]), np.array([1.0, 2.0, 4.0])
    assert ratios.penalty(given[0], mean=0.5, weights=given[1]) == 1.5
    assert ratios.penalty(given[0], mean=0.5, weights=given[1], power=2) == 0.375
    slope = jax.grad(lambda r: ratios.penalty(r, mean=0.5, weights=given[1]))(given[0])
    np.testing.assert_array_equal(slope, [0.0, 2.0, -4.0])


def test_middle_layers_weigh_most_as_in_the_authors_code():
    index = heterogeneous.split(26, 3)
    each = np.array([25 / (abs(layer - 13) + 1) for layer in range(26)])
    expected = [7 * each[index == k].sum() for k in range(3)]
    close(ratios.middle_weights(index), expected)
    assert np.argmax(ratios.middle_weights(index)) == 1


# Controls


def test_permutations_are_all_orders_the_given_one_first():
    out = ratios.permutations([0.9, 0.8, 0.7])
    np.testing.assert_array_equal(out[0], [0.9, 0.8, 0.7])
    assert {tuple(x) for x in out} == set(itertools.permutations([0.9, 0.8, 0.7]))
    with pytest.raises(ValueError, match="8 ratios have too many orders"):
        ratios.permutations(np.zeros(8))


@pytest.mark.parametrize(
    "like", [[0.9, 0.8, 0.7], [1.0, 1.0, 0.4], [0.8, 0.8, 0.8], [0.05, 0.1, 0.45]]
)
def test_random_ratios_have_the_mean_and_the_spread_of_others(like):
    like = np.array(like, np.float32)
    out = np.asarray(ratios.random(jax.random.key(0), like, count=20), np.float64)
    assert out.shape == (20, 3) and out.min() >= 0.0 and out.max() <= 1.0
    close(out.mean(1), np.full(20, like.mean()), 0, 1e-6)
    close(out.std(1), np.full(20, like.std()), 1e-3, 1e-5)
    if like.std() > 0.01:
        assert len({tuple(np.argsort(x)) for x in out}) > 3


def test_random_ratios_weigh_both_moments():
    like, weights = np.array([0.9, 0.6, 0.7], np.float32), np.array([1.0, 2.0, 5.0])
    out = ratios.random(jax.random.key(1), like, count=5, weights=weights)
    shares = weights / weights.sum()
    close(out @ shares, np.full(5, like @ shares), 0, 1e-6)
    spread = [shares @ (x - x @ shares) ** 2 for x in np.asarray([like, *out])]
    close(spread, np.full(6, spread[0]), 2e-3)
