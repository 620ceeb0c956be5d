"""Direct preference optimisation as a method of a language-model study."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlhf_jax.algorithms import preference
from rlhf_jax.studies import supervised
from rlhf_jax.studies.trainable import Trainable
from rlhf_jax.studies.values import Values


@dataclasses.dataclass(frozen=True)
class PreferenceTuning:
    """Trains on the pairs that the task's reward model learned from: DPO or its family.

    loss: a name of `preference.KINDS`, or several; beta: of the implicit reward; more:
    other `preference.Settings`; values: what a search chose.
    """

    loss: str | tuple[str, ...] = "dpo"
    beta: float = 0.1
    more: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
    values: Values = dataclasses.field(default_factory=Values)

    rate = "sft_learning_rate"  # the flag of its learning rate, of `rl`

    def __call__(self, study, run):
        """The `Trainer` of a run."""
        task, options, seed = study.task_of(run), study.settings, run.unit.seed
        rate = self.values.learning_rate
        return supervised.trainer(
            Trainable(task.params, options.adapter),
            self._data(task, run.layout, seed),
            supervised.Objective(
                task.model,
                _make_loss(self._settings()),
                preference.count,
                options.algorithm.optimizer,
            ),
            rows=options.rows,
            steps=study.schedule.steps,
            learning_rate=options.sft_learning_rate if rate is None else rate,
            updates=options.sft_updates,
            seed=seed,
            layout=run.layout,
            prefix="dpo/",
        )

    def _settings(self):
        return preference.configure(loss=self.loss, beta=self.beta, **self.more)

    def _data(self, task, layout, seed):
        """Pairs of the seed, with what the initial policy says of both answers."""
        pairs, *_ = task.pairs(seed)
        settings = self._settings()
        preference.check_labels(settings, pairs.preference)
        starts = np.full(len(pairs.chosen), task.prompts.tokens.shape[1], np.int32)
        logps = np.zeros((len(starts), 2), np.float32)
        if settings.refers():
            program = _reference(task.model, layout)
            logps = np.asarray(program(task.params, (pairs, starts)))
        return preference.Batch(pairs, starts, logps)

    def tuned(self, values):
        """The same method with the `Values` that a search chose for it."""
        return dataclasses.replace(self, values=values)


@functools.lru_cache(maxsize=32)
def _make_loss(settings):
    """One function for equal settings, so that programs are compiled once."""
    return functools.partial(preference.make_loss, **settings._asdict())


@functools.lru_cache(maxsize=8)
def _reference(model, layout):
    """`logps(params, (pairs, starts)) -> [N, 2]`, compiled once."""

    def logps(params, rows):
        return preference.sequence_logps(model, params, *rows)

    return layout.over_rows(logps, replicated=1)
