"""Do two agents who talk to each other drift from English, and what holds them back?

A sender translates French into an English message, a receiver the message into German.
Both are pretrained on text and then rewarded for the German alone: the sender by
REINFORCE, the receiver by likelihood. What pays is German; what drifts is English.

    python -m experiments.pivot_translation --dataset data/multi30k \\
        --pretrain-fr-en data/anki_en_fr --pretrain-en-de data/anki_en_de
    python -m experiments.pivot_translation --preset study --output runs/game ...
    python -m experiments.pivot_translation --preset paper    # the hub, a GPU, days

Data are folders, files or hub names with a column `translation` of {"fr", "en", "de"},
written PATH[@CONFIG][:SPLIT][,tokenized]; pretraining text may be several of them.

Expected: the frozen sender's German goes up at unchanged English; REINFORCE's German
goes up as well and its English down; S2P, SIL and Elastic Reset lie between.
"""

import dataclasses
from typing import Annotated

import tyro

from experiments.pivot_translation import options, pretraining, published, sections
from experiments.pivot_translation import task as tasks
from rlhf_jax import elastic_reset, ranges, trees
from rlhf_jax.cli import experiment, presets
from rlhf_jax.cli import options as shared
from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import claims
from rlhf_jax.studies import tables

CLAIMS = sections.CLAIMS


@dataclasses.dataclass(frozen=True)
class Config(shared.Study):
    """Everything a run depends on. The defaults are sized for minutes of two cores."""

    essential = (
        "dataset", "pretrain_fr_en", "pretrain_en_de", "methods", "steps", "seeds",
        "num_evals", "eval_every", "rl.learning_rate", "rl.tokens", "rl.reset_every",
        "rl.decay", "strengths.kl", "save_every", "output", "resume",
    )  # fmt: skip
    dataset: ranges.Text = tasks.HUB["dataset"]
    """Sentences in French, English and German on which the game is played."""
    pretrain_fr_en: tuple[ranges.Text, ...] = (tasks.HUB["fr_en"],)
    """Text that the sender is pretrained on."""
    pretrain_en_de: tuple[ranges.Text, ...] = (tasks.HUB["en_de"],)
    """Text that the receiver is pretrained on."""
    methods: tuple[ranges.Text, ...] = ("quick",)
    """Names of methods, or quick, study, all."""
    steps: ranges.Count = 240
    """Of every method: each is a round of the game and an update of both agents."""
    eval_every: ranges.Natural = 0
    """Steps between evaluations, with --num-evals 0."""
    num_evals: Annotated[ranges.Natural, tyro.conf.arg(aliases=["--looks"])] = 8
    """Evaluations of every method after its start, both sides of a reset included."""
    tuned: ranges.Text | None = None
    """results.json of its experiments.sweep: methods run with what it chose."""
    text: tasks.Config = dataclasses.field(
        default_factory=lambda: tasks.Config(merges=1500, max_length=30)
    )
    pretrain: pretraining.Config = dataclasses.field(default_factory=pretraining.Config)
    rl: options.RL = dataclasses.field(default_factory=options.RL)
    sil: options.SIL = dataclasses.field(default_factory=options.SIL)
    strengths: options.Strengths = dataclasses.field(default_factory=options.Strengths)
    corner: options.Corner = dataclasses.field(default_factory=options.Corner)


CONFIG = Config()
make_task = tasks.create
PRESETS = published.PRESETS


def check(config):
    """Raises ValueError for misuse that can be told before anything is made."""
    ranges.check(config, flags=True)
    options.check_num_evals(config)
    for names, flag in (
        ((config.dataset,), "dataset"),
        (config.pretrain_fr_en, "pretrain-fr-en"),
        (config.pretrain_en_de, "pretrain-en-de"),
    ):
        if not names:
            raise ValueError(f"--{flag}: name at least one data set")
        for name in names:
            tasks.corpus(name)


def make_study(config, setting):
    """The study of that task, and what its report lists."""
    study = options.study(config, make_task(config, setting))
    corners = dataclasses.asdict(config.corner)
    return dataclasses.replace(
        study,
        axes=axes.with_corners(sections.MEASURED, corners),
        claims=claims.possible(CLAIMS, study.methods, sections.AXES),
        sections=sections.SECTIONS,
    )


def announce(config, study, layout):
    """Lines on what is about to happen."""
    rl, task = config.rl, study.task
    sizes, shape = task.facts["vocabulary"], task.networks.sender.config
    parameters = trees.size(task.params)
    weight = elastic_reset.retained_weight(rl.decay, rl.reset_every)
    return (
        f"agents    two GRUs, embedding {shape.embedding}, hidden {shape.hidden}, "
        f"{parameters:,} parameters in all; vocabularies "
        + ", ".join(f"{name} {size}" for name, size in sizes.items()),
        f"data      {config.dataset}: {len(task.train)} training sentences, "
        f"{len(task.val)} for validation, {len(task.test)} for the test",
        f"methods   {', '.join(tables.listed(study.methods))}",
        f"run       {len(study.units)} seeds × {config.steps} steps × {rl.tokens} "
        f"tokens on {len(layout.devices)} {layout.devices[0].platform} device(s)",
        f"resets    every {rl.reset_every} steps, EMA decay {rl.decay:g}: "
        f"w = {weight:.2f} of the way is kept",
        *(f"preset    {line}" for line in presets.describe(config, PRESETS)),
    )


def finish(config, done):
    """Writes the report, shows the table on the console, and says where files are."""
    experiment.report(
        config,
        done,
        title="Pivot translation: German against English",
        question=__doc__.split("\n\n")[0],
        scope="these corpora and these agents",
        notes=notes(config, done.study),
        panels=sections.PANELS,
    )
    return done.folder


def notes(config, study):
    """What a reader must know to doubt the run."""
    return (
        sections.vocabulary_note(study.task.facts),
        "Hypervolume corners are fixed in the configuration, above the pretrained "
        f"agents: {dataclasses.asdict(config.corner)}.",
        "Pretraining is shared by all seeds; each seed draws its own batches, critic "
        "and messages.",
        options.tuning_note(config, tables.listed(study.methods)),
        "NLL under the judge is no measure of drift by itself: messages that all say "
        "the same likely thing would score best. Read it beside the other axes.",
        *presets.describe(config, PRESETS),
    )


EXPERIMENT = experiment.Experiment(
    name="pivot_translation",
    check=check,
    study=make_study,
    announce=announce,
    finish=finish,
)
main, run = experiment.entry_points(EXPERIMENT, CONFIG, __doc__, PRESETS)
