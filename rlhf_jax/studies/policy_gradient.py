"""How a method of a language-model study is trained by policy gradients.

A row of the table of methods holds `PolicyGradient(...)`: what it changes in the one
program, as overlays on `policy_gradient.Hyper`, and on the static Config where it is
another algorithm. PPO, PPO with a KL penalty, Elastic Reset and its ablations differ
in Hyper alone and share one compiled program.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import elastic_reset
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.data import batching
from rlhf_jax.feedback import combining
from rlhf_jax.models import lora
from rlhf_jax.studies import policy_population, programs, scoring
from rlhf_jax.studies.interfaces import Trainer
from rlhf_jax.studies.trainable import Trainable
from rlhf_jax.studies.values import Values

_NEVER = {"reset_every": 0, "reset_first": False}  # the host loop resets


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the trainers of a language-model study read."""

    algorithm: policy_gradient.Config
    hyper: policy_gradient.Hyper  # of a run that never resets
    rows: int  # samples an iteration
    candidates: int  # of a prompt, where a method compares candidates
    decay: float  # of the EMA
    adapter: lora.Config | None = None  # what is trained; None: all weights
    sft_learning_rate: float = 3e-4
    sft_updates: int = 1  # of a supervised method, an iteration


@dataclasses.dataclass(frozen=True)
class PolicyGradient:
    """Trains a method: what it changes in the one program.

    hyper, static: fields of `policy_gradient.Hyper` and `.Config`; ticks_once: the EMA
    moves once an interval, not once an iteration; copy: numbers the copies of a method
    that differ in their sampling key alone; values: what a search chose; override:
    fields of Hyper that a user gives this method alone.
    """

    hyper: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    static: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    ticks_once: bool = False
    copy: int = 0
    values: Values = dataclasses.field(default_factory=Values)
    override: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    rate = "learning_rate"  # the flag of its learning rate, of `rl`
    penalty = "rl.kl_coef"  # the flag of its penalty's strength
    axes = programs.STATE  # what runs side by side have one each of

    def __call__(self, study, run):
        """The `Trainer` of a run."""
        return trainer(self.member(study, run), run.layout)

    def member(self, study, run):
        """What the run is made of, as `Member`."""
        task, settings = study.task_of(run), study.settings
        method = study.methods[run.method]
        return Member(
            task,
            self.config(settings),
            self.scalars(study, method),
            task.rewards[method.reward](run.unit.seed),
            seed=run.unit.seed,
            rows=settings.rows,
            adapter=settings.adapter,
            copy=self.copy,
        )

    def shares(self, study, run):
        """What runs must have in common to be trained by one program."""
        task, method = study.task_of(run), study.methods[run.method]
        shapes = tuple(x.shape for x in jax.tree.leaves(task.params))
        width = task.prompts.tokens.shape[1]
        return task.model, self.config(study.settings), method.reward, shapes, width

    def side_by_side(self, study, runs, layout):
        """The `interfaces.SideBySide` of runs for which `shares` is equal."""
        trains = [study.methods[run.method].train for run in runs]
        members = [t.member(study, r) for t, r in zip(trains, runs, strict=True)]
        return policy_population.side_by_side(members, layout, host=runs[0].layout)

    @property
    def compares(self):
        """Whether it compares the candidates of a prompt."""
        return self.static.get("algorithm") in policy_gradient.GROUPED

    def tuned(self, values):
        """The same method with the `Values` that a search chose for it."""
        return dataclasses.replace(self, values=values)

    def overridden(self, settings):
        """The same method with fields of Hyper that a user gives it alone."""
        return dataclasses.replace(self, override=settings)

    def config(self, settings):
        """The statics of the run: the study's, with the method's changes."""
        changes = dict(self.static)
        if self.compares:
            changes.setdefault("candidates", settings.candidates)
        return dataclasses.replace(settings.algorithm, **changes)

    def scalars(self, study, method):
        """The `policy_gradient.Hyper` of the run: the study's, then the method's."""
        schedule, settings = study.schedule, study.settings
        average = self.values.average(decay=settings.decay, every=schedule.reset_every)
        hyper = overlay(
            settings.hyper,
            self.hyper,
            resets=method.is_reset,
            ticks_once=self.ticks_once,
            **average,
        )
        return self.values.hyper(hyper._replace(**self.override))

    def tunes(self, *, resets):
        """The fields of `Values` that the method reads."""
        fixed = {**self.hyper, **self.override}
        to_initial = fixed.get("reset_target") == elastic_reset.INITIAL
        averaged = fixed.get("reference_average", False)
        averaged = averaged or (resets and not to_initial)
        return (
            "learning_rate",
            *["kl_coef"] * (fixed.get("kl_coef", 1.0) != 0.0),
            *["weight"] * (averaged and "decay" not in fixed),
            *["every"] * (resets or self.ticks_once),
        )


def overlay(hyper, changes, *, resets, ticks_once, decay, every):
    """`Hyper` with a method's changes, and with what its calendar decides.

    Args: decay, every: of the EMA and of the resets, used where the method resets.
    """
    fields = {"decay": decay}
    if resets:
        weight = elastic_reset.retained_weight(decay, every)
        fields["reset_weight"] = float(weight)
    if ticks_once:
        fields["tick_every"] = every
    return hyper._replace(**{**fields, **changes})


