"""Supervised learning: one trainer for SFT, reward models, classifiers, pretraining.

A loss, rows, an optimiser: `trainer` makes an `interfaces.Trainer` of them, which a
study or a recipe runs, and `fit` runs one to its end where only weights are wanted.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import elastic_reset, optim, training
from rlhf_jax.algorithms import regularization
from rlhf_jax.data import batching
from rlhf_jax.runtime import loop
from rlhf_jax.studies import trainable as trainables
from rlhf_jax.studies.interfaces import Trainer


class Objective(NamedTuple):
    """What is minimised, and by which optimiser; programs are compiled once for each.

    make_loss(model) -> a loss as `training` has them; count(batch) -> [], the
    denominator of its mean; make_penalty(model, π₀'s weights) -> a penalty of
    `regularization`, or None; make_data(model) -> `data(params, batch, *,
    micro_batches, axis_name) -> batch`, what a whole minibatch says before its update,
    or None.
    """

    model: Any
    make_loss: Callable
    count: Callable
    optimizer: optim.Config
    micro_batches: int = 1  # parts over which an update is accumulated
    make_penalty: Callable | None = None
    make_data: Callable | None = None


class State(NamedTuple):
    """What is carried from one update to the next."""

    learner: training.State
    elastic: Any  # elastic_reset.State; () where no EMA is kept


class Hyper(NamedTuple):
    """Traced scalars of an update."""

    learning_rate: jax.Array | float
    total: jax.Array | int  # updates until the schedule reaches 0
    decay: jax.Array | float = 0.0  # of the EMA, where one is kept
    strength: jax.Array | float = 0.0  # λ of the penalty, where there is one


def initial(params, objective, *, average=False):
    """The `State` before the first update; average: whether an EMA is kept."""
    learner = training.init(params, optim.transformation(objective.optimizer))
    return State(learner, elastic_reset.init(params) if average else ())


@functools.lru_cache(maxsize=32)
def compile_step(objective, layout, *, adapter=None):
    """`(base, state, batch, hyper) -> (state, metrics)` on a layout, `State` donated.

    base: of `Trainable`, or all its weights where they anchor a penalty. Compiled once
    for all who ask for the same.
    """
    model, make_loss, count, optimizer, micro_batches, make_penalty, make_data = (
        objective
    )
    tx = optim.transformation(optimizer)

    def step(base, state, batch, hyper, *, axis_name):
        network = trainables.bind(model, base, adapter)
        loss = make_loss(network)
        if make_data is not None:
            data, parts = make_data(network), {"micro_batches": micro_batches}
            batch = data(state.learner.params, batch, **parts, axis_name=axis_name)
        if make_penalty is not None:
            penalty = make_penalty(model, base)
            loss = regularization.regularized(loss, penalty, hyper.strength)
        update = training.make_step(
            loss,
            tx,
            config=optimizer,
            count=count,
            micro_batches=micro_batches,
            axis_name=axis_name,
        )
        learner, metrics = update(state.learner, batch, hyper)
        elastic = state.elastic
        if elastic:
            elastic = elastic_reset.tick(learner.params, elastic, decay=hyper.decay)
        return State(learner, elastic), metrics

    return layout.compile(step, rows_in=(2,), outputs=2, donate=(1,))


@functools.partial(jax.jit, donate_argnums=0)
def _reset(state):
    """Weights to their EMA, the EMA to the initial weights. The state is donated."""
    params, elastic = elastic_reset.reset(state.learner.params, state.elastic)
    return State(state.learner._replace(params=params), elastic)


def trainer(
    trainable, data, objective, *, rows, steps, learning_rate, seed, layout, key=None,
    decay=None, updates=1, prefix="", prepare=None, strength=0.0,
):  # fmt: skip
    """An `interfaces.Trainer` of an objective on rows of data.

    Args:
      trainable: `Trainable`; data: a pytree of [N, ...] on the host, or a
        `streams.Stream`.
      rows: of an update; steps: iterations of the run, of `updates` updates each.
      seed: of the order of rows; key: of adapters, where those are trained.
      decay: of an EMA to reset to; None keeps none.
      prefix: of the names of metrics.
      prepare: batch -> batch on the host, before each update; None: as it is.
      strength: λ of the objective's penalty, if it has one.

    Raises ValueError for a penalty beside adapters, which it would not reach.
    """
    batches = batching.batches(data, rows, seed)
    step = compile_step(objective, layout, adapter=trainable.adapter)
    base = _base(trainable, objective, layout)
    scalars = learning_rate, steps * updates, decay or 0.0, strength
    hyper = Hyper(*map(jnp.asarray, scalars))

    def start():
        params = trainable.start(key)
        return layout.put(initial(params, objective, average=decay is not None))

    def advance(state, iteration):
        for number in range(iteration * updates, (iteration + 1) * updates):
            batch = batches.take(number)
            if prepare is not None:
                batch = prepare(batch)
            batch = layout.shard_rows(batch)
            state, metrics = step(base, state, batch, hyper)
        metrics = {**metrics, "epoch": batches.epoch((iteration + 1) * updates)}
        return state, {f"{prefix}{k}": v for k, v in metrics.items()}, None

    return Trainer(
        start=start,
        advance=advance,
        policy=lambda state: state.learner.params,
        weights=trainable.weights,
        mix=trainable.mix,
        reset=_reset,
        average=None if decay is None else lambda state: state.elastic.average,
    )


def _base(trainable, objective, layout):
    """What a step takes first: weights beside adapters, or that anchor a penalty."""
    if objective.make_penalty is None:
        return trainable.base
    if trainable.adapter is not None:
        raise ValueError(
            "a penalty on the distance from the initial model needs all weights to be "
            "trained: leave the adapter out"
        )
    return layout.put(trainable.params)


def fit(
    trainer,
    *,
    steps,
    layout,
    report=lambda step, metrics: None,
    checkpoints=None,
    save_every=0,
    signals=None,
):
    """Runs a trainer to its end and returns its policy: what it trained.

    Args: report(step, metrics) after every iteration; checkpoints: a
    `checkpoint.Checkpointer` to resume from, and to save to every `save_every` steps.
    Raises loop.Interrupted when a signal stopped it, its state saved.
    """
    saved = None
    if checkpoints is not None:
        saved = checkpoints.restore(layout.like(jax.eval_shape(trainer.start)))
    start, state = (0, trainer.start()) if saved is None else saved[:2]

    def save(state, step, final):
        if checkpoints is not None and not final:
            checkpoints.save(step, state)

    hooks = loop.Hooks(
        advance=trainer.advance,
        log=lambda step, metrics, rows: report(step, metrics),
        save=save,
    )
    plan = loop.Plan(steps=steps, save_every=save_every)
    state = loop.run(state, start=start, plan=plan, hooks=hooks, signals=signals)
    return trainer.policy(state)
