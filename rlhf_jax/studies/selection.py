"""Rejection sampling that keeps what it selected, for other methods to learn from.

Lin et al. 2023, arXiv:2309.06256: the best samples of the whole run are stored, and
mitigations of the alignment tax are trained from the starting model on this fixed set.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.studies import scoring
from rlhf_jax.studies.interfaces import Trainer
from rlhf_jax.studies.policy_gradient import PolicyGradient
from rlhf_jax.types import Tokens


class Collected(NamedTuple):
    """The state of a run, and the best sample for every prompt that it saw."""

    run: Any
    texts: Tokens  # [steps · prompts, S] int32; rows of iterations to come are 0


@dataclasses.dataclass(frozen=True)
class RejectionSampling:
    """Trains by a method of policy gradients that compares candidates, and keeps the
    best candidate of each prompt: `Trainer.collected` is their `Tokens`."""

    train: PolicyGradient

    rate = PolicyGradient.rate
    compares = True

    def __call__(self, study, run):
        """The `Trainer` of a run."""
        settings = study.settings
        return collecting(
            self.train(study, run),
            study.task_of(run),
            layout=run.layout,
            steps=study.schedule.steps,
            prompts=settings.rows // settings.candidates,
        )

    def tunes(self, *, resets):
        """The fields of `Values` that the method reads."""
        return self.train.tunes(resets=resets)

    def tuned(self, values):
        """The same method with the `Values` that a search chose for it."""
        return dataclasses.replace(self, train=self.train.tuned(values))

    def overridden(self, settings):
        """The same method with fields of Hyper that a user gives it alone."""
        return dataclasses.replace(self, train=self.train.overridden(settings))


def collecting(trainer, task, *, layout, steps, prompts):
    """A policy-gradient `Trainer` that keeps the best candidate of every prompt.

    Args: prompts: of an iteration; its rows are their candidates, side by side.
    """
    width = task.prompts.tokens.shape[1] + task.sampling.max_new_tokens

    def start():
        empty = np.zeros((steps * prompts, width), np.int32)
        return Collected(trainer.start(), layout.put(Tokens(empty, empty, empty)))

    def advance(state, iteration):
        run, metrics, drawn = trainer.advance(state.run, iteration)
        texts = best_of(*layout.gather(drawn), prompts=prompts)
        texts = _write(state.texts, texts, iteration * prompts)
        return Collected(run, layout.put(texts)), metrics, drawn

    return Trainer(
        start=start,
        advance=advance,
        policy=lambda state: trainer.policy(state.run),
        weights=trainer.weights,
        reset=lambda state: state._replace(run=trainer.reset(state.run)),
        average=trainer.average and (lambda state: trainer.average(state.run)),
        mix=trainer.mix,
        collected=lambda state: layout.snapshot(state.texts),
    )


def best_of(rollout, scores, *, prompts):
    """The best candidate of every prompt, the first of ties, as `Tokens` [prompts, S].

    Args: rollout, scores [prompts · K] of the host, the candidates of a prompt side by
    side.
    """
    each = np.asarray(scores).reshape(prompts, -1)
    rows = np.arange(prompts) * each.shape[1] + each.argmax(1)
    return Tokens(*(x[rows] for x in scoring.to_learn(rollout)))


@jax.jit
def _write(texts, new, first):
    """Rows of texts, from `first` on, replaced by new ones."""
    write = jax.lax.dynamic_update_slice_in_dim
    return jax.tree.map(lambda old, rows: write(old, rows, first, 0), texts, new)
