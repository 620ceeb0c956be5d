"""Many small RL runs in one program, against the same runs one after another.

M members share shapes, prompts and a reward model; each has weights, a key and a
learning rate of its own. `iteration` of them all is `policy_gradient.iteration` under
`vmap`. A small run leaves most of an accelerator idle, so that M members may take
little longer than one.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from experiments.throughput import measure, ours, workloads
from rlhf_jax import optim
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.models import heads
from rlhf_jax.studies import programs
from rlhf_jax.studies.population import stack
from rlhf_jax.studies.trainable import Trainable

AXIS = "members"


def race(work, algorithm, *, members, rounds):
    """Times an iteration of all members, in one program and one after another.

    Returns {"members", "together_seconds", "apart_seconds", "times_as_fast":
    {"median", "low", "high"}, "tokens_per_second", "compile_seconds"}; of the last two,
    the rate is that of the one program.
    """
    runs = Runs(work, algorithm, members)
    first = {"together": runs.together(), "apart": runs.apart()}
    times = measure.alternate({"together": runs.together, "apart": runs.apart}, rounds)
    together, apart = (measure.median(times[k]) for k in ("together", "apart"))
    return {
        "members": members,
        "together_seconds": together,
        "apart_seconds": apart,
        "times_as_fast": measure.ratios(times["together"], times["apart"]),
        "tokens_per_second": members * work.rows * work.new_tokens / together,
        "compile_seconds": {
            "together": first["together"] - together,
            "apart": first["apart"] - apart,
        },
    }


class Runs:
    """The members' states, and an iteration of all of them by either program."""

    def __init__(self, work, algorithm, members):
        self._config = work.algorithm(algorithm)
        model, params = workloads.policy(work)
        score, self._frozen = workloads.scorer(work)
        networks = policy_gradient.Networks(model, heads.Value(work.decoder))
        tx = optim.transformation(self._config.optimizer)
        one = {"networks": networks, "tx": tx, "config": self._config, "score": score}
        shared = dataclasses.replace(self._config.sampling, stop_axis=AXIS)
        every = one | {"config": dataclasses.replace(self._config, sampling=shared)}
        count = work.rows // self._config.candidates
        self._batch = jax.device_put(workloads.prompts(work, count))
        self._hypers = [_hyper(number, members) for number in range(members)]
        self._hyper = self._hypers[0]._replace(
            learning_rate=jnp.stack([hyper.learning_rate for hyper in self._hypers])
        )
        make = functools.partial(self._start, model, params, tx)
        self.states = [make(number) for number in range(members)]
        self.all_states = stack([make(number) for number in range(members)])
        self._alone = jax.jit(functools.partial(_iteration, **one), donate_argnums=0)
        self._together = jax.jit(
            jax.vmap(
                functools.partial(_iteration, **every),
                in_axes=(0, None, None, _axes(self._hyper)),
                axis_name=AXIS,
            ),
            donate_argnums=0,
        )

    def together(self):
        """Seconds of an iteration of all members in one program."""

        def advance():
            state, self.all_states = self.all_states, None  # donated
            self.all_states, metrics = self._together(
                state, self._frozen, self._batch, self._hyper
            )
            return self.all_states, metrics

        return measure.seconds(advance)

    def apart(self):
        """Seconds of an iteration of each member, one after another."""

        def advance():
            states, self.states = self.states, None
            done = [
                self._alone(state, self._frozen, self._batch, hyper)
                for state, hyper in zip(states, self._hypers, strict=True)
            ]
            self.states = [state for state, _ in done]
            return done

        return measure.seconds(advance)

    def _start(self, model, params, tx, number):
        key = jax.random.key(number)
        policy = Trainable(params, None)
        started = programs.initial_params(model, policy, self._config, key)
        return policy_gradient.init(started, tx, ours.HYPER, key, config=self._config)


def _iteration(state, frozen, batch, hyper, **given):
    state, _, metrics = policy_gradient.iteration(state, frozen, batch, hyper, **given)
    return state, metrics


def _hyper(number, members):
    """A member's scalars: learning rates from once to twice that of other timings."""
    rate = ours.HYPER.learning_rate * (1.0 + number / members)
    return jax.tree.map(jnp.asarray, ours.HYPER._replace(learning_rate=rate))


def _axes(hyper):
    """Which of the scalars the members have of their own."""
    return jax.tree.map(lambda _: None, hyper)._replace(learning_rate=0)
