"""noise: jax's own numbers, however they are made."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import gumbel


def theirs(keys, size):
    return jax.vmap(lambda key: jax.random.gumbel(key, (size,)))(keys)


@pytest.mark.parametrize("size", [1, 2, 421])
def test_gumbel_is_that_of_jax_bit_for_bit(size):
    keys = jax.random.split(jax.random.key(3), 5)
    result = jax.jit(functools.partial(gumbel.gumbel, size=size))(keys)
    assert result.dtype == jnp.float32 and result.shape == (5, size)
    expected = jax.jit(functools.partial(theirs, size=size))(keys)
    np.testing.assert_array_equal(result, expected)


def test_keys_that_differ_in_one_word_differ_everywhere():
    data = jnp.array([[0, 0], [0, 1], [1, 0], [2**32 - 1, 0]], jnp.uint32)
    result = np.asarray(gumbel.gumbel(jax.random.wrap_key_data(data), 64))
    assert len(np.unique(result)) == result.size


def test_numbers_do_not_depend_on_how_many_are_drawn_or_who_else_draws():
    keys = jax.random.split(jax.random.key(0), 4)
    whole = gumbel.gumbel(keys, 16)
    np.testing.assert_array_equal(gumbel.gumbel(keys[1:3], 9), whole[1:3, :9])


def test_moments_are_those_of_the_gumbel_distribution():
    count = 200_000
    result = np.asarray(gumbel.gumbel(jax.random.key(1)[None], count), np.float64)
    deviation = np.pi / 6**0.5
    error = 4 * deviation / count**0.5  # four standard errors of the mean
    assert abs(result.mean() - np.euler_gamma) < error
    # Var(s²) ≈ (κ − 1) σ⁴ / n, with kurtosis κ = 5.4
    assert abs(result.var() - deviation**2) < 4 * deviation**2 * (4.4 / count) ** 0.5


def test_keys_of_another_kind_are_left_to_jax():
    keys = jax.random.split(jax.random.key(3, impl="rbg"), 2)
    np.testing.assert_array_equal(gumbel.gumbel(keys, 7), theirs(keys, 7))
