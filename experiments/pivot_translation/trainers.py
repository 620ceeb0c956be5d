"""How a method of the game is trained: one method and seed as the host loop drives it.

A row of the table of methods holds `Play(...)`: what it changes in the one program, as
overlays on `translation_game.Hyper`. Programs are compiled once per configuration and
batch shape. Batches are functions of the seed and the step.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.pivot_translation import pretraining
from experiments.pivot_translation import task as tasks
from rlhf_jax import averaging, elastic_reset, optim
from rlhf_jax.algorithms import translation_game as game
from rlhf_jax.data.translation import corpora, token_batches
from rlhf_jax.studies.interfaces import Trainer
from rlhf_jax.studies.values import Values

_LESSON_SEED = 20_000  # added to the seed of a run


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the trainers of the game read."""

    algorithm: game.Config
    hyper: game.Hyper  # of a method that changes nothing
    strengths: Mapping[str, float]  # coefficients of the penalties, by name
    tokens: int  # of a batch
    lesson_tokens: int
    classes: int  # of length, that batches are cut into
    student_rate: float  # learning rate of SIL's students
    decay: float  # of the EMA


@dataclasses.dataclass(frozen=True)
class Play:
    """Trains a method that plays the game: what it changes in the one program.

    hyper: fields of `translation_game.Hyper`; strength: the name of its penalty among
    `Settings.strengths`; coefficient: the field of Hyper that takes that strength;
    keeps_average: whether the EMA is kept although the method itself does not use it;
    values: what a search chose.
    """

    hyper: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    strength: str = ""
    coefficient: str = ""
    keeps_average: bool = False
    values: Values = dataclasses.field(default_factory=Values)

    rate = "learning_rate"  # the flag of its learning rate

    @property
    def penalty(self):
        """The flag of its penalty's strength, None without a penalty."""
        return f"strengths.{self.strength}" if self.strength else None

    def __call__(self, study, run):
        """The `Trainer` of a run."""
        resets = study.methods[run.method].is_reset
        return trainer(study, run, self.scalars(study, resets=resets))

    def tuned(self, values):
        """The same method with the `Values` that a search chose for it."""
        return dataclasses.replace(self, values=values)

    def scalars(self, study, *, resets):
        """The `translation_game.Hyper` of the run: the study's, then the method's."""
        settings = study.settings
        average = self.values.average(
            decay=settings.decay, every=study.schedule.reset_every
        )
        averages = resets or self.keeps_average or "reference_average" in self.hyper
        # An EMA that nothing reads is not updated.
        changes = {"decay": average["decay"] if averages else 1.0, **self.hyper}
        if self.strength:
            chosen = self.values.strength
            usual = settings.strengths[self.strength]
            changes[self.coefficient] = usual if chosen is None else chosen
        if resets:
            changes["reset_weight"] = float(elastic_reset.retained_weight(**average))
        return self.values.hyper(settings.hyper._replace(**changes))

    def tunes(self, *, resets):
        """The fields of `Values` that the method reads."""
        to_initial = self.hyper.get("reset_target") == elastic_reset.INITIAL
        averaged = "reference_average" in self.hyper or (resets and not to_initial)
        return (
            "learning_rate",
            *["weight"] * averaged,
            *["every"] * resets,
            *["strength"] * bool(self.strength),
        )


class Programs(NamedTuple):
    """Compiled once and shared by methods and seeds."""

    step: Callable  # (state, batch, hyper, gradients of a lesson or None)
    teach: Callable  # (params, lesson)
    reset: Callable  # (state, hyper)


@functools.lru_cache(maxsize=8)
def compile_programs(networks, config, layout):
    """`Programs` on a layout; their state is donated. config: game.Config."""
    tx = optim.transformation(config.optimizer)

    def step(state, batch, hyper, lesson, *, axis_name):
        fixed = {"networks": networks, "tx": tx, "config": config}
        return game.step(state, batch, hyper, lesson, **fixed, axis_name=axis_name)

    def teach(params, lesson, *, axis_name):
        return game.teach(params, lesson, networks=networks, axis_name=axis_name)

    return Programs(
        step=layout.compile(step, rows_in=(1,), donate=(0,)),
        teach=layout.compile(teach, rows_in=(1,)),
        reset=jax.jit(game.reset, donate_argnums=0),
    )


def trainer(study, run, hyper):
    """The `Trainer` of a method that plays the game. hyper: `game.Hyper`."""
    task, settings, layout, seed = study.task, study.settings, run.layout, run.unit.seed
    programs = compile_programs(task.networks, settings.algorithm, layout)
    batch = batches(task.train, settings, seed, layout.size)
    lesson = lessons(task, settings, seed, layout) if hyper.lesson_coef else None
    traced = jax.tree.map(jnp.asarray, hyper)

    def start():
        tx = optim.transformation(settings.algorithm.optimizer)
        params = initial_params(task, seed)
        return layout.put(game.init(params, tx, jax.random.key(seed)))

    def advance(state, iteration):
        grads, taught = None, {}
        if lesson is not None:
            grads, taught = programs.teach(state.learner.params, lesson(iteration))
        rows = layout.shard_rows(batch(iteration))
        state, metrics = programs.step(state, rows, traced, grads)
        return state, {**metrics, **taught}, None

    return Trainer(
        start=start,
        advance=advance,
        policy=lambda state: game.agents(state.learner.params),
        reset=lambda state: programs.reset(state, traced),
        average=_average,
        mix=functools.partial(_mix, task),
    )


def initial_params(task, seed):
    """{"sender", "receiver", "value"}: the pretrained agents and a zero critic."""
    shape = task.networks.sender.config
    key = jax.random.fold_in(jax.random.key(seed), 1)
    features = jnp.zeros((1, 1, shape.embedding + shape.hidden))
    value = task.networks.value.init(key, features)["params"]
    return {**task.params, "value": value}


def batches(pairs, settings, seed, multiple):
    """batch(step) -> `game.Batch` of the game's sentences."""
    lengths = pairs.lengths()
    edges = token_batches.edges(lengths, settings.classes)
    order = token_batches.TokenBatches(
        lengths, tokens=settings.tokens, edges=edges, seed=seed, multiple=multiple
    )

    def batch(step):
        rows, edge = order.batch(step)
        source, target = (
            corpora.pad(pairs.ids[x], rows, length=edge + 1) for x in ("fr", "de")
        )
        return game.Batch(*source, *target, np.arange(len(rows), dtype=np.int32))

    return batch


def lessons(task, settings, seed, layout):
    """lesson(step) -> `game.Lesson` on devices: pretraining text for both agents."""
    sizes = {"tokens": settings.lesson_tokens, "classes": settings.classes}
    sizes |= {"seed": _LESSON_SEED + seed, "multiple": layout.size}
    parts = [
        pretraining.Batches(task.lessons[name], *languages, **sizes)
        for name, languages in tasks.LANGUAGES.items()
    ]

    def lesson(step):
        return layout.shard_rows(game.Lesson(*(part.plain(step) for part in parts)))

    return lesson


def _mix(task, policy, weight):
    """(1 − w)·π₀ + w·π of the sender, with the receiver of the run."""
    sender = averaging.interpolate(task.params["sender"], policy["sender"], weight)
    return {"sender": sender, "receiver": policy["receiver"]}


def _average(state):
    """The sender's EMA, with the receiver of the run."""
    receiver = state.learner.params["receiver"]
    return {"sender": state.elastic.average["sender"], "receiver": receiver}
