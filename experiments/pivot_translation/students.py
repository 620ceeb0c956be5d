"""Seeded iterated learning as a method: at each reset a student replaces the agents.

Lu et al. 2020, arXiv:2003.12694; one update is in `translation_game.imitation`.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax.numpy as jnp

from experiments.pivot_translation import trainers
from rlhf_jax import optim, training, trees
from rlhf_jax.algorithms import translation_game as game
from rlhf_jax.algorithms.translation_game import imitation
from rlhf_jax.types import Pairs

_SEED = 10_000  # added to the seed of a run, for the students' batches


@dataclasses.dataclass(frozen=True)
class Imitation:
    """Trains seeded iterated learning: at each reset a student replaces the agents."""

    generations: imitation.Schedule
    play: trainers.Play = dataclasses.field(default_factory=trainers.Play)

    rate = "learning_rate"  # the flag of its learning rate
    penalty = None

    def __call__(self, study, run):
        """The `Trainer` of a run."""
        playing = trainers.trainer(study, run, self.play.scalars(study, resets=False))
        return trainer(playing, self.generations, study, run)

    def tuned(self, values):
        """The same method with the `Values` that a search chose for it."""
        return dataclasses.replace(self, play=self.play.tuned(values))


class Generation(NamedTuple):
    """The state of SIL: the game's, and the agents that began this generation."""

    game: game.State
    student: dict  # {"sender", "receiver"}


@functools.lru_cache(maxsize=8)
def compile_programs(networks, config, layout):
    """(imitate, tune) of `imitation` on a layout, students donated.

    config: translation_game.Config.
    """
    students = _config(config)
    fixed = {
        "networks": networks,
        "tx": optim.transformation(students.optimizer),
        "config": students,
    }
    return tuple(
        layout.compile(functools.partial(step, **fixed), rows_in=(2,), donate=(0,))
        for step in (imitation.imitate, imitation.tune)
    )


def trainer(playing, generations, study, run):
    """The `Trainer` of SIL: its reset trains a student, which replaces the agents.

    Args: playing: the `Trainer` of the game; generations: imitation.Schedule.
    """
    task, settings, layout = study.task, study.settings, run.layout
    imitate, tune = compile_programs(task.networks, settings.algorithm, layout)
    seed, resets = _SEED + run.unit.seed, frozenset(study.resets(run.method))
    batch = trainers.batches(task.train, settings, seed, layout.size)
    tx = optim.transformation(_config(settings.algorithm).optimizer)
    hyper = training.Hyper(jnp.asarray(settings.student_rate), jnp.asarray(1))
    updates = generations.imitate + generations.tune

    def start():
        return Generation(playing.start(), layout.put(trees.copy(task.params)))

    def advance(state, iteration):
        played, metrics, rows = playing.advance(state.game, iteration)
        metrics = {**metrics, "sil/updates": updates * (iteration in resets)}
        return state._replace(game=played), metrics, rows

    def reset(state):
        number = int(state.game.iteration) // generations.play - 1
        teacher = game.agents(state.game.learner.params)
        student = layout.put(imitation.init(state.student, tx))
        for i in range(updates):
            pairs = Pairs(*batch(number * updates + i)[:4])
            update = imitate if i < generations.imitate else tune
            student, _ = update(student, teacher, layout.shard_rows(pairs), hyper)
        agents = imitation.agents(student)
        learner = state.game.learner
        params = {**learner.params, **layout.put(trees.copy(agents))}
        learner = learner._replace(params=params)
        return Generation(state.game._replace(learner=learner), agents)

    return playing._replace(
        start=start,
        advance=advance,
        policy=lambda state: playing.policy(state.game),
        reset=reset,
        average=lambda state: playing.average(state.game),
    )


def _config(config):
    """The `imitation.Config` of a game: its teachers speak greedily."""
    return imitation.Config(dataclasses.replace(config.sampling, temperature=0.0))
