"""A workload through this library: one method for a round of each part.

Programs and state are those of a run of a study, and as there each round donates its
state to the next.
"""

import tempfile

import jax
import jax.numpy as jnp
import numpy as np

from experiments.throughput import measure, operations, workloads
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.algorithms.policy_gradient import collect, objective, update
from rlhf_jax.runtime import checkpoint
from rlhf_jax.studies import programs
from rlhf_jax.studies.trainable import Trainable

HYPER = policy_gradient.Hyper(learning_rate=1e-5, kl_coef=0.05)
RESETS = {"reset_every": 17}  # where an average is kept
PARTS = ("iteration", "generate", "prefill", "train", "bookkeeping", "checkpoint")


class Ours:
    """A workload with an algorithm on a layout; each method times one round."""

    def __init__(self, work, algorithm, layout):
        self.work, self.algorithm, self.layout = work, algorithm, layout
        self.config = work.algorithm(algorithm)
        self._model, params = workloads.policy(work)
        score, frozen = workloads.scorer(work)
        self._programs = programs.compile_programs(
            self._model, self.config, layout, score=score, adapter=work.adapter
        )
        self._networks, self._tx = self._programs.networks, self._programs.tx
        self._base = layout.put(params)
        self._frozen = layout.put(frozen)
        hyper = HYPER._replace(**(RESETS if self.config.keep_average else {}))
        self._hyper = jax.tree.map(jnp.asarray, hyper)
        count = work.rows // self.config.candidates
        self._batch = layout.shard_rows(workloads.prompts(work, count))
        key, policy = jax.random.key(0), Trainable(params, work.adapter)
        params = programs.initial_params(self._model, policy, self.config, key)
        apart = {"config": self.config, "hold_initial": work.adapter is not None}
        state = policy_gradient.init(params, self._tx, hyper, key, **apart)
        self._state = layout.put(state)
        self._prefill = layout.compile(
            self._fill, rows_in=(2,), rows_out=(0,), outputs=1
        )
        self._write = layout.compile(
            self._sample_rows, rows_in=(2,), rows_out=(0,), outputs=1
        )
        self._train = layout.compile(self._learn, rows_in=(3,), donate=(1,))
        self._finish = layout.compile(self._end, rows_in=(3,), donate=(1,))
        self._sample = layout.put(_sample(work))
        self._every_row = layout.shard_rows(workloads.prompts(work, work.rows))

    def iteration(self):
        """A whole iteration: rollout, scores, updates, EMA and reset, metrics."""
        return self._advance(
            lambda state: self._programs.iteration(
                self._base, state, self._frozen, self._batch, self._hyper
            )
        )

    def generate(self):
        """A rollout alone, with a different prompt in every row."""
        return measure.seconds(
            lambda: self._write(self._base, self._state, self._every_row)
        )

    def prefill(self):
        """Prefill alone: prompts to logits and a cache."""
        return measure.seconds(
            lambda: self._prefill(self._base, self._state, self._every_row)
        )

    def train(self):
        """The updates alone, on given rows."""
        return self._advance(
            lambda state: self._train(self._base, state, self._sample, self._every_row)
        )

    def bookkeeping(self):
        """The end of an iteration alone: EMA, and the reset where one is due.

        The second of two calls is timed: the first pays for memory that the previous
        part returned to the system and that an iteration would still hold.
        """

        def end(state):
            return self._finish(self._base, state, self._hyper, self._every_row)

        self._advance(end)
        return self._advance(end)

    def checkpoint(self):
        """Saves the whole state to disk, with its manifest."""
        with tempfile.TemporaryDirectory() as folder:
            writer = checkpoint.Checkpointer(folder, config_digest="throughput")
            return measure.seconds(lambda: writer.save(1, self._state))

    def _advance(self, call):
        def advance():
            # A donated state must be out of reach if the program fails.
            state, self._state = self._state, None
            self._state, *rest = call(state)
            return self._state, rest

        return measure.seconds(advance)

    def _on(self, base):
        adapter = self.work.adapter
        return programs.networks_on(self._networks, self.config, adapter, base)

    def _fill(self, base, state, batch, *, axis_name):
        del axis_name
        variables = {"params": state.learner.params["policy"]}
        logits, memory = self._on(base).policy.apply(
            variables, batch.tokens, batch.mask, self.work.length, method="prefill"
        )
        return logits, memory.keys, memory.values

    def _sample_rows(self, base, state, batch, *, axis_name):
        del axis_name
        alone = self.work.algorithm("reinforce")
        return collect.rollout(state, batch, networks=self._on(base), config=alone)

    def _learn(self, base, state, sample, rows, *, axis_name):
        del rows  # unused: a compiled program needs rows to shard
        return update.updates(
            state,
            sample,
            HYPER,
            networks=self._on(base),
            tx=self._tx,
            config=self.config,
            axis_name=axis_name,
        )

    def _end(self, base, state, hyper, rows, *, axis_name):
        del rows, axis_name
        fixed = {"tx": self._tx, "config": self.config}
        return policy_gradient.finish(state, hyper, networks=self._on(base), **fixed)


