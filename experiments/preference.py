"""Learning from pairs without a reward model: DPO or IPO, with or without resets.

Rows hold `prompt`, `chosen` and `rejected`, texts or lists of messages (or two whole
conversations that begin alike); a column `preference` holds soft labels.

    python -m experiments.preference --model path/to/sft --dataset pairs.jsonl
    python -m experiments.preference --model path/to/sft --dataset pairs.jsonl \\
        --loss ipo --beta 0.1 --elastic-reset.every 200 --elastic-reset.decay 0.99

The reference is the model as it was, or --reference; what it says of every row is
computed once before training, or with --reference-on-the-fly before each step. The
result is runs/preference/<time>/model, a directory that transformers opens. Metrics
have TRL's names: rewards/chosen, rewards/rejected, rewards/margins, rewards/accuracies.
"""

import dataclasses
import functools
import time

import numpy as np
import rich.console

from rlhf_jax.algorithms import preference
from rlhf_jax.cli import command, options, recipes
from rlhf_jax.reporting import single_run
from rlhf_jax.runtime import loop
from rlhf_jax.studies import session, supervised
from rlhf_jax.tasks import models, pairs

TITLE = "Learning from preferences"
NAMES = (
    "rewards/accuracies", "loss", "rewards/margins", "rewards/chosen",
    "rewards/rejected", "logps/chosen", "logps/rejected",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Config(recipes.Base):
    """Everything a run depends on."""

    model: str = ""
    """A model directory, or a name on the hub."""
    dataset: str = ""
    """A hub name, a folder, or a file."""
    loss: str = "dpo"
    """dpo or ipo."""
    beta: float = 0.1
    label_smoothing: float = 0.0
    """How often labels are wrong (cDPO)."""
    reference: str | None = None
    """A model directory or hub name; by default the model as it was."""
    reference_on_the_fly: bool = False
    """Ask the reference before each step, not about all rows at the start."""
    data: recipes.Data = dataclasses.field(default_factory=recipes.Data)
    fit: recipes.Fit = dataclasses.field(
        default_factory=lambda: recipes.Fit(learning_rate=1e-6)
    )
    lora: options.Lora = dataclasses.field(default_factory=options.Lora)
    elastic_reset: recipes.ElasticReset = dataclasses.field(
        default_factory=recipes.ElasticReset
    )


CONFIG = Config()


def main():
    config = command.parse(CONFIG, description=__doc__)
    command.main(lambda: run(config))


def run(config):
    """The whole recipe; returns the folder of the run."""
    started = time.monotonic()
    console = rich.console.Console()
    recipes.check(config, needed=("model", "dataset"))
    kind = {
        "loss": config.loss,
        "beta": config.beta,
        "label_smoothing": config.label_smoothing,
    }
    preference.make_loss(None, **kind)  # a loss that does not exist is told at once
    if config.beta <= 0:
        raise ValueError(f"--beta {config.beta:g}: needs to be positive")
    part = config.fit.rows // config.fit.micro_batches
    place, layout = recipes.begin(config, "preference", (part,))
    with loop.Signals() as signals:
        model, params, tokenizer = models.read_decoder(
            "--model", config.model, config.dtype
        )
        train, held, about = pairs.read(config, model, tokenizer)
        trained = models.trained(model, params, config.lora, layout, seed=config.seed)
        ask = functools.partial(_logps, model, config.loss == "ipo")
        ask = layout.over_rows(ask, whole=1, chunk=part)
        if config.reference is not None:
            del params
            params = _reference(config, model, tokenizer)
        refer = functools.partial(ask, layout.place(params))
        console.print("asking the reference about held-out rows ...")
        held = preference.Batch(*held, refer(held))
        prepare = None
        if config.reference_on_the_fly:
            prepare = functools.partial(_with_reference, refer)
            train = preference.Batch(*train, np.zeros((len(train.starts), 2)))
        else:
            console.print("asking the reference about training rows ...")
            train = preference.Batch(*train, refer(train))
            del refer
        del params
        start, advance, steps = supervised.trainer(
            trained,
            train,
            make_loss=functools.partial(preference.make_loss, **kind),
            count=preference.count,
            fit=config.fit,
            seed=config.seed,
            layout=layout,
            resets=config.elastic_reset,
            prepare=prepare,
        )

        def measure(state):
            params = trained.joined(state.learner.params)
            logps = ask(params, pairs.Pairs(held.pairs, held.starts))
            _, found = preference.compare(
                logps, held.reference, held.pairs.preference, **kind
            )
            return {f"eval/{name}": float(found[name]) for name in found}, []

        about = (f"model {config.model}; {trained.about()}", *about)
        command.write_config(place, config, layout)
        session.announce(console, about, steps, layout, place)
        shown = {"loss": "loss", "margin": "rewards/margins"}
        work = session.Work(config.loss, steps, start, advance, measure, shown=shown)
        state, records = session.run(
            work, config, place, layout=layout, console=console, signals=signals
        )
    policy = trained.merged(state.learner.params)
    if trained.adapter is not None:
        learned, adapter = state.learner.params, trained.adapter
        models.export_adapters(
            place / "adapters", model, learned, adapter, config.model, console
        )
    models.export(place / "model", model, policy, tokenizer, console)
    single_run.write(
        place, records, config, title=TITLE, about=about, names=NAMES, started=started,
        console=console,
    )  # fmt: skip
    return place


def _logps(model, mean, params, rows):
    return preference.sequence_logps(model, params, *rows, mean=mean)


def _with_reference(refer, batch):
    return batch._replace(reference=refer(pairs.Pairs(batch.pairs, batch.starts)))


def _reference(config, model, tokenizer):
    """Parameters of --reference, which must be of the model's kind."""
    other, params, words = models.read_decoder(
        "--reference", config.reference, config.dtype
    )
    if other.config != model.config or words.get_vocab() != tokenizer.get_vocab():
        raise ValueError(
            f"--reference {config.reference} differs from --model {config.model} in "
            "shape or tokenizer: give an earlier state of the same model"
        )
    return params


if __name__ == "__main__":
    main()
