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

Held-out prompts are completed at every evaluation: samples.jsonl has the texts, and the
report how far the model has drifted. --reward measures a reward on them besides, and
experiments.compare draws such runs beside those of experiments.preference and
experiments.rl. --seeds 3 makes three runs, --load-best-model-at-end exports the best
evaluated weights, --early-stopping-patience 3 ends a run that no longer gets better.

From Python, with rows as a list of dictionaries or a `datasets.Dataset`:

    tuned = sft.train(model="path/to/model", dataset=rows, fit={"steps": 100})
    tuned.params, tuned.metrics["eval/nll"]

`callbacks=[f]` takes functions f(step, metrics), called with every line of
metrics.jsonl; one that returns "stop" ends the run.
"""

import dataclasses
import functools
from typing import Literal

import numpy as np

from rlhf_jax import masking
from rlhf_jax.algorithms import sft
from rlhf_jax.cli import policy, recipe
from rlhf_jax.data import examples, stop_tokens, tokenization
from rlhf_jax.models import lora, responses
from rlhf_jax.tasks import held_out_prompts, models, rows
from rlhf_jax.types import Tokens

TITLE = "Supervised fine-tuning"
METRICS = ("nll", "accuracy", *policy.NAMES, "grad_norm", "learning_rate")


@dataclasses.dataclass(frozen=True)
class Config(policy.Flags):
    """Everything a run depends on."""

    pack: bool = False
    """Texts, each with its EOS, are joined and cut every --data.length tokens; for rows
    with a column text."""
    truncate: Literal["right", "left", "error"] = "right"
    """right keeps the beginning of rows that are too long, left their end; error
    refuses them."""


CONFIG = Config()


def make_study(config, setting):
    """The study of one run of supervised fine-tuning."""
    given, layout = setting.given, setting.layout
    loaded = models.read_decoder("--model", given.model, config.dtype)
    model, params, tokenizer = loaded
    train, held, about = data(config, given, model, tokenizer)
    besides = policy.measured(config, setting, loaded, held_out_prompts.of_examples)
    trainable = models.trainable(params, lora.adapter(config.lora, params), layout)
    work = recipe.supervise(
        config,
        setting,
        loaded,
        trainable,
        train,
        (*about, *besides.about),
        sft.make_loss,
        sft.count,
    )
    (chunk,) = recipe.batches(config)
    score = layout.over_rows(functools.partial(sums, model), replicated=1, chunk=chunk)

    def evaluate(params, run):
        nll, hits, tokens = (np.asarray(x).sum() for x in score(params, held))
        return {"eval/nll": nll / tokens, "eval/accuracy": hits / tokens}, []

    return recipe.study(
        config,
        work,
        "sft",
        evaluate,
        label="SFT",
        shown={"nll": "nll"},
        best="nll",
        evaluators=besides.evaluators,
        axes=besides.axes,
    )


def data(config, given, model, tokenizer):
    """(training `Tokens`, held-out `Tokens`, lines about them).

    given: the config with rows, where those were given, in place of their names.
    """
    end = stop_tokens.end_id(tokenizer)
    length = models.length(config.data.length, model)
    encoded, about = [], []
    parts = rows.read(given.dataset, given.data)
    for name, part in zip(("training", "held-out"), parts, strict=True):
        if config.pack:
            encoded.append(packed(part, tokenizer, length))
            learned = encoded[-1].tokens.size
            about.append(f"{learned} {name} tokens in rows of {length}")
            continue
        texts = examples.read(part, tokenizer, cue=config.data.cue)
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
        encoded.append(models.narrow(tokens, [tokens.mask]))
        learned = int(encoded[-1].target_mask.sum())
        line = f"{len(tokens.tokens)} {name} rows, {learned} tokens to learn"
        left = int((~useful).sum())
        about.append(line + (f"; {left} rows have none and are left out" * (left > 0)))
    return *encoded, about


def packed(part, tokenizer, length):
    """`Tokens` without padding, of rows with a column text."""
    if "text" not in part.column_names:
        raise ValueError(
            f"--pack: columns {', '.join(part.column_names)}; texts are packed, of a "
            "column text"
        )
    tokens = tokenization.packed(tokenizer, list(part["text"]), length=length)
    return Tokens(*(np.array(x) for x in tokens))


def sums(model, params, rows):
    """(Σ NLL, Σ hits, tokens) of each row, over its targets: [B] each."""
    logps, hits, learned = responses.of_targets(model, params, rows)
    nll, hits = (masking.zero(x, learned).sum(-1) for x in (-logps, hits))
    return nll, hits, learned.sum(-1)


RECIPE = recipe.supervised_experiment(
    "sft",
    make_study,
    title=TITLE,
    metrics=METRICS,
    check=policy.check,
    sections=policy.sections,
)
main, train, run = recipe.entry_points(RECIPE, CONFIG, __doc__)

if __name__ == "__main__":
    main()