class Member(NamedTuple):
    """What a policy-gradient run is made of, whichever study it belongs to."""

    task: Any  # `task.Task`
    config: policy_gradient.Config
    hyper: policy_gradient.Hyper
    reward: Any  # `task.Reward`
    seed: int
    rows: int  # samples an iteration
    adapter: lora.Config | None = None
    copy: int = 0  # another number, other samples

    @property
    def learned(self):
        """What of the model is trained: `Trainable`."""
        return Trainable(self.task.params, self.adapter)

    @property
    def traced(self):
        """The scalars of the compiled step, which leaves resets to the host."""
        return jax.tree.map(jnp.asarray, self.hyper._replace(**_NEVER))

    def start(self, tx):
        """The `policy_gradient.State` before the first iteration."""
        key = jax.random.key(self.seed)
        fresh = jax.random.fold_in(key, 1)
        given = self.task.model, self.learned, self.config, fresh
        params = programs.initial_params(*given)
        key = jax.random.fold_in(key, 10_000 + self.copy) if self.copy else key
        apart = {"config": self.config, "hold_initial": self.adapter is not None}
        hyper = self.hyper._replace(**_NEVER)
        return policy_gradient.init(params, tx, hyper, key, **apart)

    def order(self):
        """Which prompts each iteration draws: `batching.Epochs`."""
        count = self.task.prompts.tokens.shape[0]
        return batching.Epochs(count, self.config.prompts(self.rows), self.seed)

    def batch(self, index):
        """The prompts of an iteration: `policy_gradient.Batch`."""
        prompts, ids = self.task.prompts, np.arange(len(index), dtype=np.int32)
        return policy_gradient.Batch(prompts.tokens[index], prompts.mask[index], ids)

    def host_scores(self, layout, rollout, index):
        """(what rewards of Python say of the samples of an iteration: [N] float32, and
        of several rewards the metrics of each).

        Args: rollout: of the host; index: of the prompts.
        """
        task, reward, config = self.task, self.reward, self.config
        index = np.repeat(index, config.candidates)
        columns = {k: [v[i] for i in index] for k, v in task.columns.items()}
        texts = functools.partial(scoring.decode, task, rollout)
        asked, parts = (layout, rollout, texts, columns), reward.parts
        if parts is None or not parts.normalized:
            scores, metrics = scoring.of_rows(reward, *asked)
            return scores.astype(np.float32), metrics
        values, count = scoring.each(parts, *asked), config.candidates
        scores = combining.normalize_then_sum(values, parts.weights, candidates=count)
        # Normalised scores have mean 0: the sum that is logged has units of its own.
        total = float(combining.weighted_sum(values, parts.weights).mean())
        metrics = {**scoring.moments_of(parts, values), "objective/scores": total}
        return scores.astype(np.float32), metrics


def trainer(member, layout):
    """The `Trainer` of a `Member` that is trained by itself."""
    compiled = programs.compile_programs(
        member.task.model,
        member.config,
        layout,
        score=member.reward.score,
        adapter=member.adapter,
    )
    learned, order = member.learned, member.order()
    base, traced = layout.put(member.task.params), member.traced

    def advance(state, iteration, frozen=member.reward.frozen):
        index = order.indices(iteration)
        batch = layout.shard_rows(member.batch(index))
        if member.reward.score is not None:
            given = state, frozen, batch, traced
            state, drawn, metrics = compiled.iteration(base, *given)
            return state, metrics, drawn
        rollout = compiled.rollout(base, state, batch)
        scores, logged = member.host_scores(layout, layout.gather(rollout), index)
        state, metrics = compiled.learn(
            base, state, rollout, layout.shard_rows(scores), traced
        )
        return state, {**metrics, **logged}, (rollout, scores)

    keeps = member.config.keep_average
    return Trainer(
        start=lambda: layout.put(member.start(compiled.tx)),
        advance=advance,
        policy=lambda state: state.learner.params["policy"],
        weights=learned.weights,
        mix=learned.mix,
        reset=lambda state: compiled.reset(base, state, traced),
        average=(lambda state: state.elastic.average) if keeps else None,
    )


def initial(study, run):
    """The `Trainer` of the initial policy, which nothing trains."""
    learned = Trainable(study.task_of(run).params, study.settings.adapter)
    key = jax.random.fold_in(jax.random.key(run.unit.seed), 1)

    def start():
        return run.layout.put({"policy": learned.start(key)})

    return Trainer(
        start=start,
        advance=lambda state, iteration: (state, {}, None),
        policy=lambda state: state["policy"],
        weights=learned.weights,
        mix=learned.mix,
    )


def budget(settings, metrics):
    """What an iteration with these metrics took: {"tokens", "gradient_steps",
    "reward_calls"}."""
    if "response/length" not in metrics:
        steps = settings.sft_updates
        return {"tokens": 0.0, "gradient_steps": steps, "reward_calls": 0}
    algorithm = settings.algorithm
    oversampled = "reward/zero_std_drawn" in metrics
    drawn = settings.rows * (algorithm.dynamic_sampling if oversampled else 1)
    return {
        "tokens": metrics["response/length"] * drawn,
        "gradient_steps": algorithm.epochs * algorithm.minibatches,
        "reward_calls": drawn,
    }
