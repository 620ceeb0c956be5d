"""Checks that many tests share."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from jax.test_util import check_grads

JUNK = (1e4, np.inf, -np.inf, np.nan)
AXIS = "rows"
examples = settings(max_examples=25, deadline=None, derandomize=True, database=None)


def floats(shape, low=-5, high=5):
    """Strategy: float32 arrays without subnormals, which XLA flushes to 0."""
    number = st.floats(low, high, width=32, allow_subnormal=False)
    return hnp.arrays(np.float32, shape, elements=number)


def masks(shape):
    """Strategy: masks of 0 and 1, gaps and empty rows included."""
    return hnp.arrays(np.int32, shape, elements=st.integers(0, 1))


def ragged(rows=4, tokens=6):
    """A mask [rows, tokens] of right-padded rows of different lengths, one empty."""
    lengths = np.array([tokens, 1, 0, tokens - 2])[:rows]
    return (np.arange(tokens) < lengths[:, None]).astype(np.int32)


def assert_ignores(fn, arrays, mask):
    """Junk where the mask is 0 changes no bit of fn(*arrays), nor of its gradient.

    The gradient there is exactly 0. Arrays have the mask's shape, or more axes after.
    """

    def weighted(arrays):
        out = fn(*arrays)
        parts = [
            (jnp.cos(jnp.arange(x.size)).reshape(x.shape) * x).sum()
            for x in jax.tree.leaves(out)
        ]
        return sum(parts), out

    evaluate = jax.jit(jax.value_and_grad(weighted, has_aux=True))
    valid = [
        mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)) != 0 for x in arrays
    ]
    arrays = [np.asarray(x, np.float32) for x in arrays]
    (_, clean), clean_grads = evaluate(arrays)
    assert np.isfinite(np.concatenate([g.ravel() for g in clean_grads])).all()
    for grad, keep in zip(clean_grads, valid, strict=True):
        assert not np.any(np.where(keep, 0.0, grad))
    for junk in JUNK:
        dirty = [
            np.where(keep, x, np.float32(junk))
            for x, keep in zip(arrays, valid, strict=True)
        ]
        (_, out), grads = evaluate(dirty)
        jax.tree.map(np.testing.assert_array_equal, out, clean)
        jax.tree.map(np.testing.assert_array_equal, grads, clean_grads)


def assert_gradients(fn, *arrays):
    """The first and second derivatives of fn are the numerical ones, in float64."""
    with jax.enable_x64(True):
        args = tuple(jnp.asarray(x, jnp.float64) for x in arrays)
        check_grads(jax.jit(fn), args, order=2, modes=["rev"], atol=1e-6, rtol=1e-6)


def close(actual, expected, rtol=1e-6, atol=1e-7):
    """Equal to the tolerance of a closed form in float32, unless told otherwise."""
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=atol)


def same(actual, expected):
    """Pytrees equal bit for bit, structure and types included."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def buffers(tree):
    """Where the leaves of a pytree lie in memory."""
    return [x.unsafe_buffer_pointer() for x in jax.tree.leaves(tree)]
