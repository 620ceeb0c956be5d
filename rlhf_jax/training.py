"""The generic update: accumulate gradients of the global mean, apply them if finite.

A loss is `loss(params, batch, count) -> (value, metrics)`: a masked sum divided by
`count`, the valid tokens (or rows) of the whole minibatch over all devices and
micro-batches. It returns shares that add up to the global mean and its gradient;
averaging the means of ragged parts would not. A loss knows nothing of devices. Metrics
named `*_max` are maxima, all others add up.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlhf_jax import optim, sharding, trees


class State(NamedTuple):
    """The learner's state from one update to the next."""

    params: Any
    opt_state: Any
    updates: jax.Array  # [] int32, updates applied
    skipped: jax.Array  # [] int32, consecutive updates skipped as not finite


def init(params, tx):
    """The state before the first update; float32 parameters."""
    zero = jnp.zeros((), jnp.int32)
    return State(params, tx.init(params), zero, jnp.zeros((), jnp.int32))


def gradients(loss, params, batch, *, count, micro_batches=1, axis_name=None):
    """The gradient of the global mean, accumulated over micro-batches.

    Args: loss as in the module's docstring; batch: a pytree of this device's rows
    [rows, ...]; count [] global; micro_batches must divide rows.
    Returns (gradient pytree, metrics): the gradient is global, the metrics are this
    device's shares, for `whole`. An update communicates once, to sum gradients.
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
            part = sharding.shard_rows(part)
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
    # The sum over a single device would be a copy, of 0.5 GB at 135M weights.
    if axis_name is not None and jax.lax.axis_size(axis_name) > 1:
        grads = jax.lax.psum(grads, axis_name)
    return grads, metrics


def whole(metrics, axis_name):
    """Global metrics from the devices' shares: {name: [...]} → {name: [...]}."""
    if axis_name is None:
        return metrics
    maxima = {name: x for name, x in metrics.items() if _is_maximum(name)}
    shares = {name: x for name, x in metrics.items() if name not in maxima}
    sums = jax.lax.psum(shares, axis_name)
    return {**sums, **(jax.lax.pmax(maxima, axis_name) if maxima else {})}


def _neutral(shapes):
    """The neutral element of `_combine`: zeros, and −inf for maxima."""
    grads, metrics = shapes
    start = {
        name: jnp.full(x.shape, -jnp.inf if _is_maximum(name) else 0.0, x.dtype)
        for name, x in metrics.items()
    }
    return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), grads), start


def _combine(left, right):
    """Adds two shares of a mean; maxima are combined by max."""
    metrics = {
        name: (jnp.maximum if _is_maximum(name) else jnp.add)(value, right[1][name])
        for name, value in left[1].items()
    }
    return jax.tree.map(jnp.add, left[0], right[0]), metrics


def _is_maximum(name):
    return name.endswith("_max")


def apply(state, grads, tx, *, rate):
    """θ ← θ − rate·tx(grads), or no change at all if a gradient is not finite.

    Compiled code cannot raise: the update is skipped and counted, and the host decides
    by `skipped`. A gradient whose norm overflows counts as not finite: clipping would
    turn it into zeros, and Adam's second moment would stay inf.

    rate: a number, or a pytree prefix of the parameters with one rate per part. Returns
    (state, metrics) with `grad_norm`, NaN if a gradient is, and `finite` (1 or 0).
    """
    moved = functools.partial(_moved, tx=tx, rate=rate)
    norm = trees.norm(grads)
    finite = trees.finite((norm, moved(state, grads).params))
    # cond, not where: with donated buffers a step is then taken in place. What is tried
    # above is thrown away; keeping it until it is known to be finite would hold a
    # second copy of weights and moments, and take twice as long.
    state = jax.lax.cond(
        finite,
        moved,
        lambda state, grads: state._replace(skipped=state.skipped + 1),
        state,
        grads,
    )
    return state, {"grad_norm": norm, "finite": finite.astype(jnp.float32)}


def _moved(state, grads, *, tx, rate):
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(
        lambda r, part: jax.tree.map(lambda u: -r * u, part), rate, updates
    )
    params = optax.apply_updates(state.params, updates)
    return State(params, opt_state, state.updates + 1, jnp.zeros((), jnp.int32))


def make_step(loss, tx, *, config, count, micro_batches=1, axis_name=None):
    """A supervised step `(state, batch, hyper) -> (state, metrics)`.

    Args: loss as in the module's docstring; tx from `optim.transformation(config)`;
    count(batch) -> []: the valid items on this device. `hyper` has `learning_rate` and
    `total`, as `Hyper` does.
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
        named = {**whole(metrics, axis_name), **extra}
        return state, {**named, "learning_rate": rate, "skipped": skipped}

    return step


class Hyper(NamedTuple):
    """Traced scalars of supervised learning."""

    learning_rate: jax.Array | float
    total: jax.Array | int  # updates until the schedule reaches 0
