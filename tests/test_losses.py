"""losses: what all of them promise on masks, counts, devices and gradients."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close
from loss_cases import CASES, B, T, example

from rlhf_jax import losses

each = pytest.mark.parametrize("name", CASES)


@each
@pytest.mark.parametrize("mask", ["ragged", "empty"])
def test_junk_reaches_neither_value_nor_gradient(name, mask):
    loss, arrays, mask, _ = example(name, mask)
    checks.assert_ignores(lambda *arrays: loss(*arrays, mask), arrays, mask)


@each
def test_nothing_valid_is_a_loss_of_zero(name):
    loss, arrays, mask, _ = example(name, "empty")
    value, metrics = loss(*arrays, mask)
    assert value == 0.0
    assert all(np.isfinite(x) for x in metrics.values())


@each
def test_gradients_are_the_numerical_ones(name):
    loss, arrays, mask, learned = example(name)
    data = [x.astype(np.float64) for x in arrays[learned:]]
    checks.assert_gradients(
        lambda *params: loss(*params, *data, mask)[0], *arrays[:learned]
    )


@each
def test_data_carries_no_gradient(name):
    loss, arrays, mask, learned = example(name)
    grads = jax.jit(jax.grad(lambda arrays: loss(*arrays, mask)[0]))(arrays)
    assert all(np.any(g) for g in grads[:learned])
    assert not any(np.any(g) for g in grads[learned:])


@each
def test_jit_is_eager(name):
    loss, arrays, mask, _ = example(name)
    eager, compiled = loss(*arrays, mask), jax.jit(loss)(*arrays, mask)
    jax.tree.map(close, compiled, eager)
    for leaf in jax.tree.leaves(compiled):
        assert leaf.shape == () and leaf.dtype == jnp.float32


@each
def test_rows_may_be_permuted(name):
    loss, arrays, mask, _ = example(name)
    order = np.array([2, 0, 3, 1])
    turned = loss(*(x[order] for x in arrays), mask[order])
    jax.tree.map(close, turned, loss(*arrays, mask))


def _shared(loss, learned):
    """Value and gradient in one parameter that all rows share."""

    def total(shift, arrays, mask, **over):
        moved = [(1 + shift) * x + shift for x in arrays[:learned]]
        return loss(*moved, *arrays[learned:], mask, **over)

    return jax.value_and_grad(total, has_aux=True)


@each
def test_rows_over_devices_are_rows_on_one(name):
    """Ragged rows: a mean of the devices' means would be another number."""
    loss, arrays, mask, learned = example(name)
    grad = _shared(loss, learned)

    def device(arrays, mask):
        rows = [x[None] for x in arrays]
        out, gradient = grad(0.1, rows, mask[None], axis_name=checks.AXIS)
        return out, jax.lax.pmean(gradient, checks.AXIS)

    split = jax.jit(jax.vmap(device, axis_name=checks.AXIS))(arrays, mask)
    whole = jax.jit(grad)(0.1, arrays, mask)
    jax.tree.map(lambda s, w: close(s, np.full(B, w), 1e-5, 1e-6), split, whole)


@each
def test_micro_batches_of_a_known_count_add_up(name):
    loss, arrays, mask, learned = example(name)
    grad = jax.jit(_shared(loss, learned))
    (value, metrics), gradient = grad(0.1, arrays, mask)
    parts = [
        grad(0.1, [x[cut] for x in arrays], mask[cut], count=mask.sum())
        for cut in (slice(0, 2), slice(2, 4))
    ]
    close(sum(p[0][0] for p in parts), value, 1e-5, 1e-6)
    close(sum(p[1] for p in parts), gradient, 1e-5, 1e-6)
    for key, expected in metrics.items():
        shares = [p[0][1][key] for p in parts]
        joined = max(shares) if key.endswith("_max") else sum(shares)
        close(joined, expected, 1e-5, 1e-6)


def test_hyperparameters_are_traced_once():
    traces = []
    x = np.linspace(-1, 1, B).astype(np.float32)
    tokens = np.linspace(-1, 1, B * T).astype(np.float32).reshape(B, T)

    @jax.jit
    def every(clip, beta, smoothing):
        traces.append(1)
        mask = checks.ragged(B, T)
        return (
            losses.ppo_clip(tokens, -tokens, tokens, mask, clip=clip),
            losses.value_clip(tokens, -tokens, tokens, mask, clip=clip),
            losses.dpo(x, -x, x, x, beta=beta, label_smoothing=smoothing),
            losses.ipo(x, -x, x, x, beta=beta),
            losses.bradley_terry(x, -x, preference=smoothing, margin=beta),
        )

    for hyper in ((0.1, 0.1, 0.0), (0.2, 0.5, 0.1), (np.inf, 1.0, 0.5)):
        assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(every(*hyper)))
    assert len(traces) == 1


def test_shapes_that_differ_are_refused():
    with pytest.raises(AssertionError):
        losses.nll(jnp.zeros((2, 3)), jnp.ones((2, 1)))
    with pytest.raises(AssertionError):
        losses.dpo(*[jnp.zeros(2)] * 3, jnp.zeros(1), beta=0.1)
    with pytest.raises(AssertionError):
        losses.bradley_terry(jnp.zeros((2, 1)), jnp.zeros(2))
