"""masking: masked means, variances, whitening and positions."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import masking

SHAPE = (4, 6)
values = checks.floats(SHAPE)
masks = checks.masks(SHAPE)


@pytest.fixture
def x(rng):
    return rng.normal(size=SHAPE).astype(np.float32)


def reference_moments(x, mask):
    """Mean and variance by counting, float64."""
    valid = [float(a) for a, m in zip(x.ravel(), mask.ravel(), strict=True) if m]
    if not valid:
        return 0.0, 0.0
    center = sum(valid) / len(valid)
    return center, sum((v - center) ** 2 for v in valid) / len(valid)


def test_zero_keeps_valid_values_and_zeroes_the_rest():
    out = masking.zero(np.array([1.0, np.nan, -np.inf]), np.array([1, 0, 0]))
    np.testing.assert_array_equal(out, [1.0, 0.0, 0.0])
    assert masking.zero(np.array([3, 4]), np.array([True, False])).dtype == jnp.int32


def test_zero_broadcasts_the_mask_over_rows(x):
    keep = np.array([1, 0, 1, 1, 0, 0])
    np.testing.assert_array_equal(masking.zero(x, keep), np.where(keep[None], x, 0))


def test_total_by_hand():
    x, mask = np.array([[1.0, 2.0], [4.0, 8.0]]), np.array([[1, 1], [0, 1]])
    assert masking.total(x, mask) == 11.0
    assert masking.total(x, np.array([[0.5, 0.0], [0.0, 0.25]])) == 2.5


def test_mean_by_hand():
    x, mask = np.array([[1.0, 2.0], [4.0, 8.0]]), np.array([[1, 1], [0, 1]])
    close(masking.mean(x, mask), 11 / 3)
    assert masking.mean(x, mask, count=22) == 0.5


def test_mean_divides_by_the_sum_of_fractional_weights():
    weights = np.array([0.5, 0.25, 0.25])
    close(masking.mean(np.array([2.0, 4.0, 8.0]), weights), 4.0)
    close(masking.mean(np.array([2.0, 4.0, 8.0]), weights / 4), 4.0)


def test_mean_of_nothing_is_zero(x):
    assert masking.mean(x, np.zeros(SHAPE)) == 0.0
    assert masking.mean(x, np.zeros(SHAPE), count=0) == 0.0


@pytest.mark.parametrize("kind", [bool, np.int32, np.float32, jnp.bfloat16])
def test_mean_takes_any_type_of_mask(x, kind):
    mask = checks.ragged()
    close(masking.mean(x, mask.astype(kind)), masking.mean(x, mask))


def test_mean_of_bf16_counts_beyond_256():
    ones = jnp.ones((1000,), jnp.bfloat16)
    assert masking.mean(ones, ones) == 1.0
    assert masking.total(ones, ones) == 1000.0


@examples
@given(values, masks)
def test_moments_are_those_of_the_counting_loop(x, mask):
    center, variance = reference_moments(x, mask)
    close(masking.total(x, mask), center * mask.sum(), 1e-5, 1e-5)
    close(masking.mean(x, mask), center, 1e-5, 1e-6)
    close(masking.var(x, mask), variance, 1e-5, 1e-6)


@examples
@given(values, masks, st.permutations(range(4)))
def test_reducers_do_not_care_for_the_order_of_rows(x, mask, order):
    order = np.array(order)
    for reducer in (masking.total, masking.mean, masking.var):
        close(reducer(x[order], mask[order]), reducer(x, mask), 1e-5, 1e-5)


def test_var_is_the_population_variance():
    assert masking.var(np.array([1.0, 3.0, 9.0]), np.array([1, 1, 0])) == 1.0


def test_whiten_by_hand():
    x, mask = np.array([[1.0, 3.0, 7.0]]), np.array([[1, 1, 0]])
    close(masking.whiten(x, mask), [[-1.0, 1.0, 0.0]])
    close(masking.whiten(2 * x, mask, shift_mean=False), [[3.0, 5.0, 0.0]])


def test_whiten_matches_the_paper_in_float64(x):
    mask = checks.ragged()
    center, variance = reference_moments(x, mask)
    expected = np.where(mask, (x - center) / np.sqrt(variance + 1e-8), 0)
    close(masking.whiten(x, mask), expected, 1e-5, 1e-6)
    kept = np.where(mask, expected + center, 0)
    close(masking.whiten(x, mask, shift_mean=False), kept, 1e-5, 1e-6)


def test_whiten_is_idempotent_with_mean_0_and_variance_1(x):
    mask = checks.ragged()
    once = masking.whiten(x, mask)
    close(masking.mean(once, mask), 0.0, atol=1e-6)
    close(masking.var(once, mask), 1.0, 1e-5)
    close(masking.whiten(once, mask), once, 1e-5, 1e-6)


def test_whiten_of_equal_values_is_zero():
    np.testing.assert_array_equal(
        masking.whiten(np.full(SHAPE, 3.0), np.ones(SHAPE)), 0
    )


def test_positions_by_hand():
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]])
    expected = [[0, 0, 0, 1], [0, 1, 2, 2], [0, 0, 0, 0]]
    np.testing.assert_array_equal(masking.positions(mask), expected)


@examples
@given(masks)
def test_positions_count_the_valid_tokens_before(mask):
    expected = [[max(sum(row[: t + 1]) - 1, 0) for t in range(6)] for row in mask]
    np.testing.assert_array_equal(masking.positions(mask), expected)


@examples
@given(masks, st.integers(1, 3))
def test_left_padding_moves_no_position(mask, pad):
    wide = np.pad(mask, ((0, 0), (pad, 0)))
    moved = masking.positions(wide)[:, pad:]
    np.testing.assert_array_equal(moved, masking.positions(mask))


def test_last_valid_by_hand():
    mask = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 0], [1, 0, 1]])
    np.testing.assert_array_equal(masking.last_valid(mask), [1, 2, 0, 2])


@examples
@given(masks)
def test_last_valid_is_the_last_index_of_a_one(mask):
    expected = [max((t for t in range(6) if row[t]), default=0) for row in mask]
    np.testing.assert_array_equal(masking.last_valid(mask), expected)


@examples
@given(masks)
def test_right_padding_moves_no_last_valid(mask):
    wide = masking.last_valid(np.pad(mask, ((0, 0), (0, 2))))
    np.testing.assert_array_equal(wide, masking.last_valid(mask))


def test_up_to_first_includes_the_hit():
    tokens = np.array([[5, 2, 7, 2], [5, 6, 7, 8], [2, 2, 2, 2]])
    expected = [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    out = masking.up_to_first(tokens == 2)
    np.testing.assert_array_equal(out, expected)
    assert out.dtype == jnp.int32


@examples
@given(masks)
def test_up_to_first_is_the_scan_of_the_loop(hits):
    expected = [[int(not row[:t].any()) for t in range(6)] for row in hits]
    np.testing.assert_array_equal(masking.up_to_first(hits == 1), expected)


@examples
@given(masks)
def test_up_to_first_is_a_prefix_with_at_most_one_hit(hits):
    out = np.asarray(masking.up_to_first(hits == 1))
    assert (np.diff(out, axis=1) <= 0).all()
    assert ((out * hits).sum(1) <= 1).all()


REDUCERS = {
    "zero": masking.zero,
    "total": masking.total,
    "mean": masking.mean,
    "mean with count": lambda x, mask: masking.mean(x, mask, count=7.0),
    "var": masking.var,
    "whiten": masking.whiten,
    "whiten, mean kept": lambda x, mask: masking.whiten(x, mask, shift_mean=False),
}


@pytest.mark.parametrize("name", REDUCERS)
@pytest.mark.parametrize("mask", [checks.ragged(), np.zeros(SHAPE, np.int32)])
def test_junk_reaches_neither_value_nor_gradient(name, mask, x):
    checks.assert_ignores(lambda x: REDUCERS[name](x, mask), [x], mask)


@pytest.mark.parametrize("name", REDUCERS)
def test_gradients_are_the_numerical_ones(name, x):
    mask = checks.ragged()
    checks.assert_gradients(lambda x: REDUCERS[name](x, mask), x)


def test_gradient_of_the_mean_is_the_mask_over_the_count(x):
    mask = checks.ragged()
    grad = jax.grad(masking.mean)(x, mask)
    close(grad, mask / mask.sum())


@pytest.mark.parametrize("name", REDUCERS)
def test_jit_is_eager(name, x):
    mask = checks.ragged()
    close(jax.jit(REDUCERS[name])(x, mask), REDUCERS[name](x, mask))


@pytest.mark.parametrize("name", ["total", "mean", "var", "whiten"])
def test_rows_over_devices_are_rows_on_one(name, x):
    mask = checks.ragged()
    fn = getattr(masking, name)
    split = jax.vmap(
        lambda x, m: fn(x[None], m[None], axis_name=checks.AXIS), axis_name=checks.AXIS
    )(x, mask)
    expected = np.asarray(fn(x, mask))
    expected = expected[:, None] if expected.ndim else np.full(4, expected)
    close(split, expected, 1e-5, 1e-7)


def test_a_given_count_is_already_global(x):
    mask = checks.ragged()
    split = jax.vmap(
        lambda x, m: masking.mean(x, m, count=mask.sum(), axis_name=checks.AXIS),
        axis_name=checks.AXIS,
    )(x, mask)
    close(split, np.full(4, masking.mean(x, mask)), 1e-5)
