"""regularizers: the pull back to where weights began."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close
from jax.test_util import check_grads

from rlhf_jax import regularizers

ANCHOR = {"a": np.array([1.0, -2.0], np.float32), "b": {"c": np.float32(0.5)}}
PARAMS = {"a": np.array([3.0, -2.0], np.float32), "b": {"c": np.float32(-0.5)}}


def test_l2_by_hand():
    close(regularizers.l2(PARAMS, ANCHOR), 0.5 * (2.0**2 + 1.0**2))


def test_l1_by_hand():
    close(regularizers.l1(PARAMS, ANCHOR), 2.0 + 1.0)


@pytest.mark.parametrize("penalty", [regularizers.l1, regularizers.l2])
def test_there_is_no_penalty_and_no_pull_at_the_anchor(penalty):
    value, grads = jax.value_and_grad(penalty)(ANCHOR, ANCHOR)
    assert value == 0
    assert not any(np.any(g) for g in jax.tree.leaves(grads))


@pytest.mark.parametrize("penalty", [regularizers.l1, regularizers.l2])
def test_the_anchor_carries_no_gradient(penalty):
    grads = jax.grad(penalty, argnums=1)(PARAMS, ANCHOR)
    assert not any(np.any(g) for g in jax.tree.leaves(grads))


def test_penalties_are_the_float64_sums(rng):
    trees = [
        {n: rng.normal(size=s).astype(np.float32) for n, s in (("x", 7), ("y", (2, 3)))}
        for _ in range(2)
    ]
    flat = [np.concatenate([t[n].ravel() for n in t]).astype(float) for t in trees]
    gap = flat[0] - flat[1]
    close(regularizers.l2(*trees), 0.5 * np.sum(gap**2), 1e-5, 1e-6)
    close(regularizers.l1(*trees), np.sum(np.abs(gap)), 1e-5, 1e-6)


def test_gradients_are_the_gap_and_its_sign():
    grads = jax.grad(regularizers.l2)(PARAMS, ANCHOR)
    gap = jax.tree.map(np.subtract, PARAMS, ANCHOR)
    jax.tree.map(close, grads, gap)
    signs = jax.grad(regularizers.l1)(PARAMS, ANCHOR)
    jax.tree.map(close, signs, jax.tree.map(np.sign, gap))


def test_gradients_are_the_numerical_ones():
    with jax.enable_x64(True):
        params, anchor = (jax.tree.map(jnp.float64, t) for t in (PARAMS, ANCHOR))
        check_grads(
            lambda p: regularizers.l2(p, anchor), (params,), order=2, modes=["rev"]
        )
