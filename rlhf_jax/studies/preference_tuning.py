"""Direct preference optimisation as a method of a language-model study."""

import dataclasses
import functools
from typing import Literal

import numpy as np

from rlhf_jax.algorithms import preference
from rlhf_jax.studies import supervised
from rlhf_jax.studies.trainable import Trainable
from rlhf_jax.studies.values import Values


@dataclasses.dataclass(frozen=True)
class PreferenceTuning:
    """Trains on the pairs that the task's reward model learned from: DPO or IPO.

    beta: of the implicit reward; values: what a search chose.
    """

    loss: Literal["dpo", "ipo"] = "dpo"
    beta: float = 0.1
    values: Values = dataclasses.field(default_factory=Values)

    rate = "sft_learning_rate"  # the flag of its learning rate, of `rl`

    def __call__(self, study, run):
        """The `Trainer` of a run."""
        task, settings, seed = study.task_of(run), study.settings, run.unit.seed
        rate = self.values.learning_rate
        return supervised.trainer(
            Trainable(task.params, settings.adapter),
            self._data(task, run.layout, seed),
            supervised.Objective(
                task.model,
                _make_loss(self.loss, self.beta),
                preference.count,
                settings.algorithm.optimizer,
            ),
            rows=settings.rows,
            steps=study.schedule.steps,
            learning_rate=settings.sft_learning_rate if rate is None else rate,
            updates=settings.sft_updates,
            seed=seed,
            layout=run.layout,
            prefix="dpo/",
        )

    def _data(self, task, layout, seed):
        """Pairs of the seed, with what the initial policy says of both answers."""
        pairs, *_ = task.pairs(seed)
        starts = np.full(len(pairs.chosen), task.prompts.tokens.shape[1], np.int32)
        program = _reference(task.model, layout, self.loss == "ipo")
        logps = program(task.params, (pairs, starts))
        return preference.Batch(pairs, starts, np.asarray(logps))

    def tuned(self, values):
        """The same method with the `Values` that a search chose for it."""
        return dataclasses.replace(self, values=values)


@functools.lru_cache(maxsize=32)
def _make_loss(loss, beta):
    """One function for equal arguments, so that programs are compiled once."""
    return functools.partial(preference.make_loss, loss=loss, beta=beta)


@functools.lru_cache(maxsize=8)
def _reference(model, layout, mean):
    """`logps(params, (pairs, starts)) -> [N, 2]`, compiled once."""

    def logps(params, rows):
        return preference.sequence_logps(model, params, *rows, mean=mean)

    return layout.over_rows(logps, replicated=1)
