"""Which setting does each method deserve, at equal cost, and what do all reach?

Every method gets as many trials: its flags' own setting first, then a balanced draw
over what it reads: learning rate, β, the retained weight w of a reset, the interval.
Trials run on calibration seeds and validation prompts and are judged by the hypervolume
of the proxy on half of the prompts; gold chooses nothing. What was chosen is frozen in
results.json, from which experiments.sentiment runs it on fresh seeds. All trials share
compiled programs. Flags of experiments.sentiment mean here what they mean there.

    python -m experiments.sweep                     # 9 trials, 3 seeds: about an hour
    python -m experiments.sweep --methods ppo elastic_reset --trials 4 --seeds 2
    python -m experiments.sentiment --tuned runs/sweep/<time>/results.json --seeds 10
    python -m experiments.sweep pivot_translation --help      # of the translation game

Expected on the microworld: every method gains from its own rate, which narrows what
lies between them. Trials run one after another; --resume continues with the next. A
second process joins with --resume and the first one's --output: each takes the next
trial that nobody has begun.
"""

import dataclasses
from typing import Annotated

import tyro

from experiments import sentiment
from experiments.sweep import subject
from rlhf_jax import ranges
from rlhf_jax.cli import language
from rlhf_jax.evaluation import axes
from rlhf_jax.studies import methods, search, tables
from rlhf_jax.tasks import microworld as small_world


@dataclasses.dataclass(frozen=True)
class Config(sentiment.Config):
    """Everything a sweep depends on; seeds are calibration seeds."""

    trials: ranges.Count = subject.TRIALS
    """Settings of every method, the flags' own among them."""
    draw: ranges.Natural = 0
    """Seed of the trials' draw."""
    axis: ranges.Text = axes.TEXT_NLL.key
    """The drift whose hypervolume chooses."""
    space: search.Space = dataclasses.field(default_factory=search.Space)
    seeds: ranges.Count = subject.SEEDS
    first_seed: ranges.Natural = 900
    """Seeds from 900 on are for calibration alone."""
    num_evals: Annotated[ranges.Count, tyro.conf.arg(aliases=["--looks"])] = 20
    """Measurements of every trial after its start."""
    microworld: small_world.Config = dataclasses.field(
        default_factory=lambda: small_world.Config(eval_split="validation")
    )


CONFIG = Config()
PRESETS = sentiment.PRESETS


def run(config):
    """The whole sweep; returns its folder."""
    return SUBJECT.run(config)


def check(config):
    """Misuse that can be told before anything is made."""
    if config.export:
        raise ValueError("--export: a sweep keeps no weights; export a tuned run")
    sentiment.check(config)


def table(config):
    """{name: its row}, with the settings that --override gives a method alone."""
    asked = tables.overrides(config.override, methods.METHODS)
    return tables.with_overrides(methods.METHODS, asked)


def scope(config):
    """What the numbers hold for."""
    if config.dataset == "microworld":
        return "this microworld and these models"
    return "these texts and models"


def notes(config):
    """What a reader must know to disbelieve the sweep."""
    corners = (
        "Corners are fixed in the configuration, above the initial policy: "
        f"{dataclasses.asdict(config.corner)}."
    )
    if config.dataset == "microworld":
        return corners, (
            f"Prompts, reviews and questions of the {config.microworld.eval_split} "
            "split. Pretraining is shared by all seeds."
        )
    return corners, (
        f"Validated on texts of --text.eval-split {config.text.eval_split}: run "
        "what was chosen on another."
    )


SUBJECT = subject.Subject(
    name="sweep",
    title="Sweep: settings at equal cost",
    question=__doc__.split("\n\n")[0],
    again="python -m experiments.sentiment --seeds 10",
    halves_of="prompts",
    drifts=sentiment.AXES,
    presets=PRESETS,
    check=check,
    table=table,
    methods=lambda config: tables.choose(config.methods, methods.METHODS),
    schedule=language.schedule,
    task=lambda config, setting: sentiment.make_tasks(config, setting),
    study=lambda config, tasks, tuned: language.study(config, tasks, tuned=tuned),
    axes=lambda config, tasks: sentiment.axes_of(config, next(iter(tasks.values()))),
    scope=scope,
    notes=notes,
    batches=sentiment.batches,
)
