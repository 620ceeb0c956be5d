"""A reward model from pairs: which of two answers is better, by how much.

Rows hold `prompt`, `chosen` and `rejected`, texts or lists of messages (or two whole
conversations that begin alike); a column `preference` holds soft labels, that is the
probability that chosen is better, a column `margin` by how much its score should win.
The loss is Bradley and Terry's.

    python -m experiments.reward_model --model path/to/model --dataset pairs.jsonl
    python -m experiments.rl --reward runs/reward_model/<time>/model ...

The result is runs/reward_model/<time>/model, a sequence classifier with one label that
transformers opens; report.md beside it says how often held-out pairs are ordered right.
"""

import dataclasses
import time

import numpy as np
import rich.console

from rlhf_jax import losses
from rlhf_jax.algorithms import reward_model
from rlhf_jax.cli import command, options, recipes
from rlhf_jax.reporting import single_run
from rlhf_jax.runtime import loop
from rlhf_jax.studies import session, supervised
from rlhf_jax.tasks import models, pairs

TITLE = "Reward model"
NAMES = ("accuracy", "loss", "margin", "score_std", "grad_norm", "learning_rate")


@dataclasses.dataclass(frozen=True)
class Config(recipes.Base):
    """Everything a run depends on."""

    model: str = ""
    """A language model, or a reward model to go on with: a directory or a hub name."""
    dataset: str = ""
    """A hub name, a folder, or a file."""
    margin: float = 0.0
    """By how much chosen should win, where rows have no column margin."""
    ended: bool = True
    """Answers are read with their end token; not, where a policy never ends its own."""
    center: bool = True
    """Shift scores so that those of training answers have mean 0."""
    data: recipes.Data = dataclasses.field(default_factory=recipes.Data)
    fit: recipes.Fit = dataclasses.field(default_factory=recipes.Fit)
    lora: options.Lora = dataclasses.field(default_factory=options.Lora)


CONFIG = Config()


def main():
    config = command.parse(CONFIG, description=__doc__)
    command.main(lambda: run(config))


def run(config):
    """The whole recipe; returns the folder of the run."""
    started = time.monotonic()
    console = rich.console.Console()
    recipes.check(config, needed=("model", "dataset"))
    part = config.fit.rows // config.fit.micro_batches
    place, layout = recipes.begin(config, "reward_model", (part,))
    with loop.Signals() as signals:
        model, params, tokenizer = models.read_classifier(
            "--model", config.model, config.dtype, config.seed
        )
        train, held, about = pairs.read(
            config, model, tokenizer, margin=config.margin, ended=config.ended
        )
        trained = models.trained(
            model, params, config.lora, layout, seed=config.seed, whole=("head",)
        )
        del params
        start, advance, steps = supervised.trainer(
            trained,
            train.pairs,
            make_loss=reward_model.make_pair_loss,
            count=reward_model.count,
            fit=config.fit,
            seed=config.seed,
            layout=layout,
        )
        scalar = reward_model.score(model)
        score = layout.over_rows(
            lambda params, rows: scalar(params, *rows), whole=1, chunk=part
        )

        def measure(state):
            return judge(score, trained.joined(state.learner.params), held.pairs), []

        about = (f"model {config.model}; {trained.about()}", *about)
        command.write_config(place, config, layout)
        session.announce(console, about, steps, layout, place)
        shown = {"loss": "loss", "accuracy": "accuracy"}
        work = session.Work("reward_model", steps, start, advance, measure, shown=shown)
        state, records = session.run(
            work, config, place, layout=layout, console=console, signals=signals
        )
        params = trained.merged(state.learner.params)
        if config.center:
            params = centered(score, params, train.pairs)
    if trained.adapter is not None:
        learned, adapter = state.learner.params, trained.adapter
        models.export_adapters(
            place / "adapters", model, learned, adapter, config.model, console
        )
    models.export(place / "model", model, params, tokenizer, console)
    single_run.write(
        place, records, config, title=TITLE, about=about, names=NAMES, started=started,
        console=console,
    )  # fmt: skip
    return place


def judge(score, params, rows):
    """Metrics of `types.Preferences` on the host: {"eval/accuracy": ..., ...}."""
    chosen = score(params, (rows.chosen, rows.chosen_mask))
    rejected = score(params, (rows.rejected, rows.rejected_mask))
    loss, found = losses.bradley_terry(
        chosen, rejected, preference=rows.preference, margin=rows.margin
    )
    both = np.concatenate([chosen, rejected])
    return {
        "eval/accuracy": float(found["accuracy"]),
        "eval/loss": float(loss),
        "eval/margin": float(found["margin"]),
        "eval/score_mean": float(both.mean()),
        "eval/score_std": float(both.std()),
    }


def centered(score, params, rows, count=512):
    """Parameters whose scores of `count` training pairs have mean 0: the head's bias.

    "The N+ Implementation Details of RLHF with PPO", RM 9: Bradley–Terry leaves the
    level open.
    """
    sides = (rows.chosen, rows.chosen_mask), (rows.rejected, rows.rejected_mask)
    found = [score(params, tuple(x[:count] for x in side)) for side in sides]
    head = params["head"]
    head = {**head, "bias": head["bias"] - np.mean(found).astype(np.float32)}
    return {**params, "head": head}


if __name__ == "__main__":
    main()
