"""A real instruct model as the policy: SmolLM2-135M on two CPU cores.

Allal et al. 2025, "SmolLM2", arXiv:2502.02737. A user asks for a film review by its
first words; a classifier learned from IMDB pays, another one judges. What the model
could do before is measured besides: multiple choice, and text of another kind.
"""

import dataclasses

from rlhf_jax.benchmarks import suites
from rlhf_jax.cli import presets
from rlhf_jax.data import sources, tokenization
from rlhf_jax.evaluation import axes
from rlhf_jax.studies import evaluators
from rlhf_jax.tasks import classifiers

OTHER_TEXT = axes.Axis(
    "drift/other_text_nll", "NLL of other human text", "nats / token", "less",
    corner=1.0, smallest=0.05,
)  # fmt: skip
_SUITES_LENGTH = 256  # tokens of a question with an option
_FEWEST_WORDS = 20  # of a text; headings have less

FLAGS = {
    "text.chat": "Write a short review of a film. It begins like this: {text}",
    "text.chat_words": 8,
    "text.prompts": 2000,
    "text.prompt_length": 64,  # the template's own system message among them
    "text.max_new_tokens": 48,
    "text.eval_prompts": 32,
    "text.heldout_rows": 32,
    "text.heldout_length": 96,
    "text.raw_reward": True,
    "text.classifier": "gpt2-mini",
    "text.classifier_length": 96,
    "text.classifier_steps": 400,
    "suite_questions": 50,
    "devices": 1,  # whose products share the cores; a second one copies all weights
    "seeds": 1,
    "steps": 24,
    "eval_every": 12,
    "methods": ("ppo", "ppo_kl", "elastic_reset"),
    "rl.rows": 16,
    "rl.minibatches": 1,
    "rl.micro_batches": 4,
    "rl.value": "shared",
    "rl.learning_rate": 1e-5,
    "rl.reset_every": 8,
    "rl.decay": 0.88,
    "rl.packed": True,
}
NOTES = (
    "The classifiers are small, learn from scratch and read the answer alone.",
    "One seed: nothing here is evidence for one method over another.",
)
PRESETS = {
    "smollm2": presets.Preset(
        "an instruct model of 135M parameters on two cores (give --policy, --dataset)",
        FLAGS,
        NOTES,
    ),
    "smollm2_lora": presets.Preset(
        "the same with adapters of rank 8",
        FLAGS | {"lora.rank": 8, "rl.learning_rate": 2e-4},
        NOTES,
    ),
}


def extend(config, study):
    """The study with --suites and --other-text measured besides."""
    task, extra = study.task, []
    measured, facts = [], dict(task.facts)
    if config.suites:
        questions = suites.read(config.suites, count=config.suite_questions)
        length = min(task.model.config.max_length, _SUITES_LENGTH)
        options = suites.tokens(questions, task.tokenizer, length=length)
        extra.append(suites.evaluator(task.model, options))
        measured += [axes.SKILLS, *(axes.accuracy(f"tax/{name}") for name in options)]
        facts["suites"] = suites.facts(options)
    if config.other_text is not None:
        extra.append(other_text(task, config))
        measured.append(OTHER_TEXT)
    return dataclasses.replace(
        study,
        task=dataclasses.replace(task, facts=facts),
        evaluators=(*study.evaluators, *extra),
        axes=axes.with_corners(
            (*study.axes, *measured), dataclasses.asdict(config.corner)
        ),
    )


def other_text(task, config):
    """NLL of human text of another kind: `drift/other_text_nll`, nats a token."""
    path, _, split = config.other_text.partition(":")
    rows = sources.load(path, split=split or "test", columns=["text"])
    rows = rows.filter(lambda row: len(row["text"].split()) > _FEWEST_WORDS)
    read = list(classifiers.shuffled(rows, config.text.heldout_rows)["text"])
    length = config.text.heldout_length
    heldout = tokenization.sft(task.tokenizer, read, length=length)
    other = dataclasses.replace(task, heldout=heldout, joined=None, text_truth=None)
    measure = evaluators.human_text(other)

    def evaluate(params, run):
        metrics, _ = measure(params, run)
        named = {k: v for k, v in metrics.items() if k.startswith("drift/text_nll")}
        return {k.replace("/", "/other_"): v for k, v in named.items()}, []

    return evaluate
