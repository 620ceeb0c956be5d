"""Elastic Reset: restart the policy from its average, and the average from the anchor.

Noukhovitch, Lavoie, Strub, Courville 2023, "Language Model Alignment with Elastic
Reset", arXiv:2312.07551. Three weights: θ is trained, θ̄ is its moving average, θ₀ is
where both began. Each tick θ̄ ← d·θ̄ + (1 − d)·θ; each reset first θ ← θ̄, then θ̄ ← θ₀.
The objective, the optimiser's moments, the value function and the KL coefficient are
left alone: hand in the policy's parameters only.

What a tick is (an iteration, an epoch, an optimiser step) is the caller's choice, and
decides what a decay means: see `retained_weight`. Reset only between a batch's last
update and the next rollout, or the old log-probs belong to another policy.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlhf_jax import ema, trees
from rlhf_jax.types import Params

AVERAGE, INITIAL, INTERPOLATION = range(3)  # where a reset sends the policy


class State(NamedTuple):
    """What Elastic Reset remembers; no leaf shares a buffer with the parameters."""

    average: Params  # θ̄, float32, like the parameters
    initial: Params  # θ₀, in the type of the parameters, never written
    ticks: jax.Array  # [] int32, ticks so far; a reset does not turn it back


def init(params):
    """θ̄ = θ₀ = θ, in buffers of their own, so that `params` may be donated."""
    initial = trees.copy(params)
    return State(_float32(params), initial, jnp.zeros((), jnp.int32))


def tick(params, state, *, decay):
    """θ̄ ← d·θ̄ + (1 − d)·θ. Returns the new State; decay [] may be traced."""
    average = ema.update(state.average, params, decay=decay)
    return state._replace(average=average, ticks=state.ticks + 1)


def due(iteration, *, every, at_zero=False):
    """Does iteration 0, 1, 2, ... end with a reset? Every `every`-th does; [] bool.

    Iteration 0, a multiple of everything, counts only with `at_zero`; `every=0` is
    never. Arguments may be traced. The paper's IMDB runs are every=17, at_zero=True
    (0, 17, 34 of 50 iterations), its StackLLaMA runs every=260 (260, 520 of 600).
    """
    iteration, every = jnp.asarray(iteration), jnp.asarray(every)
    multiple = iteration % jnp.maximum(every, 1) == 0
    return multiple & (every > 0) & ((iteration > 0) | jnp.asarray(at_zero))


def reset(params, state):
    """θ ← θ̄, then θ̄ ← θ₀, bit for bit. Returns (params, state).

    No two leaves of what is returned share a buffer, so both can be donated.
    """
    average = _float32(state.initial)
    return _like(state.average, params), state._replace(average=average)


def update(params, state, *, decay, every):
    """Tick, then reset when the ticks are a multiple of `every`; (params, state).

    For loops with one clock: unlike `due`, which sees 0-based iterations, this resets
    after the `every`-th call. decay, every [] may be traced; `every=0` is never.
    """
    state = tick(params, state, decay=decay)
    return apply(params, state, when=due(state.ticks, every=every))


def apply(
    params,
    state,
    *,
    when=True,
    target=AVERAGE,
    weight=0.0,
    reset_average=True,
):
    """A reset, or one of its ablations, of which the switches are all traced.

    θ ← θ̄ (`AVERAGE`), θ₀ (`INITIAL`) or (1 − w)·θ₀ + w·θ (`INTERPOLATION`); then
    θ̄ ← θ₀ if `reset_average`. With the defaults this is `reset`. The paper's ablations:
    AVERAGE with reset_average=False (reset to EMA, the EMA never reset), INITIAL.

    Args: when [] bool, nothing happens without it; target [] int; weight [] in [0, 1]
    is on θ. Returns (params, state).
    """
    average = _like(state.average, params)
    mixed = trees.lerp(state.initial, params, weight)
    goal = trees.where(jnp.asarray(target) == INITIAL, state.initial, mixed)
    goal = trees.where(jnp.asarray(target) == AVERAGE, average, goal)
    anchor = _float32(state.initial)
    again = jnp.asarray(when) & jnp.asarray(reset_average)
    state = state._replace(average=trees.where(again, anchor, state.average))
    return trees.where(jnp.asarray(when), goal, params), state


def _float32(tree):
    return jax.tree.map(lambda x: jnp.array(x, jnp.float32, copy=True), tree)


def _like(tree, params):
    return jax.tree.map(lambda x, p: jnp.array(x, p.dtype, copy=True), tree, params)


def retained_weight(decay, every):
    """1 − dⁿ: how much of the trajectory, not of θ₀, is in θ̄ after n = `every` ticks.

    0.995 is 0.08 after 17 ticks (IMDB) and 0.99 after 1040 (StackLLaMA): one decay,
    opposite regimes.
    """
    return 1.0 - decay**every


def decay_for(weight, every):
    """The decay whose `retained_weight` after `every` ticks is `weight` in [0, 1]."""
    return (1.0 - weight) ** (1.0 / every)


def calendar(iterations, every, at_zero=False):
    """The 0-based iterations of `range(iterations)` that end with a reset: a list."""
    if every == 0:
        return []
    return list(range(0 if at_zero else every, iterations, every))


class WrapState(NamedTuple):
    """The state of `wrap`."""

    inner: Any  # the wrapped optimiser's state
    elastic: State  # of the parameters that take part


def wrap(optimizer, *, decay, every, mask=None):
    """An optax optimiser whose updates carry Elastic Reset into any training loop.

    Outermost: it must see the very updates that are applied, so nothing may scale, clip
    or skip them after it. It counts optimiser steps, ticks after each, and at a reset
    its update is θ̄ − θ, so the parameters land on θ̄ to one float32 rounding; its own
    average restarts at θ₀ exactly. Parameters are float32.

    Args: decay and every as in `update`; mask: a pytree of bools, a prefix of the
    parameters, or a function that makes one of them: which take part (a value head
    should not). The others are not averaged and cost no memory.
    Returns an optax.GradientTransformationExtraArgs; its update needs `params`.
    """
    optimizer = optax.with_extra_args_support(optimizer)

    def select(params):
        marks = mask(params) if callable(mask) else (True if mask is None else mask)
        absent = optax.MaskedNode()
        return marks, jax.tree.map(lambda m, p: p if m else absent, marks, params)

    def start(params):
        _, chosen = select(params)
        return WrapState(optimizer.init(params), init(chosen))

    def step(updates, state, params=None, **extra):
        if params is None:
            raise ValueError("elastic_reset.wrap: call update(grads, state, params)")
        plain, inner = optimizer.update(updates, state.inner, params, **extra)
        moved = optax.apply_updates(params, plain)
        marks, chosen = select(moved)
        goal, elastic = update(chosen, state.elastic, decay=decay, every=every)
        jump = trees.subtract(goal, select(params)[1])
        jump = trees.where(due(elastic.ticks, every=every), jump, select(plain)[1])
        updates = jax.tree.map(lambda m, j, u: j if m else u, marks, jump, plain)
        return updates, WrapState(inner, elastic)

    return optax.GradientTransformationExtraArgs(start, step)
