"""A workload through this library: what one round of each of its parts is.

Programs and state as `cells` makes them for a study; the state is donated from round to
round, as it is there.
"""

import tempfile
import types

import jax
import jax.numpy as jnp
import numpy as np

from experiments.throughput import measure, operations, workloads
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.algorithms.policy_gradient import collect, update
from rlhf_jax.runtime import checkpoint
from rlhf_jax.studies import cells

HYPER = policy_gradient.Hyper(learning_rate=1e-5, kl_coef=0.05, reset_every=17)
PARTS = ("iteration", "generate", "prefill", "train", "bookkeeping", "checkpoint")


class Ours:
    """A workload under an algorithm on a layout; each method is a round, in seconds."""

    def __init__(self, work, algorithm, layout):
        self.work, self.algorithm, self.layout = work, algorithm, layout
        self.config = work.algorithm(algorithm)
        self._model, params = workloads.policy(work)
        judge, frozen = workloads.reward_model(work)

        def score(frozen, tokens, mask):
            return judge.apply({"params": frozen}, tokens, mask)[:, 0]

        programs = cells.compile_programs(
            self._model, self.config, layout, score=score, adapter=work.adapter
        )
        self._networks, self._tx = programs.networks, programs.tx
        self._base = {} if work.adapter is None else layout.place(params)
        self._programs = programs if work.adapter is None else programs.on(self._base)
        self._frozen = layout.place(frozen)
        self._hyper = jax.tree.map(jnp.asarray, HYPER)
        count = work.rows // self.config.candidates
        self._batch = layout.shard(workloads.prompts(work, count))
        task = types.SimpleNamespace(model=self._model, params=params)
        key = jax.random.key(0)
        params = cells.initial_params(task, self.config, key, work.adapter)
        state = policy_gradient.init(params, self._tx, HYPER, key, config=self.config)
        self._state = layout.place(state)
        self._prefill = layout.compile(
            self._fill, rows_in=(2,), rows_out=(0,), outputs=1
        )
        self._write = layout.compile(
            self._sample_rows, rows_in=(2,), rows_out=(0,), outputs=1
        )
        self._train = layout.compile(self._learn, rows_in=(3,), donate=(1,))
        self._finish = layout.compile(self._end, rows_in=(2,), donate=(0,))
        self._sample = layout.place(_sample(work))
        self._every_row = layout.shard(workloads.prompts(work, work.rows))

    def iteration(self):
        """The whole line: rollout, score, updates, EMA and reset, metrics."""
        return self._advance(
            lambda state: self._programs.iteration(
                state, self._frozen, self._batch, self._hyper
            )
        )

    def generate(self):
        """A rollout alone, every row with a prompt of its own."""
        return measure.seconds(
            lambda: self._write(self._base, self._state, self._every_row)
        )

    def prefill(self):
        """The prompts alone, into logits and a cache."""
        return measure.seconds(
            lambda: self._prefill(self._base, self._state, self._every_row)
        )

    def train(self):
        """The updates alone, on rows that are there."""
        return self._advance(
            lambda state: self._train(self._base, state, self._sample, self._every_row)
        )

    def bookkeeping(self):
        """The end of an iteration alone: EMA, and the reset where one is due.

        The second of two in a row: the first pays for memory that the part before it
        gave back to the system, which an iteration has at hand.
        """

        def end(state):
            return self._finish(state, self._hyper, self._every_row)

        self._advance(end)
        return self._advance(end)

    def checkpoint(self):
        """All of the state on disk, with its manifest."""
        with tempfile.TemporaryDirectory() as folder:
            writer = checkpoint.Checkpointer(folder, config_digest="throughput")
            return measure.seconds(lambda: writer.save(1, self._state))

    def _advance(self, call):
        def advance():
            # What a program takes over must not be seen here once it has failed.
            state, self._state = self._state, None
            self._state, *rest = call(state)
            return self._state, rest

        return measure.seconds(advance)

    def _on(self, base):
        return cells.networks_on(self._networks, self.config, self.work.adapter, base)

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
        del rows  # a layout shares something out, or has nothing to lay out
        return update.updates(
            state,
            sample,
            HYPER,
            networks=self._on(base),
            tx=self._tx,
            config=self.config,
            axis_name=axis_name,
        )

    def _end(self, state, hyper, rows, *, axis_name):
        del rows, axis_name
        return policy_gradient.finish(state, hyper, tx=self._tx, config=self.config)


def _sample(work, seed=0):
    """Rows to learn from: random tokens, advantages of deviation 1."""
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
    return update.Sample(data, policy_gradient.Targets(numbers, numbers))


def first_rounds(subject, parts=PARTS):
    """{part: seconds} of a first round each, compiling included; then one more.

    A program compiles in its first round only: the second shows that it did.
    """
    first = {part: getattr(subject, part)() for part in parts}
    for part in parts:
        getattr(subject, part)()
    return first


def describe(work, algorithm, times, *, matmul, bandwidth):
    """What rounds say: {name: number}.

    Args: times {part: [seconds]}; matmul: operations a second, bandwidth: bytes a
    second, both measured in this process.
    """
    took = {part: measure.median(values) for part, values in times.items()}
    facts = {f"{part}_seconds": value for part, value in took.items()}
    facts["spread"] = max(map(measure.spread, times.values()))
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
