"""A study of the game: methods × seeds, measured alike, resumable.

What is shared with every other study is `rlhf_jax.study`; what differs stands here.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from experiments.pivot_translation import evaluator, methods, trainers
from rlhf_jax import elastic_reset
from rlhf_jax.algorithms import translation_game as game
from rlhf_jax.algorithms.translation_game import imitation as sil
from rlhf_jax.studies import post_hoc, runner, search


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a study does to every cell alike; the names are those of `study.Settings`
    where they mean the same."""

    algorithm: game.Config
    hyper: game.Hyper
    strengths: Any  # `flags.Strengths`: how hard each penalty pulls
    flow: trainers.Flow
    generations: sil.Schedule
    student_rate: float
    methods: tuple[str, ...]
    seeds: tuple[int, ...]
    steps: int
    decay: float
    reset_every: int
    eval_every: int
    looks: int
    save_every: int
    keep: int
    digest: str
    logged_samples: int = 20
    tuned: Mapping[str, search.Values] = dataclasses.field(default_factory=dict)
    overrides: Mapping[str, Mapping] = dataclasses.field(default_factory=dict)
    tested: bool = True  # whether test sentences are read at the end

    def calendar(self, method):
        """The 0-based steps of a method that end with a reset, or with a generation of
        SIL, which is one to the loop."""
        known = methods.METHODS[method]
        if known.imitates:
            return [step - 1 for step in self.generations.generations(self.steps)]
        own = self.tuned.get(method, search.Values()).every or self.reset_every
        every = own if known.resets else 0
        return elastic_reset.calendar(self.steps, every)


class Game(runner.Study):
    """The cells of a study of the game."""

    table = methods.METHODS
    axis = "drift/bleu_en"
    judged = ("eval/reward_a",)  # BLEU-De on validation half A

    def resets_first(self):
        return False

    def calendar(self, method):
        return self.settings.calendar(method)

    def worth(self, now, start):
        """BLEU-De itself: the published tables are read at its best."""
        del start
        return now["eval/reward_a"]

    def spend(self, spent, metrics):
        spent["tokens"] += metrics["response/tokens"]
        spent["reward_calls"] += metrics["response/rows"]
        spent["gradient_steps"] += 1 + metrics.get("sil/updates", 0.0)

    def conclude(self, weights, *, best=False):
        """BLEU on the test sentences, of final agents or of the best on half A."""
        if not self.settings.tested:
            return {}
        return self.evaluator(None).test(weights, "best" if best else "test")

    def reward(self, seed):
        """There is none to make: the receiver is it."""
        del seed

    def evaluator(self, reward):
        del reward
        draw = self.settings.algorithm.sampling
        return self.once(
            "evaluator",
            lambda: evaluator.Evaluator(
                self.task,
                self.layout,
                longest=draw.max_new_tokens,
                shortest=draw.min_new_tokens,
            ),
        )

    def trainer(self, cell, own=None):
        if post_hoc.apart(self, cell.method):
            return post_hoc.trainer(self, cell)
        settings, method = self.settings, self.table[cell.method]
        own = self.tuned(cell.method) if own is None else own
        config = settings.algorithm
        programs = self.once(
            "programs",
            lambda: trainers.compile_programs(
                self.task.networks, config, trainers.greedy(config), self.layout
            ),
        )
        hyper = methods.overlay(
            settings.hyper,
            method,
            settings.strengths,
            strength=own.strength,
            **own.average(decay=settings.decay, every=settings.reset_every),
        )
        hyper = hyper._replace(**settings.overrides.get(cell.method, {}))
        hyper = own.hyper(hyper)
        shared = {"seed": cell.seed, "flow": settings.flow, "layout": self.layout}
        if not method.imitates:
            return trainers.trainer(self.task, programs, config, hyper, **shared)
        return trainers.student(
            self.task,
            programs,
            config,
            hyper,
            schedule=settings.generations,
            rate=settings.student_rate,
            steps=settings.steps,
            **shared,
        )
