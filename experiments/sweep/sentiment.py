"""Which setting does each method deserve, searched as finely for all of them?

Every method, averages of another one's weights included, gets the same grid of learning
rates first. At its best rate follows what it has besides, one after the other: β, the
retained weight w of a reset or an EMA, the interval. A grid whose edge is best, or ties
with the best, grows. Trials run on calibration units and validation prompts and are
judged by the hypervolume of the proxy; gold chooses nothing. What was chosen is frozen
in results.json, from which experiments.sentiment runs it on fresh units. Trials share
compiled programs. Flags of experiments.sentiment mean here what they mean there.

    python -m experiments.sweep
    python -m experiments.sweep --methods ppo elastic_reset --worlds 2
    python -m experiments.sentiment --tuned runs/sweep/<time>/results.json --worlds 15
    python -m experiments.sweep pivot_translation --help      # of the translation game

Expected on the microworld: every method gains from its own rate, which narrows what
lies between them. --resume continues with the next trial. A second process joins with
--resume and the first one's --output: each takes a trial that is asked for and that
nobody is at.
"""

import dataclasses
from typing import Annotated

from experiments import sentiment
from experiments.sweep import subject
from rlhf_jax import ranges
from rlhf_jax.cli import language
from rlhf_jax.evaluation import axes
from rlhf_jax.studies import methods, search, tables
from rlhf_jax.tasks import microworld as small_world

METHODS = (
    "sft",
    "ppo",
    "ppo_kl",
    "elastic_reset",
    "ppo_early_stop",
    "ppo_average",
    "ppo_ma25",
    "ppo_ma50",
    "ppo_ma75",
)


@dataclasses.dataclass(frozen=True)
class Config(sentiment.Config):
    """Everything a sweep depends on; worlds and seeds are for calibration."""

    methods: tuple[ranges.Text, ...] = METHODS
    """Names of methods, or all."""
    axis: ranges.Text = axes.TEXT_NLL.key
    """The drift whose hypervolume chooses."""
    space: search.Space = dataclasses.field(default_factory=search.Space)
    worlds: ranges.Count = subject.UNITS
    """From --microworld.world on, which no report uses from 900 on. Texts are one
    world, of as many seeds."""
    seeds: ranges.Count = 1
    """Of every world."""
    first_seed: ranges.Natural = 900
    """No report uses seeds from 900 on."""
    num_evals: Annotated[ranges.Count, ranges.Was("looks")] = 20
    """Measurements of every trial after its start."""
    microworld: small_world.Config = dataclasses.field(
        default_factory=lambda: small_world.Config(world=900, eval_split="validation")
    )


CONFIG = Config()
PRESETS = sentiment.PRESETS


def run(config):
    """The whole sweep; returns its folder."""
    if config.dataset != "microworld" and config.worlds == CONFIG.worlds:
        seeds = subject.UNITS if config.seeds == CONFIG.seeds else config.seeds
        config = dataclasses.replace(config, worlds=1, seeds=seeds)
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
        "Corners are fixed in the configuration, beyond the initial policy: "
        f"{dataclasses.asdict(config.corner)}."
    )
    if config.dataset == "microworld":
        return corners, (
            f"Prompts, reviews and questions of the {config.microworld.eval_split} "
            "split."
        )
    return corners, (
        f"Validated on texts of --text.eval-split {config.text.eval_split}: run "
        "what was chosen on another."
    )


def again(config):
    """The command that a report is made with."""
    repeated = (
        "--worlds 15 --seeds 2" if config.dataset == "microworld" else "--seeds 5"
    )
    return f"python -m experiments.sentiment {repeated}"


SUBJECT = subject.Subject(
    name="sweep",
    title="Sweep: settings at equal resolution",
    question=__doc__.split("\n\n")[0],
    again=again,
    validated_on="validation prompts",
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
