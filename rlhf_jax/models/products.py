"""Products of states and weights, where weights may be sharded over devices."""

import functools

import jax
import jax.numpy as jnp

from rlhf_jax import sharding


def product(x, kernel, dtype, result=None, *, axes=()):
    """x W over the last axis, computed in `dtype`, returned in `result` or `dtype`.

    Leading axes are merged: on CPU the weight gradient is slow if it sums over two.

    axes: those of a mesh that W is sharded over, see `sharding.axes`. Where states
    outweigh it, W is gathered for the product and again for its gradient, which is
    sharded like W; the states keep their rows on their devices (ZeRO, stage 3).
    Otherwise, as of one token a row, the states travel.
    """
    rows = x.reshape(-1, x.shape[-1]).astype(dtype)
    kernel = kernel.astype(dtype)
    if sharding.gathers(rows, kernel, axes):
        out = _of_shards(sharding.by_rows(rows), kernel, axes, result)
    else:
        out = jnp.matmul(rows, kernel, preferred_element_type=result)
    return out.reshape(*x.shape[:-1], kernel.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _of_shards(rows, kernel, axes, result):
    """The product; between forward and backward pass W is held in shards alone."""
    whole = sharding.gather(kernel, axes)
    return jnp.matmul(rows, whole, preferred_element_type=result)


def _forward(rows, kernel, axes, result):
    return _of_shards(rows, kernel, axes, result), (rows, kernel)


def _backward(axes, result, saved, gradient):
    rows, kernel = saved
    plain = functools.partial(jnp.matmul, preferred_element_type=result)
    _, pull = jax.vjp(plain, rows, sharding.gather(kernel, axes))
    of_rows, of_kernel = pull(gradient)
    return sharding.by_rows(of_rows), sharding.scatter(of_kernel, axes)


_of_shards.defvjp(_forward, _backward)
