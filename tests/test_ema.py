"""ema: the moving average of parameters."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import ema

leaves = checks.floats((2, 3))


def tree(x):
    return {"layer": {"kernel": jnp.asarray(x, jnp.float32), "bias": jnp.ones(3)}}


def test_two_updates_by_algebra():
    """From 0 towards 1 and then 3 with d = ½: ½, then ¼ + 3/2 = 1.75."""
    average = {"x": jnp.zeros(2)}
    average = ema.update(average, {"x": jnp.ones(2)}, decay=0.5)
    checks.same(average, {"x": jnp.full(2, 0.5)})
    average = ema.update(average, {"x": jnp.full(2, 3.0)}, decay=0.5)
    checks.same(average, {"x": jnp.full(2, 1.75)})


@examples
@given(leaves, leaves, st.floats(0, 1))
def test_update_is_the_float64_formula_and_stays_between(average, params, decay):
    out = ema.update(tree(average), tree(params), decay=decay)["layer"]["kernel"]
    exact = decay * average.astype(np.float64) + (1 - decay) * params
    close(out, exact, 1e-6, 1e-6)
    assert (np.asarray(out) <= np.maximum(average, params) + 1e-6).all()
    assert (np.asarray(out) >= np.minimum(average, params) - 1e-6).all()


@pytest.mark.parametrize("jit", [False, True])
def test_decay_0_and_1_are_exact(rng, jit):
    update = jax.jit(ema.update) if jit else ema.update
    average, params = tree(rng.normal(size=(2, 3))), tree(rng.normal(size=(2, 3)))
    checks.same(update(average, params, decay=1.0), average)
    checks.same(update(average, params, decay=0.0), params)


@examples
@given(leaves, st.floats(0, 1))
def test_what_does_not_move_stays_bit_for_bit(x, decay):
    checks.same(ema.update(tree(x), tree(x), decay=decay), tree(x))


def test_many_updates_leave_the_powers_of_the_decay(rng):
    start, end = rng.normal(size=(2, 2, 3)).astype(np.float32)
    average = tree(start)
    for _ in range(17):
        average = ema.update(average, tree(end), decay=0.995)
    expected = 0.995**17 * start.astype(np.float64) + (1 - 0.995**17) * end
    close(average["layer"]["kernel"], expected, 1e-5, 1e-6)


def test_bf16_parameters_have_a_float32_average_that_moves():
    params = {"x": jnp.full(2, 1.1, jnp.bfloat16)}
    average = {"x": jnp.ones(2)}
    update = jax.jit(ema.update)
    for _ in range(1000):
        average = update(average, params, decay=0.999)
    assert average["x"].dtype == jnp.float32
    weight = 1 - 0.999**1000
    close(average["x"], np.full(2, 1 + weight * (float(params["x"][0]) - 1)), 1e-4)


def test_gradient_is_one_minus_the_decay_for_the_parameters(rng):
    average, params = tree(rng.normal(size=(2, 3))), tree(rng.normal(size=(2, 3)))
    params["layer"]["bias"] = params["layer"]["bias"] * 2

    def total(average, params):
        out = ema.update(average, params, decay=0.75)
        return sum(x.sum() for x in jax.tree.leaves(out))

    to_average, to_params = jax.grad(total, argnums=(0, 1))(average, params)
    checks.same(to_average, jax.tree.map(lambda x: jnp.full_like(x, 0.75), average))
    checks.same(to_params, jax.tree.map(lambda x: jnp.full_like(x, 0.25), params))


def test_update_is_traced_once_over_decays(rng):
    traces = []
    average, params = tree(rng.normal(size=(2, 3))), tree(rng.normal(size=(2, 3)))

    @jax.jit
    def compiled(decay):
        traces.append(1)
        return ema.update(average, params, decay=decay)

    for decay in (0.0, 0.9, 0.995, 1.0):
        eager = ema.update(average, params, decay=decay)
        jax.tree.map(lambda x, y: close(x, y, 1e-6, 1e-7), compiled(decay), eager)
    assert len(traces) == 1


def test_structures_that_differ_are_refused():
    with pytest.raises(ValueError):
        ema.update({"x": jnp.ones(2)}, {"y": jnp.ones(2)}, decay=0.5)
