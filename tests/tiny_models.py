"""Small models for tests, made without compiling an initialiser."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def draw(module, *inputs, seed=0):
    """Random parameters of a module: nothing at its special point, scales near 1."""
    inputs = inputs or (jax.ShapeDtypeStruct((1, 1), jnp.int32),)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    rng = np.random.default_rng(seed)

    def leaf(path, x):
        scale = path[-1].key == "scale"
        spread = 0.1 if scale or path[-1].key == "bias" else x.shape[-2] ** -0.5
        return jnp.array(scale + spread * rng.normal(size=x.shape), x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def compiled(module, method=None):
    """`module.apply` of a method, jitted: (params, *inputs) → its outputs."""
    apply = functools.partial(module.apply, method=method)
    static = {"static_argnums": 3} if method == "prefill" else {}
    return jax.jit(lambda p, *inputs: apply({"params": p}, *inputs), **static)
