"""Which setting does each method of the translation game deserve, searched as finely?

Of Elastic Reset in this game neither decay nor interval is published, and of no penalty
its strength. Every method, averages of another one's weights included, gets the same
grid of learning rates first; at its best rate follows what it has besides, one after
the other. A grid whose edge is best, or ties with the best, grows. Trials run on
calibration seeds and are judged by the hypervolume of German against English on the
validation sentences; test sentences are not read. What was chosen is frozen in
results.json, from which experiments.pivot_translation runs it on fresh seeds. Trials
share compiled programs and pretrained agents. Flags mean here what they mean there.

    python -m experiments.sweep pivot_translation --preset study --seeds 2 \\
        --dataset data/multi30k --pretrain-fr-en data/anki_en_fr \\
        --pretrain-en-de data/anki_en_de
    python -m experiments.pivot_translation --preset study ... \\
        --tuned runs/pivot_sweep/<time>/results.json

Expected: every method gains from its own rate, which narrows what lies between them.
A second process joins with --resume and the first one's --output: each takes a trial
that is asked for and that nobody is at.
"""

import dataclasses
from typing import Annotated

from experiments import pivot_translation
from experiments.pivot_translation import methods, options, published, sections
from experiments.sweep import subject
from rlhf_jax import ranges
from rlhf_jax.cli import presets
from rlhf_jax.evaluation import axes
from rlhf_jax.studies import search

METHODS = (
    "reinforce",
    "reinforce_kl",
    "elastic_reset",
    "elastic_reset_receiver",
    "reinforce_average",
    "reinforce_ma50",
)


@dataclasses.dataclass(frozen=True)
class Space:
    """The grids that every search begins with; a single value does not grow."""

    learning_rate: tuple[ranges.Positive, ...] = search.Space.learning_rate
    """Times --rl.learning-rate."""
    strength: tuple[ranges.Positive, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    """Times the method's own of --strengths: none is published."""
    weight: tuple[search.Fraction, ...] = search.Space.weight
    """Retained weights w of a reset or an EMA; the decay follows."""
    every: tuple[ranges.Count, ...] = (50, 75, 100, 150)
    """Steps between resets."""
    decay: tuple[search.Fraction, ...] = search.Space.decay
    """Of the EMA, in place of w if --rl.decay keeps nothing of the initial sender at a
    reset."""
    extensions: ranges.Natural = search.Space.extensions
    """Values that a grid may grow by on one side."""


@dataclasses.dataclass(frozen=True)
class Config(pivot_translation.Config):
    """Everything a sweep depends on; seeds are calibration seeds."""

    axis: ranges.Text = sections.AXES[0].key
    """The drift whose hypervolume chooses."""
    space: Space = dataclasses.field(default_factory=Space)
    methods: tuple[ranges.Text, ...] = METHODS
    """Names of methods, or quick, study, all."""
    seeds: ranges.Count = subject.UNITS
    """Of every trial."""
    first_seed: ranges.Natural = 900
    """Seeds from 900 on are for calibration alone."""
    num_evals: Annotated[ranges.Count, ranges.Was("looks")] = 12
    """Measurements of every trial after its start."""


CONFIG = Config()


def _preset(name, summary, **changes):
    """A preset of the game, but for methods, seeds and how often is measured."""
    known = pivot_translation.PRESETS[name]
    kept = {
        flag: value
        for flag, value in known.flags.items()
        if flag not in ("methods", "seeds", "num_evals", "eval_every")
    }
    return presets.Preset(summary, {**kept, **changes}, known.notes)


PRESETS = {
    "paper": _preset(
        "paper",
        "around the published settings, over what is not published; a GPU and weeks",
        num_evals=published.FLAGS["steps"] // published.FLAGS["eval_every"],
        **{
            "space.every": published.UNKNOWN["rl.reset_every"][1],
            "space.decay": published.UNKNOWN["rl.decay"][1],
        },
    ),
    "study": _preset(
        "study",
        "trials of the study's size: 300 steps, 3 to 5 minutes of a core for each seed",
    ),
}


def run(config):
    """The whole sweep; returns its folder."""
    return SUBJECT.run(config)


def axes_of(config, task):
    """What is measured of the game, with the corners of the flags."""
    del task
    return axes.with_corners(sections.MEASURED, dataclasses.asdict(config.corner))


def notes(config):
    """What a reader must know to disbelieve the sweep."""
    return (
        "Corners are fixed in the configuration, above the pretrained agents: "
        f"{dataclasses.asdict(config.corner)}.",
        "Validation sentences alone: test sentences are read by the run that uses what "
        "was chosen.",
        *presets.describe(config, PRESETS),
    )


SUBJECT = subject.Subject(
    name="pivot_sweep",
    title="Sweep of the translation game: settings at equal resolution",
    question=__doc__.split("\n\n")[0],
    again=lambda config: "python -m experiments.pivot_translation --seeds 5",
    validated_on="validation sentences",
    drifts=sections.AXES,
    presets=PRESETS,
    check=pivot_translation.check,
    table=options.table,
    methods=lambda config: methods.choose(config.methods),
    schedule=options.schedule,
    task=lambda config, setting: pivot_translation.make_task(config, setting),
    study=lambda config, task, tuned: options.study(config, task, tuned=tuned),
    axes=axes_of,
    scope=lambda config: "these corpora and these agents",
    notes=notes,
)
