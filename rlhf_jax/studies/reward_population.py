"""Many reward models in one program: members that share pairs and differ in the rest.

M members, N pairs, K updates of R rows. A member has initial weights, labels, a number
of pairs, an order and a learning rate of its own; models, losses and shapes are shared,
so that one program trains them all, side by side.
"""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax import optim, training
from rlhf_jax.data import batching


class Members(NamedTuple):
    """What the members differ in."""

    params: Any  # initial weights, [M, ...]
    labels: np.ndarray  # [M, N] in [0, 1]: the probability that `chosen` is better
    counts: tuple[int, ...]  # [M]: a member learns from its first pairs, so many
    seeds: tuple[int, ...]  # [M]: of the order of pairs
    rates: tuple[float, ...]  # [M]: peak learning rates


def fit(members, pairs, objective, *, rows, steps):
    """Trains every member; each ends where `supervised.fit` would have taken it alone.

    Args: members: `Members`; pairs: `types.Preferences` [N, ...] on the host, whose
    `preference` is not read; objective: `supervised.Objective` without a penalty; rows:
    of an update; steps: updates, at whose end a schedule reaches 0.
    Returns (weights [M, ...], metrics {name: [K, M]}). Raises ValueError where members
    disagree in number, or ask for more pairs than there are.
    """
    _check(members, pairs, objective)
    order = _order(members, rows, steps)
    run = compile_fit(objective)
    hyper = training.Hyper(
        np.asarray(members.rates, np.float32),
        np.full(len(members.counts), steps, np.int32),
    )
    data = pairs._replace(preference=None)
    return run(members.params, data, np.asarray(members.labels), order, hyper)


@functools.lru_cache(maxsize=16)
def compile_fit(objective):
    """`(params, pairs, labels, order [K, M, R], hyper) -> (params, metrics)`."""
    tx = optim.transformation(objective.optimizer)
    step = training.make_step(
        objective.make_loss(objective.model),
        tx,
        config=objective.optimizer,
        count=objective.count,
        micro_batches=objective.micro_batches,
    )

    def update(state, pairs, labels, rows, hyper):
        batch = jax.tree.map(lambda x: x[rows], pairs)
        return step(state, batch._replace(preference=labels[rows]), hyper)

    every = jax.vmap(update, in_axes=(0, None, 0, 0, 0))

    def run(params, pairs, labels, order, hyper):
        state = jax.vmap(lambda p: training.init(p, tx))(params)
        advance = lambda state, rows: every(state, pairs, labels, rows, hyper)  # noqa: E731
        state, metrics = jax.lax.scan(advance, state, order)
        return state.params, metrics

    return jax.jit(run)


def _order(members, rows, steps):
    """The pairs of every update: [K, M, R] int32."""
    orders = [
        batching.Epochs(count, rows, seed)
        for count, seed in zip(members.counts, members.seeds, strict=True)
    ]
    found = [[order.indices(step) for step in range(steps)] for order in orders]
    return np.asarray(found, np.int32).swapaxes(0, 1)


def _check(members, pairs, objective):
    if objective.make_penalty is not None:
        raise ValueError(
            "a population has no penalty on the distance from its start: train with "
            "`supervised.trainer`"
        )
    size, there = len(members.counts), len(pairs.chosen)
    sizes = {
        "labels": len(members.labels),
        "seeds": len(members.seeds),
        "rates": len(members.rates),
        "weights": len(jax.tree.leaves(members.params)[0]),
    }
    for name, found in sizes.items():
        if found != size:
            raise ValueError(f"{found} {name} for {size} members: give one to each")
    for number, count in enumerate(members.counts):
        if not 1 <= count <= there:
            raise ValueError(
                f"member {number} asks for {count} pairs of {there}: choose from 1 "
                f"to {there}"
            )
