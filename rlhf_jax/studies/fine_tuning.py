"""Supervised methods of a language-model study: likelihood of some texts."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import numpy as np

from rlhf_jax.algorithms import sft
from rlhf_jax.evaluation import policy
from rlhf_jax.models import lora
from rlhf_jax.studies import scoring, supervised
from rlhf_jax.studies.trainable import Trainable
from rlhf_jax.studies.values import Values
from rlhf_jax.types import Prompts, Tokens


@dataclasses.dataclass(frozen=True)
class FineTuning:
    """Trains on texts: the task's best ones, the initial policy's own samples (as many
    updates that teach nothing, a placebo), or what the source of the method selected.

    make_penalty, strength: of `regularization`, and its λ; replay: tokens of
    pretraining text for each token learned; adapter: what is trained, by default what
    the study trains; values: what a search chose.
    """

    texts: Literal["best", "own_samples", "selected"]
    make_penalty: Callable | None = None
    strength: float = 0.0
    replay: float = 0.0
    adapter: lora.Config | None = None
    values: Values = dataclasses.field(default_factory=Values)

    rate = "sft_learning_rate"  # the flag of its learning rate, of `rl`

    def __call__(self, study, run, source=None):
        """The `Trainer` of a run; source: an interfaces.Source, of a run that selects
        texts."""
        task, settings, seed = study.task_of(run), study.settings, run.unit.seed
        optimizer, rate = settings.algorithm.optimizer, self.values.learning_rate
        texts, rows = self._texts(task, run, source), settings.rows
        if self.replay:
            texts, rows = replayed(texts, task.replay, self.replay, rows, run.layout)
        return supervised.trainer(
            Trainable(task.params, self.adapter or settings.adapter),
            texts,
            supervised.Objective(
                task.model,
                sft.make_loss,
                sft.count,
                optimizer,
                make_penalty=self.make_penalty,
            ),
            rows=rows,
            steps=study.schedule.steps,
            learning_rate=settings.sft_learning_rate if rate is None else rate,
            updates=settings.sft_updates,
            seed=seed,
            key=jax.random.fold_in(jax.random.key(seed), 1),
            layout=run.layout,
            prefix="sft/",
            strength=self.strength,
        )

    def _texts(self, task, run, source):
        if self.texts == "selected":
            return source.collected
        return task.best if self.texts == "best" else own_samples(task, run.layout)

    def tuned(self, values):
        """The same method with the `Values` that a search chose for it."""
        return dataclasses.replace(self, values=values)


def own_samples(task, layout, *, rows=1024):
    """`Tokens` that π₀ wrote to training prompts; its responses are the targets."""
    prompts = Prompts(*(x[:rows] for x in task.prompts))
    draw = policy.compile_draw(task.model, layout, task.sampling)
    drawn = draw(task.params, policy.prompt_rows(prompts, jax.random.key(4242)))
    return scoring.to_learn(drawn)


def replayed(texts, make_replay, ratio, rows, layout):
    """(`Tokens`, rows of an update) of texts beside pretraining text.

    Experience replay as a data ratio (Lin et al. 2023, appendix D.4): `ratio` times as
    many target tokens of pretraining text as of texts. An update has more rows, so that
    it holds as many texts as before.

    Args: make_replay(n) -> `Tokens` of n rows; rows: of an update without replay.
    """
    wanted = ratio * texts.target_mask.sum()
    a_row = make_replay(256).target_mask.sum() / 256
    more = make_replay(max(1, round(wanted / a_row)))
    width = max(texts.tokens.shape[1], more.tokens.shape[1])
    both = [
        [np.pad(x, [(0, 0), (0, width - x.shape[1])]) for x in part]
        for part in (texts, more)
    ]
    count = len(texts.tokens)
    rows = rows * (count + len(more.tokens)) / count
    rows = layout.size * max(1, round(rows / layout.size))
    return Tokens(*(np.concatenate(x) for x in zip(*both, strict=True))), rows
