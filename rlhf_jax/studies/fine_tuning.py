"""Supervised methods of a language-model study: likelihood of some texts."""

import dataclasses
from typing import Literal

import jax
import numpy as np

from rlhf_jax.algorithms import sft
from rlhf_jax.evaluation import policy
from rlhf_jax.studies import supervised
from rlhf_jax.studies.trainable import Trainable
from rlhf_jax.studies.values import Values
from rlhf_jax.types import Prompts, Tokens


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """Trains on the task's best texts, or on the initial policy's own samples: as many
    updates that teach nothing, a placebo."""

    texts: Literal["best", "own_samples"]
    values: Values = dataclasses.field(default_factory=Values)

    rate = "sft_learning_rate"  # the flag of its learning rate, of `rl`

    def __call__(self, study, run):
        """The `Trainer` of a run."""
        task, settings, seed = study.task_of(run), study.settings, run.unit.seed
        optimizer, rate = settings.algorithm.optimizer, self.values.learning_rate
        texts = task.best
        if self.texts == "own_samples":
            texts = own_samples(task, run.layout)
        return supervised.trainer(
            Trainable(task.params, settings.adapter),
            texts,
            supervised.Objective(task.model, sft.make_loss, sft.count, optimizer),
            rows=settings.rows,
            steps=study.schedule.steps,
            learning_rate=settings.sft_learning_rate if rate is None else rate,
            updates=settings.sft_updates,
            seed=seed,
            key=jax.random.fold_in(jax.random.key(seed), 1),
            layout=run.layout,
            prefix="sft/",
        )

    def tuned(self, values):
        """The same method with the `Values` that a search chose for it."""
        return dataclasses.replace(self, values=values)


def own_samples(task, layout, *, rows=1024):
    """`Tokens` that π₀ wrote to training prompts; its responses are the targets."""
    prompts = Prompts(*(x[:rows] for x in task.prompts))
    draw = policy.compile_draw(task.model, layout, task.sampling)
    drawn = draw(task.params, policy.prompt_rows(prompts, jax.random.key(4242)))
    mask = prompts.mask
    targets = np.concatenate([np.zeros_like(mask), drawn.response_mask], axis=1)
    return Tokens(drawn.tokens, drawn.mask, targets.astype(np.int32))
