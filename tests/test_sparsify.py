"""sparsify: which elements of a task vector are kept, and how they are rescaled."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import sparsify

HAND = jnp.array([3.0, -1.0, 0.5, -4.0, 2.0])
densities = st.floats(0.01, 1.0)


def kept(mask):
    return np.flatnonzero(np.asarray(mask)).tolist()


def order(x):
    """Indices from the largest magnitude down, the first of equals first."""
    return np.argsort(-np.abs(x).ravel(), kind="stable")


def test_largest_by_hand():
    assert kept(sparsify.largest(HAND, 0.4)) == [0, 3]
    assert kept(sparsify.largest(HAND, 0.79)) == [0, 3, 4]  # 3.95 is 3
    assert kept(sparsify.largest(HAND, 0.01)) == [3]  # at least one
    assert kept(sparsify.largest(HAND, 1.0)) == [0, 1, 2, 3, 4]


@examples
@given(checks.floats((3, 7)), densities)
def test_largest_is_numpys_sort(x, density):
    mask = np.asarray(sparsify.largest(x, density)).ravel()
    k = max(1, int(density * x.size))
    assert sorted(kept(mask)) == sorted(order(x)[:k])


def test_of_equal_magnitudes_the_first_are_kept():
    x = jnp.array([1.0, -2.0, 2.0, 2.0, 0.0, 0.0])
    assert kept(sparsify.largest(x, 0.34)) == [1, 2]
    assert kept(sparsify.largest(x, 0.84)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_largest_is_the_same_in_every_type(dtype):
    assert kept(sparsify.largest(HAND.astype(dtype), 0.6)) == [0, 3, 4]


def test_band_by_hand():
    """One outlier of five goes, then the smallest until two are left."""
    assert kept(sparsify.band(HAND, 0.4, gamma=0.2)) == [0, 4]
    assert kept(sparsify.band(HAND, 0.4, gamma=0.0)) == [0, 3]
    assert kept(sparsify.band(HAND, 0.4, gamma=0.9)) == [1, 2]  # only three can go
    assert kept(sparsify.band(HAND, 0.1, gamma=0.2)) == []
    assert kept(sparsify.band(HAND, 1.0, gamma=0.2)) == [0, 1, 2, 3, 4]


@examples
@given(checks.floats((3, 7)), st.floats(0.01, 0.99), st.floats(0, 0.99))
def test_band_is_a_slice_of_numpys_sort(x, density, gamma):
    count, outliers = int(density * x.size), int(gamma * x.size)
    outliers = min(outliers, x.size - count)
    mask = np.asarray(sparsify.band(x, density, gamma=gamma)).ravel()
    assert sorted(kept(mask)) == sorted(order(x)[outliers : outliers + count])


def test_by_rank_by_hand():
    close(
        sparsify.by_rank(HAND, 0.5, epsilon=0.2), [0.6, 0.4, 0.3, 0.7, 0.5], 1e-6, 1e-6
    )
    table = jnp.array([[1.0, 5.0, 3.0], [2.0, 4.0, 6.0]])
    rows = sparsify.by_rank(table, 0.5, epsilon=0.1)
    close(rows, [[0.4, 0.6, 0.5], [0.4, 0.5, 0.6]], 1e-6, 1e-6)
    columns = sparsify.by_rank(table, 0.5, epsilon=0.1, axis=-2)
    close(columns, [[0.4, 0.6, 0.4], [0.6, 0.4, 0.6]], 1e-6, 1e-6)


def test_what_has_no_rank_is_kept_with_the_density():
    close(sparsify.by_rank(jnp.ones((3, 1)), 0.5), np.full((3, 1), 0.5))
    close(sparsify.by_rank(jnp.float32(2), 0.5), 0.5)
    close(sparsify.by_rank(HAND, 1.0), np.ones(5))


@examples
@given(checks.floats((3, 7)), st.floats(0.2, 0.8))
def test_by_rank_is_the_float64_formula_and_averages_to_the_density(x, density):
    probability = np.asarray(sparsify.by_rank(x, density, epsilon=0.15))
    rank = np.argsort(np.argsort(np.abs(x), -1, kind="stable"), -1, kind="stable")
    close(probability, density - 0.15 + 0.3 * rank / 6, 1e-5, 1e-6)
    close(probability.mean(), density, 1e-5)


def test_draw_is_all_or_nothing_at_the_ends(rng):
    x = {"a": rng.normal(size=(4, 5)), "b": rng.normal(size=3)}
    for probability in (0.0, 1.0):
        for mask in jax.tree.leaves(sparsify.draw(jax.random.key(0), x, probability)):
            assert (np.asarray(mask) == probability).all()
    ends = sparsify.draw(jax.random.key(0), x, {"a": 1.0, "b": 0.0})
    assert ends["a"].all() and not ends["b"].any()


def test_draws_have_their_probabilities_and_no_two_leaves_share_them():
    x = {name: jnp.ones((100, 200)) for name in ("a", "b")}
    p = jnp.tile(jnp.array([0.1, 0.5]), 100)
    mask = sparsify.draw(jax.random.key(0), x, {"a": jnp.tile(p, (100, 1)), "b": 0.5})
    for column, probability in ((0, 0.1), (1, 0.5)):
        share = np.asarray(mask["a"])[:, column::2].mean()
        error = np.sqrt(probability * (1 - probability) / 1e4)
        assert abs(share - probability) < 4 * error
    again = sparsify.draw(jax.random.key(0), x, 0.5)
    alike = (np.asarray(again["a"]) == again["b"]).mean()
    assert abs(alike - 0.5) < 4 * np.sqrt(0.25 / 2e4)


def test_apply_by_hand():
    mask = jnp.array([1, 0, 0, 1, 0])
    close(sparsify.apply(HAND, mask), [3, 0, 0, -4, 0])
    close(sparsify.apply(HAND, mask, 0.5), [6, 0, 0, -8, 0])
    assert sparsify.apply(HAND.astype(jnp.bfloat16), mask, 0.5).dtype == jnp.bfloat16


def test_what_is_dropped_may_be_anything():
    junk = jnp.array([1.0, np.nan, np.inf])
    close(sparsify.apply(junk, jnp.array([True, False, False]), 0.5), [2, 0, 0])


def test_the_expectation_of_what_is_kept_is_the_vector(rng):
    """Within four standard errors, for DARE's equal probabilities and for DELLA's."""
    x = jnp.asarray(rng.normal(size=(3, 5)).astype(np.float32))
    keys = jax.random.split(jax.random.key(0), 20_000)
    for p in (jnp.full(x.shape, 0.3), sparsify.by_rank(x, 0.3)):
        drawn = jax.vmap(lambda k, p=p: sparsify.apply(x, sparsify.draw(k, x, p), p))(
            keys
        )
        error = np.asarray(drawn).std(0) / np.sqrt(len(keys))
        assert (np.abs(np.asarray(drawn).mean(0) - x) < 4 * error).all()


def test_match_by_hand():
    sparse = sparsify.apply(HAND, jnp.array([1, 0, 0, 1, 0]))  # 7 of 10.5
    close(sparsify.match(HAND, sparse), [4.5, 0, 0, -6, 0])


@examples
@given(checks.floats((3, 7)), densities)
def test_match_restores_the_sum_of_magnitudes(x, density):
    x = np.where(np.abs(x) < 1e-3, 0, x)
    sparse = sparsify.apply(x, sparsify.largest(x, density))
    matched = np.asarray(sparsify.match(x, sparse), np.float64)
    close(np.abs(matched).sum(), np.abs(x.astype(np.float64)).sum(), 1e-5)


def test_match_leaves_zeros():
    zero = jnp.zeros(3)
    close(sparsify.match(zero, zero), zero)
    close(sparsify.match(HAND, 0 * HAND), 0 * HAND)


CHOOSERS = {
    "largest": lambda x, s: sparsify.largest(x, 0.3, stacked=s),
    "band": lambda x, s: sparsify.band(x, 0.3, gamma=0.1, stacked=s),
    "by_rank": lambda x, s: sparsify.by_rank(x, 0.3, stacked=s),
    "by_rank_of_columns": lambda x, s: sparsify.by_rank(x, 0.3, axis=-2, stacked=s),
    "match": lambda x, s: sparsify.match(
        x, jax.tree.map(lambda v: jnp.where(v > 0, v, 0), x), stacked=s
    ),
}


@pytest.mark.parametrize("choose", CHOOSERS.values(), ids=CHOOSERS)
def test_stacked_layers_are_tensors_of_their_own(choose, rng):
    scales = np.array([1.0, 3.0, 0.1])
    kernel = rng.normal(size=(3, 4, 5)) * scales[:, None, None]
    bias = rng.normal(size=(3, 5)) * scales[:, None]
    x = {"layers": {"kernel": kernel, "bias": bias}, "head": rng.normal(size=(4, 5))}
    x = jax.tree.map(lambda v: v.astype(np.float32), x)
    out = jax.jit(lambda x: choose(x, {"layers": 1, "head": 0}))(x)
    for layer in range(3):
        alone = choose(jax.tree.map(lambda v, i=layer: v[i], x["layers"]), 0)
        ours = jax.tree.map(lambda v, i=layer: v[i], out["layers"])
        jax.tree.map(lambda a, b: close(a, b, 1e-6, 1e-7), ours, alone)
    close(out["head"], choose(x["head"], 0), 1e-6, 1e-7)


def test_gradients_are_the_numerical_ones(rng):
    x, y = rng.normal(size=(2, 6))
    mask = jnp.array([1, 0, 1, 1, 0, 0])
    checks.assert_gradients(lambda x: sparsify.apply(x, mask, 0.3), x)
    checks.assert_gradients(lambda x, y: sparsify.match(x, y), x, y)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, float("nan")])
def test_densities_outside_their_range_are_refused(density):
    for choose in (sparsify.largest, sparsify.band, sparsify.by_rank):
        with pytest.raises(ValueError, match=r"density .*in \(0, 1\]"):
            choose(HAND, density)


def test_shares_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="gamma 1.0"):
        sparsify.band(HAND, 0.5, gamma=1.0)
    with pytest.raises(ValueError, match="density 0.1 ± epsilon 0.15"):
        sparsify.by_rank(HAND, 0.1)
    with pytest.raises(ValueError, match=r"\(5,\) in the first tree and \(4,\)"):
        sparsify.apply(HAND, jnp.ones(4, bool))
    with pytest.raises(ValueError, match=r"\(5,\) in the first tree and \(4,\)"):
        sparsify.match(HAND, jnp.ones(4))
