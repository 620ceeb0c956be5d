"""Supervised fine-tuning: teach a language model to write what your rows hold.

Rows are JSONL, JSON, CSV, parquet or a data set on the hub, with columns `text` (all of
it is learned), `prompt` and `completion` (the completion is), or `messages` (the
assistant's turns are, written by the tokenizer's chat template).

    python -m experiments.sft --model path/to/model --dataset rows.jsonl
    python -m experiments.sft --model path/to/model --dataset chats.jsonl \\
        --lora.rank 8 --fit.learning-rate 2e-4 --dtype bfloat16

The result is runs/sft/<time>/model, a directory that transformers opens; report.md
beside it says what held-out rows gained. --config runs/sft/<time>/config.json repeats a
run, --resume goes on with a stopped one.
"""

import dataclasses
import functools
import time

import jax.numpy as jnp
import numpy as np
import rich.console

from rlhf_jax import logprobs, masking
from rlhf_jax.algorithms import sft
from rlhf_jax.cli import command, options, recipes
from rlhf_jax.data import examples, stop_tokens, tokenization
from rlhf_jax.reporting import single_run
from rlhf_jax.runtime import loop
from rlhf_jax.studies import session, supervised
from rlhf_jax.tasks import models
from rlhf_jax.types import Tokens

TITLE = "Supervised fine-tuning"
NAMES = ("nll", "accuracy", "grad_norm", "learning_rate")


@dataclasses.dataclass(frozen=True)
class Config(recipes.Base):
    """Everything a run depends on."""

    model: str = ""
    """A model directory, or a name on the hub."""
    dataset: str = ""
    """A hub name, a folder, or a file."""
    pack: bool = False
    """Texts, each with its EOS, are joined and cut every --data.length tokens; for rows
    with a column text."""
    truncate: str = "right"
    """right keeps the beginning of rows that are too long, left their end; error."""
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
    place, layout = recipes.begin(config, "sft", (part,))
    with loop.Signals() as signals:
        model, params, tokenizer = models.read_decoder(
            "--model", config.model, config.dtype
        )
        train, held, about = data(config, model, tokenizer)
        trained = models.trained(model, params, config.lora, layout, seed=config.seed)
        del params  # the device has room for them once
        start, advance, steps = supervised.trainer(
            trained,
            train,
            make_loss=sft.make_loss,
            count=sft.count,
            fit=config.fit,
            seed=config.seed,
            layout=layout,
        )
        score = functools.partial(sums, model)
        score = layout.over_rows(score, whole=1, chunk=part)

        def measure(state):
            params = trained.joined(state.learner.params)
            nll, hits, tokens = (np.asarray(x).sum() for x in score(params, held))
            return {"eval/nll": nll / tokens, "eval/accuracy": hits / tokens}, []

        about = (f"model {config.model}; {trained.about()}", *about)
        command.write_config(place, config, layout)
        session.announce(console, about, steps, layout, place)
        work = session.Work("sft", steps, start, advance, measure, shown={"nll": "nll"})
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


def data(config, model, tokenizer):
    """(training `Tokens`, held-out `Tokens`, lines about them)."""
    end, length = (
        stop_tokens.end_id(tokenizer),
        models.length(config.data.length, model),
    )
    found, about = [], []
    for name, rows in zip(("training", "held-out"), recipes.rows(config), strict=True):
        if config.pack:
            found.append(packed(rows, tokenizer, length))
            learned = found[-1].tokens.size
            about.append(f"{learned} {name} tokens in rows of {length}")
            continue
        texts = examples.read(rows, tokenizer, cue=config.data.cue)
        tokens = tokenization.spans(
            tokenizer, texts, length=length, truncate=config.truncate, end=end
        )
        useful = tokens.target_mask[:, 1:].any(-1)
        if not useful.any():
            raise ValueError(
                f"{config.dataset}: within {length} tokens no {name} row has anything "
                "to learn; raise --data.length, or cut prompts with --truncate left"
            )
        tokens = Tokens(*(x[useful] for x in tokens))
        found.append(models.narrow(tokens, [tokens.mask]))
        learned = int(found[-1].target_mask.sum())
        line = f"{len(tokens.tokens)} {name} rows, {learned} tokens to learn"
        left = int((~useful).sum())
        about.append(line + (f"; {left} rows have none and are left out" * (left > 0)))
    return *found, about


def packed(rows, tokenizer, length):
    """`Tokens` without padding, of rows with a column text."""
    if "text" not in rows.column_names:
        raise ValueError(
            f"--pack: columns {', '.join(rows.column_names)}; texts are packed, of a "
            "column text"
        )
    found = tokenization.packed(tokenizer, list(rows["text"]), length=length)
    return Tokens(*(np.array(x) for x in found))


def sums(model, params, rows):
    """(Σ NLL, Σ hits, tokens) of each row, over its targets: [B] each."""
    variables = {"params": params}
    hidden = model.apply(variables, rows.tokens, rows.mask, method="hidden")
    logits = model.apply(variables, hidden[:, :-1], method="unembed")
    targets, learned = rows.tokens[:, 1:], rows.target_mask[:, 1:]
    logps = logprobs.of_tokens(logits, targets)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    hits = (chosen >= logits.max(-1)).astype(jnp.float32)
    return (
        -masking.zero(logps, learned).sum(-1),
        masking.zero(hits, learned).sum(-1),
        learned.sum(-1),
    )


if __name__ == "__main__":
    main()
