"""Supervised training of a recipe: a compiled step, batches in order, Elastic Reset."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import elastic_reset, optim, training, trees
from rlhf_jax.data import batching


class State(NamedTuple):
    """What is carried from one update to the next."""

    learner: training.State
    elastic: Any  # elastic_reset.State; () where nothing is reset


class Hyper(NamedTuple):
    """Traced scalars of a step."""

    learning_rate: jax.Array | float
    total: jax.Array | int  # updates until the schedule reaches 0
    decay: jax.Array | float  # of the EMA
    every: jax.Array | int  # updates between resets


def compile_step(trained, make_loss, count, config, layout, *, micro_batches=1):
    """`(state, batch, hyper) -> (state, metrics)` on a layout, `State` donated.

    Args: trained: `models.Trained`; make_loss(model) -> loss of `training`;
    count(batch) -> []; config: optim.Config. The frozen base is an argument of the
    program, held once.
    """
    tx = optim.transformation(config)

    def step(base, state, batch, hyper, *, axis_name):
        run = training.make_step(
            make_loss(trained.bind(base)),
            tx,
            config=config,
            count=count,
            micro_batches=micro_batches,
            axis_name=axis_name,
        )
        learner, metrics = run(state.learner, batch, hyper)
        if not state.elastic:
            return State(learner, ()), metrics
        params, elastic = elastic_reset.update(
            learner.params, state.elastic, decay=hyper.decay, every=hyper.every
        )
        due = elastic_reset.due(elastic.ticks, every=hyper.every)
        metrics["reset/reset"] = due.astype(jnp.float32)
        return State(learner._replace(params=params), elastic), metrics

    if trained.adapter is None:
        step = functools.partial(step, ())
        return layout.compile(step, rows_in=(1,), outputs=2, donate=(0,))
    program = layout.compile(step, rows_in=(2,), outputs=2, donate=(1,))
    return functools.partial(program, trained.base)


def trainer(
    trained, data, *, make_loss, count, fit, seed, layout, resets=None, prepare=None
):
    """(start, advance, steps) for `session.Work`.

    Args: data: a pytree of [N, ...] on the host; fit: `options.Fit`; resets:
    `options.ElasticReset`; prepare(batch) -> batch on the host, before each step.
    """
    rows = jax.tree.leaves(data)[0].shape[0]
    steps = fit.updates(rows)
    order = batching.Epochs(rows, fit.rows, seed)
    tx = optim.transformation(fit.optimizer)
    every = 0 if resets is None else resets.every
    step = compile_step(
        trained,
        make_loss,
        count,
        fit.optimizer,
        layout,
        micro_batches=fit.micro_batches,
    )
    hyper = Hyper(
        jnp.asarray(fit.learning_rate),
        jnp.asarray(steps),
        jnp.asarray(resets.decay if every else 0.0),
        jnp.asarray(every),
    )

    def start():
        params = trees.copy(trained.start)
        elastic = elastic_reset.init(params) if every else ()
        return layout.place(State(training.init(params, tx), elastic))

    def advance(state, iteration, hold_reset):
        del hold_reset
        batch = batching.take(data, order.indices(iteration))
        if prepare is not None:
            batch = prepare(batch)
        state, metrics = step(state, layout.shard(batch), hyper)
        return state, {**metrics, "epoch": order.epoch(iteration + 1)}, None

    return start, advance, steps
