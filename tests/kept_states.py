"""States of every type of leaf, what it takes to be the same, and full disks."""

import errno
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np


class State(NamedTuple):
    params: Any
    key: jax.Array
    step: jax.Array


def make_state(seed=0):
    rng = np.random.default_rng(seed)
    nans = np.array([0x7FC00001, 0xFFC12345, 0x7F800000], np.uint32).view(np.float32)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(3, 5)), jnp.float32),
        "half": jnp.asarray(rng.normal(size=(4,)), jnp.bfloat16),
        "half_nan": jnp.asarray(np.array([0x7FC1], np.uint16).view(ml_dtypes.bfloat16)),
        "nan": jnp.asarray(nans),
        "count": jnp.arange(6, dtype=jnp.int32) + seed,
        "flag": jnp.array([True, False]),
        "none": None,
        "empty": jnp.zeros((0, 3)),
        "number": 7 + seed,
        "host": np.arange(4, dtype=np.int64),
    }
    keys = jax.random.split(jax.random.key(seed), 2)
    return State(params, keys, jnp.int32(seed))


def bits(leaf):
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y)
        assert getattr(x, "dtype", None) == getattr(y, "dtype", None)
        assert np.shape(x) == np.shape(y)
        assert bits(x) == bits(y)


def refuse(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def native_refusal(*arguments, **options):
    raise ValueError("RESOURCE_EXHAUSTED: Error writing [os_error_code='28']")
