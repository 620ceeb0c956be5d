"""The game's flags, and the study that they ask for."""

import dataclasses

from experiments.pivot_translation import (
    decoding,
    evaluators,
    methods,
    published,
    trainers,
)
from rlhf_jax import optim, ranges
from rlhf_jax.algorithms import translation_game as game
from rlhf_jax.algorithms.translation_game import imitation
from rlhf_jax.cli import fields
from rlhf_jax.runtime import provenance
from rlhf_jax.studies import eval_steps, search, tables, values
from rlhf_jax.studies.interfaces import Schedule, Selection, Study, Unit

SHOWN = {"reward": "objective/scores", "kl": "objective/kl", "drift": "drift/bleu_en"}
_RL = {
    game.Hyper: (
        "learning_rate", "sender_rate", "policy_coef", "value_coef",
        ("entropy", "entropy_coef"), "receiver_coef", "critic_first",
    ),
    optim.Config: ("schedule", "max_grad_norm"),
}  # fmt: skip
# For runs that are far shorter than the published ones.
_SHORT = {"learning_rate": 5e-4, "sender_rate": 0.2, "critic_first": 40}


@dataclasses.dataclass(frozen=True)
class RL(fields.group(_RL, **_SHORT, schedule="linear", max_grad_norm=0.1)):
    """What every method shares."""

    tokens: ranges.Count = 512
    """Pieces of a batch, each sentence counted in its longest language."""
    lesson_tokens: ranges.Count = 512
    """The same of pretraining text, for S2P's supervised loss."""
    longest: ranges.Count = 40
    """Most tokens of a message."""
    shortest: ranges.Natural = 3
    """Fewest tokens of a message."""
    decay: ranges.Share = 0.99
    """Of the EMA, per step."""
    reset_every: ranges.Natural = 80
    """Steps between resets."""


@dataclasses.dataclass(frozen=True)
class SIL:
    """Seeded iterated learning."""

    play: ranges.Count = 80
    """Steps of the game in a generation, before a student replaces the agents."""
    imitate: ranges.Natural = 40
    """Updates of the student's sender; far fewer are only Adam's first steps."""
    tune: ranges.Natural = 40
    """Updates of the student's receiver."""
    learning_rate: ranges.Positive = 1e-4
    """Of a student, in both its stages."""


@dataclasses.dataclass(frozen=True)
class Strengths:
    """The coefficients of the penalties; none is published for this game."""

    kl: ranges.NonNegative = 0.01
    """Of the exact KL from the initial sender, nats a token."""
    entropy: ranges.NonNegative = 0.01
    """Of the entropy of messages, nats a token; all other methods use rl.entropy."""
    l2: ranges.NonNegative = 0.001
    """Of ½ Σ (θ − θ₀)² of the sender."""


@dataclasses.dataclass(frozen=True)
class Corner:
    """The worst drift that counts in a hypervolume, above the pretrained sender's."""

    bleu_en: ranges.Positive = 15.0
    """BLEU-En lost."""
    text_nll: ranges.Positive = 2.0
    """Nats a token of human English."""
    message_nll: ranges.Positive = 2.0
    """Nats a token of messages, under the judge."""
    kl_initial: ranges.Positive = 60.0
    """Nats a message."""


def study(config, task, *, tuned=None):
    """The `interfaces.Study` that the flags of the game ask for.

    Args: config: `pivot_translation.Config`; task: `task.Task`; tuned: {method:
    Values}, by default what --tuned names.
    """
    rl, tuned = config.rl, values.read(config.tuned) if tuned is None else tuned
    greedy = decoding.config(longest=rl.longest, shortest=rl.shortest)
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    return Study(
        methods=rows(config, tuned),
        units=tuple(Unit(0, seed) for seed in seeds),
        schedule=schedule(config),
        evaluators=evaluators.validation(task, greedy),
        task=task,
        settings=settings(config),
        at_end=(evaluators.on_test(task, greedy),),
        of_best=(evaluators.on_test(task, greedy, prefix="best"),),
        select=Selection(("eval/reward_a",), worth),
        budget=budget,
        shown=SHOWN,
        digest=values.digest(provenance.digest(config), tuned),
    )


def worth(now, start):
    """What an early stop maximises: BLEU-De on validation half A, as published."""
    del start
    return now["eval/reward_a"]


def budget(metrics):
    """What an iteration with these metrics took: {"tokens", "gradient_steps",
    "reward_calls"}."""
    return {
        "tokens": metrics["response/tokens"],
        "gradient_steps": 1 + metrics.get("sil/updates", 0.0),
        "reward_calls": metrics["response/rows"],
    }


def table(config):
    """{name: its row} of all methods, as the flags of a run have them."""
    sil = config.sil
    return methods.table(imitation.Schedule(sil.play, sil.imitate, sil.tune))


def rows(config, tuned):
    """The rows of the methods asked for, with the {method: Values} of a search."""
    names = methods.choose(config.methods)
    tuned = {name: tuned[name] for name in tuned if name in names}
    return tables.rows(names, tables.with_values(table(config), tuned))


def schedule(config):
    """When the runs of a study evaluate, reset and save."""
    every, steps = config.rl.reset_every, config.steps
    if config.num_evals:
        evaluations = eval_steps.by_count(steps, config.num_evals)
    else:
        evaluations = eval_steps.alike(steps, config.eval_every, reset_every=every)
    return Schedule(
        steps=steps,
        evaluations=evaluations,
        reset_every=every,
        save_every=config.save_every,
        keep=config.keep,
    )


def settings(config):
    """What the trainers of the game read."""
    rl = config.rl
    draw = decoding.config(longest=rl.longest, shortest=rl.shortest, temperature=1.0)
    optimizer = optim.Config(**published.ADAM, **fields.of(rl, optim.Config))
    return trainers.Settings(
        algorithm=game.Config(sampling=draw, optimizer=optimizer),
        hyper=game.Hyper(**fields.of(rl, game.Hyper), total_updates=config.steps),
        strengths=dataclasses.asdict(config.strengths),
        tokens=rl.tokens,
        lesson_tokens=rl.lesson_tokens,
        classes=config.text.classes,
        student_rate=config.sil.learning_rate,
        decay=rl.decay,
    )


def check_num_evals(config):
    """Raises ValueError where a method's resets never come, or are too many."""
    chosen = rows(config, values.read(config.tuned))
    eval_steps.check_resets(schedule(config), chosen, config.num_evals)


def tuning_note(config, rows):
    """The note on how methods were tuned, for the report. rows: {name: its row}."""
    tuned, known = values.read(config.tuned), methods.METHODS
    if not tuned:
        return (
            "Nothing is tuned: all methods share their learning rates; penalties "
            f"{dataclasses.asdict(config.strengths)}."
        )

    def flags(name):
        return search.flags(name, known, tuned[name], config.rl)

    return search.note(config.tuned, tuned, rows, flags)
