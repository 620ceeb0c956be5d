"""Fitting a model to data in one call: pretraining, reward models, classifiers."""

import functools

import jax
import jax.numpy as jnp

from rlhf_jax import optim, training, trees
from rlhf_jax.data import batching
from rlhf_jax.runtime import loop


def compile_step(loss, count, config, layout):
    """A supervised step on a layout: (state, batch, hyper) -> (state, metrics).

    Args: loss and count as in `training`; config: optim.Config. State is donated,
    batches come from `layout.shard`.
    """

    def step(state, batch, hyper, *, axis_name):
        run = training.make_step(
            loss,
            optim.transformation(config),
            config=config,
            count=count,
            axis_name=axis_name,
        )
        return run(state, batch, hyper)

    return layout.compile(step, rows_in=(1,), outputs=2, donate=(0,))


class Fit:
    """A compiled step and the loop around it; one program for any number of fits."""

    def __init__(self, loss, count, config, layout):
        self._config, self._layout = config, layout
        self._step = compile_step(loss, count, config, layout)

    def __call__(
        self,
        params,
        data,
        *,
        steps,
        rows,
        learning_rate,
        seed,
        report=lambda step, metrics: None,
        checkpoints=None,
        save_every=0,
        signals=None,
    ):
        """`steps` updates of `rows` rows of `data`, a pytree of [N, ...] on the host.

        Args: params float32, not consumed; report(step, metrics) after every update;
        checkpoints: a `checkpoint.Checkpointer` to resume from and to save to every
        `save_every` updates. Returns the params.
        """
        order = batching.Epochs(jax.tree.leaves(data)[0].shape[0], rows, seed)
        hyper = training.Hyper(jnp.asarray(learning_rate), jnp.asarray(steps))
        state, start = self._start(params, checkpoints)

        def advance(state, iteration, hold_reset):
            del hold_reset
            batch = batching.take(data, order.indices(iteration))
            state, metrics = self._step(state, self._layout.shard(batch), hyper)
            return state, metrics, None

        def save(state, step, final):
            if checkpoints is not None and not final:
                checkpoints.save(step, state)

        hooks = loop.Hooks(
            advance=advance,
            log=lambda step, metrics, rows: report(step, metrics),
            save=save,
        )
        plan = loop.Plan(steps=steps, save_every=save_every)
        state = loop.run(state, start=start, plan=plan, hooks=hooks, signals=signals)
        return state.params

    def _start(self, params, checkpoints):
        tx = optim.transformation(self._config)
        make = functools.partial(training.init, tx=tx)
        if checkpoints is not None:
            found = checkpoints.restore(self._layout.like(jax.eval_shape(make, params)))
            if found is not None:
                step, state, _ = found
                return state, step
        return self._layout.place(make(trees.copy(params))), 0
