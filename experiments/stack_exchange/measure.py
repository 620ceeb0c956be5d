"""A study whose policies are asked multiple-choice questions too: the alignment tax."""

import dataclasses
import math

import jax
import numpy as np

from rlhf_jax import elastic_reset
from rlhf_jax.cli import command, options
from rlhf_jax.data import batching
from rlhf_jax.evaluation import multiple_choice, policy
from rlhf_jax.studies import methods, runner
from rlhf_jax.studies.evaluators import Evaluator
from rlhf_jax.studies.methods import Method

# What is compared: every arm has the adaptive penalty to the fine-tuned model.
METHODS = {
    "zero_shot": Method("the fine-tuned model, measured", untrained=True, label="SFT"),
    **{
        name: methods.METHODS[name]
        for name in ("ppo", "ppo_kl", "elastic_reset", "elastic_reset_kl")
    },
    "reset_to_initial_kl": Method(
        "ablation: policy ← fine-tuned model at the same iterations, no EMA",
        {"reset_target": elastic_reset.INITIAL},
        resets=True,
        label="reset to SFT + KL",
    ),
    "ppo_kl_average": Method(
        "null: the EMA of PPO + KL, no resets", source="ppo_kl", label="EMA of PPO + KL"
    ),
    "ppo_kl_ma50": Method(
        "null: ½ fine-tuned model + ½ PPO + KL",
        source="ppo_kl",
        weight=0.5,
        label="½ PPO + KL, ½ SFT",
    ),
    "ppo_kl_early_stop": Method(
        "null: PPO + KL stopped at its best validation checkpoint",
        source="ppo_kl",
        label="PPO + KL, early stop",
    ),
}
LABELS = {name: method.label for name, method in METHODS.items()}


class Suites:
    """Compiled once: {"tax/...": accuracy} of a policy on multiple-choice questions.

    `tax/skills` is the mean over all questions, its halves the even and odd ones.
    """

    def __init__(self, model, suites, layout):
        """suites: {name: `choices.Options`}, one at least."""
        self._suites = suites
        self._rows = {k: batching.by_width(s.rows) for k, s in suites.items()}
        self._nll = layout.over_rows(policy.make_text_nll(model), whole=1, chunk=32)

    def __call__(self, params):
        hits, metrics = [], {}
        for name, suite in self._suites.items():
            nll = np.empty(len(suite.lengths))
            for indices, rows in self._rows[name]:
                nll[indices] = self._nll(params, rows)[0]
            picked = multiple_choice.pick(-nll, suite.lengths, suite.questions)
            right = picked == suite.labels
            hits.append(right)
            metrics[f"tax/{name}"] = float(right.mean())
        every = policy.halves(np.concatenate(hits))
        names = ("tax/skills", "tax/skills_a", "tax/skills_b")
        return {**metrics, **dict(zip(names, every, strict=True))}

    def facts(self):
        """A line about each suite."""
        return [
            f"{name}: {len(suite.labels)} questions, chance "
            f"{multiple_choice.chance(suite.questions):.2f}"
            for name, suite in self._suites.items()
        ]


class WithSuites(Evaluator):
    """All measurements of a task, and the suites besides."""

    def __init__(self, task, layout, suites, **named):
        super().__init__(task, layout, **named)
        self._suites = suites

    def __call__(self, params, reward, **named):
        metrics, samples = super().__call__(params, reward, **named)
        if self._suites is not None:
            metrics = {**metrics, **self._suites(params)}
        return metrics, samples


class Study(runner.Study):
    """The cells of this study."""

    table = METHODS

    def __init__(self, *args, suites=None, **named):
        super().__init__(*args, **named)
        self.suites = suites

    def evaluator(self, reward):
        """The compiled measurements, the suites' with them."""
        return self.once(
            "evaluator",
            lambda: WithSuites(
                self.task,
                self.layout,
                self.suites,
                key=jax.random.key(0),
                score=reward.score,
            ),
        )


def settings(config, task, console):
    """`study.Settings`, with the clock of the EMA and early stopping."""
    found = options.settings(
        dataclasses.replace(config, methods=("ppo_kl",)), task, console
    )
    early = math.isfinite(config.stop_kl)
    return dataclasses.replace(
        found,
        methods=methods.choose(config.methods, METHODS),
        algorithm=dataclasses.replace(
            found.algorithm, tick=config.tick, early_stop=early
        ),
        hyper=found.hyper._replace(stop_kl=config.stop_kl),
        digest=command.digest(config),
    )
