"""The generic update: gradients accumulated to the global mean, applied when finite.

A loss is `loss(params, batch, count) -> (value, metrics)`, a masked mean over
`count`, the number of valid tokens (or rows) of the whole minibatch: all devices and
all micro-batches. Micro-batches then add up to the gradient of the global mean, which
averaging ragged micro-batches does not.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlhf_jax import optim, sharding, trees


class State(NamedTuple):
    """What learning carries from one update to the next."""

    params: Any
    opt_state: Any
    updates: jax.Array  # [] int32, updates applied
    skipped: jax.Array  # [] int32, updates skipped in a row, because not finite


def init(params, tx):
    """The state before the first update; float32 parameters."""
    zero = jnp.zeros((), jnp.int32)
    return State(params, tx.init(params), zero, jnp.zeros((), jnp.int32))


def gradients(loss, params, batch, *, count, micro_batches=1, axis_name=None):
    """The gradient of the global mean, one micro-batch after another.

    Args: loss as in the module's docstring; batch: pytree of
    [rows, ...] of this device; count [] global; micro_batches divides rows.
    Returns (gradient pytree, metrics), both global.
    """
    rows = jax.tree.leaves(batch)[0].shape[0]
    if rows % micro_batches:
        raise ValueError(
            f"{rows} rows a device do not divide into {micro_batches} micro-batches; "
            "choose a number that divides the rows of a minibatch on each device"
        )
    grad = jax.value_and_grad(loss, has_aux=True)

    def one(part):
        if axis_name is None:
            part = sharding.spread(part)
        (_, metrics), grads = grad(params, part, count)
        return grads, metrics

    if micro_batches == 1:
        grads, metrics = one(batch)
    else:
        parts = jax.tree.map(
            lambda x: x.reshape(micro_batches, rows // micro_batches, *x.shape[1:]),
            batch,
        )
        shapes = jax.eval_shape(one, jax.tree.map(lambda x: x[0], parts))
        (grads, metrics), _ = jax.lax.scan(
            lambda carry, part: (_combine(carry, one(part)), None),
            _neutral(shapes),
            parts,
        )
    if axis_name is not None:
        # A psum inside the loss makes each device's gradient N times its share, so
        # the mean over devices is exactly the gradient of the global loss.
        grads = jax.lax.pmean(grads, axis_name)
    return grads, metrics


def _neutral(shapes):
    """What `_combine` leaves unchanged: zeros, and −inf for a maximum."""
    grads, metrics = shapes
    start = {
        name: jnp.full(x.shape, -jnp.inf if _is_maximum(name) else 0.0, x.dtype)
        for name, x in metrics.items()
    }
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), grads), start


def _combine(left, right):
    """Shares of a mean add up; a maximum stays a maximum."""
    metrics = {
        name: (jnp.maximum if _is_maximum(name) else jnp.add)(value, right[1][name])
        for name, value in left[1].items()
    }
    return jax.tree.map(jnp.add, left[0], right[0]), metrics


def _is_maximum(name):
    return name.endswith("_max")


def apply(state, grads, tx, *, rate):
    """θ ← θ − rate·tx(grads), or nothing at all when a gradient is not finite.

    Nothing raises inside compiled code: the update is skipped and counted, the host
    reads `skipped` and decides. A gradient whose norm overflows is not finite either:
    clipping would make zeros of it, and Adam's squares would hold inf for ever.

    Returns (state, metrics) with `grad_norm`, NaN where a gradient is, and `finite`
    (1 or 0).
    """
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda u: -rate * u, updates)
    params = optax.apply_updates(state.params, updates)
    norm = trees.norm(grads)
    finite = trees.finite((norm, params))
    moved = State(params, opt_state, state.updates + 1, jnp.zeros((), jnp.int32))
    stayed = state._replace(skipped=state.skipped + 1)
    metrics = {
        "grad_norm": norm,
        "finite": finite.astype(jnp.float32),
    }
    return trees.where(finite, moved, stayed), metrics


def make_step(loss, tx, *, config, count, micro_batches=1, axis_name=None):
    """A supervised step `(state, batch, hyper) -> (state, metrics)`.

    Args: loss as in the module's docstring, called with `axis_name`
    already bound; tx from `optim.transformation(config)`; count(batch) -> [] the valid
    items on this device. `hyper` has `learning_rate` and `total`.
    """

    def step(state, batch, hyper):
        items = count(batch)
        if axis_name is not None:
            items = jax.lax.psum(items, axis_name)
        grads, metrics = gradients(
            loss,
            state.params,
            batch,
            count=items,
            micro_batches=micro_batches,
            axis_name=axis_name,
        )
        rate = optim.learning_rate(
            config, state.updates, peak=hyper.learning_rate, total=hyper.total
        )
        state, extra = apply(state, grads, tx, rate=rate)
        skipped = state.skipped.astype(jnp.float32)
        return state, {**metrics, **extra, "learning_rate": rate, "skipped": skipped}

    return step


class Hyper(NamedTuple):
    """Traced scalars of supervised learning."""

    learning_rate: jax.Array | float
    total: jax.Array | int  # updates until the schedule reaches 0
