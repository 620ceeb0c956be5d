"""Supervised fine-tuning: teach a language model to write what your rows hold.

Rows are JSONL, JSON, CSV, parquet or a data set on the hub, with columns `text` (all of
it is learned), `prompt` and `completion` (the completion is), `messages` (the
assistant's turns are, written by the tokenizer's chat template), or `input_ids` (with
`labels`, `completion_mask` or `assistant_masks`). Columns of ShareGPT and of Alpaca are
read as messages.

    python -m experiments.sft --model path/to/model --dataset rows.jsonl
    python -m experiments.sft --model path/to/model --dataset chats.jsonl \\
        --lora.rank 8 --fit.learning-rate 2e-4 --dtype bfloat16

Rows that would not fit into memory are read while training, --data.streaming with
--fit.steps; several short rows share one with --pack.

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
from typing import Annotated, Literal

import numpy as np

from rlhf_jax import masking, ranges
from rlhf_jax.algorithms import sft
from rlhf_jax.cli import options, policy, recipe
from rlhf_jax.models import lora, responses
from rlhf_jax.tasks import held_out_prompts, models, rows, sft_rows, streamed_rows

TITLE = "Supervised fine-tuning"
METRICS = ("nll", "accuracy", *policy.NAMES, "grad_norm", "learning_rate")


@dataclasses.dataclass(frozen=True)
class Config(policy.Flags):
    """Everything a run depends on."""

    essential = (*options.Supervised.essential, "pack", "truncate")
    pack: Annotated[bool, ranges.Was("packing")] = False
    """Several rows in one of --data.length tokens. Texts, each with its EOS, are joined
    and cut; other rows stay whole, and none of them sees another."""
    truncate: Literal["right", "left", "error"] = "right"
    """right keeps the beginning of rows that are too long, left their end; error
    refuses them."""

    def conflicts(self):
        """Flags that contradict each other, and why."""
        if self.pack and self.data.streaming:
            yield ("pack", "data.streaming"), "rows of a stream are not packed"
        if self.data.streaming and not self.fit.steps:
            reason = "how many rows a stream has is not known; say how many updates"
            yield ("data.streaming", "fit.steps"), reason
        yield from super().conflicts()


CONFIG = Config()


def make_study(config, setting):
    """The study of one run of supervised fine-tuning."""
    given, layout = setting.given, setting.layout
    loaded = models.read_decoder("--model", given.model, config.dtype)
    model, params, tokenizer = loaded
    length = models.length(config.data.length, model)
    form = sft_rows.Form(length, config.truncate, config.pack, config.data.cue)
    found, how = None, (given.data, model, tokenizer, form)
    if streamed_rows.wanted(given.dataset, given.data):
        train, held, about = streamed_rows.read(given.dataset, *how)
    else:
        found = rows.parts(given.dataset, given.data, among=sft_rows.KINDS)
        train, held, about = sft_rows.read(found, *how)
    trainable = models.trainable(params, lora.adapter(config.lora, params), layout)
    read = held_out_prompts.of_examples
    besides = policy.measured(config, setting, loaded, found, read)
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
