"""Elastic Reset: reset the policy to its EMA, and the EMA to the initial model.

Noukhovitch, Lavoie, Strub, Courville 2023, "Language Model Alignment with Elastic
Reset", arXiv:2312.07551. There are three sets of weights: θ is trained, θ̄ is its EMA,
θ₀ is where both started. Each tick θ̄ ← d·θ̄ + (1 − d)·θ; each reset θ ← θ̄, then
θ̄ ← θ₀. The objective, the optimiser's moments, the value function and the KL
coefficient are not reset: pass the policy's parameters only.

The caller chooses what a tick is (an iteration, an epoch, an optimiser step), and with
it what a decay means: see `retained_weight`. Reset only between the last update on a
batch and the next rollout, or the old log-probs belong to another policy.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from rlhf_jax import ema, ranges, trees
from rlhf_jax.types import Params

AVERAGE, INITIAL, INTERPOLATION = range(3)  # where a reset sends the policy


class State(NamedTuple):
    """The state of Elastic Reset; no leaf shares a buffer with the parameters."""

    average: Params  # θ̄, float32
    initial: Params  # θ₀, in the dtype of the parameters, constant
    ticks: jax.Array  # [] int32, ticks so far; a reset does not change it


def init(params):
    """The State with θ̄ = θ₀ = θ, copied so that `params` may be donated."""
    initial = trees.copy(params)
    return State(_float32(params), initial, jnp.zeros((), jnp.int32))


def tick(params, state, *, decay):
    """θ̄ ← d·θ̄ + (1 − d)·θ. Returns the new State; decay [] may be traced."""
    average = ema.update(state.average, params, decay=decay)
    return state._replace(average=average, ticks=state.ticks + 1)


def due(iteration, *, every, at_zero=False):
    """Does this 0-based iteration end with a reset? True every `every` iterations.

    Iteration 0 counts only with `at_zero`; `every=0` means never. Arguments may be
    traced; returns [] bool. The paper's IMDB runs have every=17, at_zero=True (0, 17,
    34 of 50 iterations), its StackLLaMA runs every=260 (260, 520 of 600).
    """
    iteration, every = jnp.asarray(iteration), jnp.asarray(every)
    multiple = iteration % jnp.maximum(every, 1) == 0
    return multiple & (every > 0) & ((iteration > 0) | jnp.asarray(at_zero))


def reset(params, state):
    """θ ← θ̄, then θ̄ ← θ₀, bit for bit. Returns (params, state).

    No two returned leaves share a buffer, so both can be donated.
    """
    average = _float32(state.initial)
    return _like(state.average, params), state._replace(average=average)


def update(params, state, *, decay, every):
    """Tick, then reset if the tick count is a multiple of `every`.

    For loops with a single clock. Unlike `due`, whose iterations are 0-based, this
    resets after the `every`-th call. decay, every [] may be traced; `every=0` means
    never. Returns (params, state).
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
    """A reset or one of its ablations, chosen by traced arguments.

    θ ← θ̄ (`AVERAGE`), θ₀ (`INITIAL`) or (1 − w)·θ₀ + w·θ (`INTERPOLATION`); then
    θ̄ ← θ₀ if `reset_average`. The defaults give `reset`. The paper's ablations: AVERAGE
    with reset_average=False (reset to an EMA that is never reset), and INITIAL.

    Args: when [] bool, False changes nothing; target [] int; weight [] in [0, 1] is on
    θ. Returns (params, state).
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
    """1 − dⁿ: the weight of the trajectory, as opposed to θ₀, in θ̄ after n ticks.

    The same decay of 0.995 gives opposite regimes: 0.08 after 17 ticks (IMDB), 0.99
    after 1040 (StackLLaMA).
    """
    return 1.0 - decay**every


def decay_for(weight, every):
    """The decay whose `retained_weight` after `every` ticks is `weight`, in [0, 1]."""
    return (1.0 - weight) ** (1.0 / every)


def calendar(iterations, every, at_zero=False):
    """A list of the 0-based iterations in `range(iterations)` that end with a reset."""
    if every == 0:
        return []
    return list(range(0 if at_zero else every, iterations, every))


class WrapState(NamedTuple):
    """The state of `wrap`."""

    inner: Any  # the wrapped optimiser's state
    elastic: State  # of the parameters that are reset


def wrap(optimizer, *, decay, every, mask=None):
    """Wraps an optax optimiser so that any training loop does Elastic Reset.

    It must be the outermost transformation: nothing may scale, clip or skip its
    updates. `optax.MultiSteps(wrap(...), k)` accumulates gradients exactly, a tick per
    update. `wrap(optax.MultiSteps(...))` would tick at each of its k calls and is
    refused. It ticks after every optimiser step. At a reset the update is θ̄ − θ, so
    the parameters reach θ̄ up to one float32 rounding, and the EMA restarts at exactly
    θ₀. Parameters must be float32.

    Args: decay and every as in `update`; mask: which parameters are reset (a value head
    should not be): a pytree of bools, a prefix of the parameters, or a function from
    parameters to either. The others are not averaged and cost no memory.
    Returns an optax.GradientTransformationExtraArgs; its update needs `params`. Raises
    ValueError for a decay outside [0, 1] and an interval that is no whole number ≥ 0,
    and at init for an optimiser that accumulates.
    """
    ranges.check_value("decay", decay, ranges.Share)
    ranges.check_value("every", every, ranges.Natural)
    optimizer = optax.with_extra_args_support(optimizer)

    def select(params):
        marks = mask(params) if callable(mask) else (True if mask is None else mask)
        absent = optax.MaskedNode()
        return marks, jax.tree.map(lambda m, p: p if m else absent, marks, params)

    def start(params):
        _, chosen = select(params)
        inner = optimizer.init(params)
        _check_every_call_updates(inner)
        return WrapState(inner, init(chosen))

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


def _check_every_call_updates(inner):
    """Raises ValueError if the state of an optimiser is one that accumulates."""
    accumulates = lambda x: isinstance(x, optax.MultiStepsState)  # noqa: E731
    if any(map(accumulates, jax.tree.leaves(inner, is_leaf=accumulates))):
        raise ValueError(
            "elastic_reset.wrap(optax.MultiSteps(optimizer, k)) would count calls in "
            "place of updates: write optax.MultiSteps(elastic_reset.wrap(optimizer, "
            "decay=..., every=...), k)"
        )
