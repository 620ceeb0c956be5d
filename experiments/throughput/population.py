"""Many small RL runs in one program, against the same runs one after another.

The programs are those of a study with and without `--population`. M members share
prompts and a reward model; each has weights, a key and a learning rate of its own. A
small run leaves most of an accelerator idle, so that M members may take little longer
than one.
"""

import gc
import math
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments.throughput import measure, ours, workloads
from rlhf_jax import trees
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.runtime import parallel, population
from rlhf_jax.studies import programs
from rlhf_jax.studies.trainable import Trainable


def race(work, algorithm, *, members, rounds):
    """Times an iteration of all members, in one program and one after another.

    Returns {"members", "devices", "together_seconds", "apart_seconds", "times_as_fast":
    {"median", "low", "high"}, "tokens_per_second", "compile_seconds": {"together",
    "apart"}, "device_gib"}; the rate and the memory, arguments and temporaries of a
    device, are those of the one program.
    """
    runs = Runs(work, algorithm, members)
    first = {"together": runs.compile(), "apart": runs.apart()}
    runs.together()
    times = measure.alternate({"together": runs.together, "apart": runs.apart}, rounds)
    together, apart = (measure.median(times[k]) for k in ("together", "apart"))
    return {
        "members": members,
        "devices": len(runs.layout.devices),
        "together_seconds": together,
        "apart_seconds": apart,
        "times_as_fast": measure.ratios(times["together"], times["apart"]),
        "tokens_per_second": members * work.rows * work.new_tokens / together,
        "compile_seconds": {
            "together": first["together"],
            "apart": first["apart"] - apart,
        },
        "device_gib": runs.bytes / measure.GIB,
    }


def sweep(work, algorithm, counts, *, rounds, say):
    """[`race` of each number of members], each said as it ends."""
    found = []
    for members in counts:
        found.append(race(work, algorithm, members=members, rounds=rounds))
        gc.collect()
        ratio = found[-1]["times_as_fast"]
        say(
            f"{members} in one program: {found[-1]['together_seconds']:.3g} s, "
            f"{ratio['median']:.2f} times as fast as one after another "
            f"({ratio['low']:.2f} to {ratio['high']:.2f})"
        )
    return found


class Runs:
    """The members' states, and an iteration of all of them by either program."""

    def __init__(self, work, algorithm, members, *, vmapped=None):
        config = work.algorithm(algorithm)
        model, params = workloads.policy(work)
        score, frozen = workloads.scorer(work)
        devices = tuple(jax.local_devices()[: work.cpu_devices])
        self.layout = population.of(devices, members, vmapped=vmapped)
        self.host = parallel.Data(devices[: math.gcd(work.rows, len(devices))])
        given = {"score": score, "adapter": work.adapter}
        self._alone = programs.compile_programs(model, config, self.host, **given)
        self._every = programs.compile_population(
            model, config, self.layout, base=None, frozen=None, **given
        )
        count = work.rows // config.candidates
        batch = workloads.prompts(work, count)
        stacked = jax.tree.map(lambda x: np.stack([x] * members), batch)
        hypers = [_hyper(number, members) for number in range(members)]
        states = [
            _start(model, params, work.adapter, self._alone.tx, config, number)
            for number in range(members)
        ]
        self._solo = self.host.put(params), self.host.put(frozen)
        self._rows, self._hypers = self.host.shard_rows(batch), hypers
        # Copies: the population's state shares what it holds once, and is donated.
        self.states = [self.host.put(trees.copy(state)) for state in states]
        self._base, self._frozen, self._hyper = (
            self._put(params, None),
            self._put(frozen, None),
            self._put(population.stack(hypers, programs.HYPER), programs.HYPER),
        )
        self._batch = stacked._replace(row_ids=batch.row_ids)
        self.all_states = self._put(
            population.stack(states, programs.STATE), programs.STATE
        )

    def compile(self):
        """Compiles the one program; returns the seconds that it takes."""
        start = time.perf_counter()
        given = self.all_states, self._frozen, self._batch, self._hyper
        self._program = self._every.iteration.lower(self._base, *given).compile()
        sizes = self._program.memory_analysis()
        self.bytes = sizes.argument_size_in_bytes + sizes.temp_size_in_bytes
        return time.perf_counter() - start

    def together(self):
        """Seconds of an iteration of all members in one program."""

        def advance():
            state, self.all_states = self.all_states, None  # donated
            self.all_states, _, metrics = self._program(
                self._base, state, self._frozen, self._batch, self._hyper
            )
            return self.all_states, metrics

        return measure.seconds(advance)

    def apart(self):
        """Seconds of an iteration of each member, one after another."""

        def advance():
            states, self.states = self.states, None
            (base, frozen), done = self._solo, []
            for state, hyper in zip(states, self._hypers, strict=True):
                given = state, frozen, self._rows, hyper
                done.append(self._alone.iteration(base, *given))
                if self.host.devices[0].platform == "cpu":
                    # Queued steps of several CPU devices can wait for each other.
                    jax.block_until_ready(done[-1])
            self.states = [state for state, *_ in done]
            return [(state, metrics) for state, _, metrics in done]

        return measure.seconds(advance)

    def _put(self, tree, axes):
        return self.layout.put(tree, axes)


def _start(model, params, adapter, tx, config, number):
    key, policy = jax.random.key(number), Trainable(params, adapter)
    started = programs.initial_params(model, policy, config, key)
    apart = {"config": config, "hold_initial": adapter is not None}
    return policy_gradient.init(started, tx, ours.HYPER, key, **apart)


def _hyper(number, members):
    """A member's scalars: learning rates from once to twice that of other timings."""
    rate = ours.HYPER.learning_rate * (1.0 + number / members)
    return jax.tree.map(jnp.asarray, ours.HYPER._replace(learning_rate=rate))