def _sample(work, seed=0):
    """Random rows to train on, with advantages of standard deviation 1."""
    rng = np.random.default_rng(seed)
    shape, length = (work.rows, work.new_tokens), (work.rows, work.length)
    tokens = rng.integers(2, work.decoder.vocab_size, length, dtype=np.int32)
    numbers = np.float32(rng.normal(size=shape))
    logps = np.full(shape, -np.log(work.decoder.vocab_size), np.float32)
    data = policy_gradient.Experience(
        tokens=tokens,
        mask=np.ones(length, np.int32),
        response_mask=np.ones(shape, np.int32),
        logps=logps,
        reference_logps=logps,
        values=np.zeros(shape, np.float32),
        scores=np.zeros(work.rows, np.float32),
        ended=np.zeros(work.rows, bool),
    )
    return objective.Sample(data, policy_gradient.Targets(numbers, numbers))


def first_rounds(subject, parts=PARTS):
    """{part: seconds} of the first round of each part, compilation included.

    A second round follows, untimed, so that later rounds are warm.
    """
    first = {part: getattr(subject, part)() for part in parts}
    for part in parts:
        getattr(subject, part)()
    return first


def describe(work, algorithm, times, *, matmul, bandwidth):
    """{name: number} of timed rounds: seconds, rates, utilisation.

    Args: times: {part: [seconds]}; matmul, bandwidth: peak operations and bytes per
    second, measured in this process.
    """
    took = {part: measure.median(values) for part, values in times.items()}
    facts = {f"{part}_seconds": value for part, value in took.items()}
    facts["relative_range"] = max(map(measure.relative_range, times.values()))
    new = work.rows * work.new_tokens
    config = work.algorithm(algorithm)
    critic, copies = config.learns_value, config.candidates
    done = {
        "iteration": (new, operations.iteration(work, critic=critic, copies=copies)),
        "generate": (new, operations.generate(work)),
        "prefill": (work.rows * work.prompt_length, operations.prefill(work)),
        "train": (work.rows * work.length, operations.update(work, critic=critic)),
    }
    for part, (tokens, count) in done.items():
        if part in took:
            facts[f"{part}_tokens_per_second"] = tokens / took[part]
            facts[f"{part}_gflops"] = count / took[part] / 1e9
            facts[f"{part}_utilisation"] = count / took[part] / matmul
    if {"generate", "prefill"} <= set(took):
        decode = max(took["generate"] - took["prefill"], 1e-9)
        read = operations.decode_bytes(work) / decode
        facts["decode_tokens_per_second"] = work.rows * (work.new_tokens - 1) / decode
        facts["decode_gib_per_second"] = read / measure.GIB
        facts["decode_bandwidth_share"] = read / bandwidth
    if {"bookkeeping", "iteration"} <= set(took):
        facts["bookkeeping_share"] = took["bookkeeping"] / took["iteration"]
    facts["matmul_gflops"] = matmul / 1e9
    facts["bandwidth_gib"] = bandwidth / measure.GIB
    return facts
