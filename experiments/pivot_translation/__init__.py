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
import time

from experiments.pivot_translation import (
    methods,
    options,
    page,
    pretraining,
    published,
    study,
)
from experiments.pivot_translation import task as tasks
from rlhf_jax import elastic_reset, trees
from rlhf_jax.cli import command, presets
from rlhf_jax.reporting import canvas, claims, report, samples
from rlhf_jax.runtime import (
    loop,
    metrics_log,
    parallel,
    preparation,
    processes,
    progress,
)

CLAIMS = page.CLAIMS


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything a run depends on. The defaults are sized for minutes of two cores."""

    dataset: str = tasks.HUB["dataset"]
    """Sentences in French, English and German that the game is played on."""
    pretrain_fr_en: tuple[str, ...] = (tasks.HUB["fr_en"],)
    """Text that the sender is pretrained on."""
    pretrain_en_de: tuple[str, ...] = (tasks.HUB["en_de"],)
    """Text that the receiver is pretrained on."""
    methods: tuple[str, ...] = ("quick",)
    """Names of methods, or quick, study, all."""
    seeds: int = 1
    first_seed: int = 0
    steps: int = 240
    """Of every method: a round of the game and an update of both agents."""
    eval_every: int = 0
    """Steps between evaluations, if not --looks."""
    looks: int = 8
    """Measurements of every method after its start, both sides of a reset included."""
    tuned: str | None = None
    """results.json of experiments.pivot_sweep: every method with what was chosen."""
    preset: str | None = None
    """A name for many flags; see above."""
    output: str | None = None
    """The run folder; by default a new one under runs/pivot_translation."""
    resume: bool = False
    """Go on where the run in --output (or the latest) was stopped."""
    devices: int | None = None
    """How many devices share the rows; by default all, a CPU's cores being devices."""
    save_every: int = 100
    """Steps between checkpoints."""
    keep: int = 1
    """Checkpoints kept a method and seed."""
    cache: str | None = None
    """Where prepared text and pretrained weights are kept; by default
    ~/.cache/rlhf_jax."""
    text: tasks.Config = dataclasses.field(
        default_factory=lambda: tasks.Config(merges=1500, max_length=30)
    )
    pretrain: pretraining.Config = dataclasses.field(default_factory=pretraining.Config)
    rl: options.RL = dataclasses.field(default_factory=options.RL)
    sil: options.SIL = dataclasses.field(default_factory=options.SIL)
    strengths: options.Strengths = dataclasses.field(default_factory=options.Strengths)
    corner: options.Corner = dataclasses.field(default_factory=options.Corner)


CONFIG = Config()
PRESETS = {
    "paper": presets.Preset(
        "as published: 100,000 steps, 25,000 merges, 5 seeds; a GPU and days",
        {
            **published.start(),
            "methods": methods.STUDY,
            "looks": 0,
            "save_every": 500,
            "pretrain.eval_every": 2000,
            "pretrain.save_every": 2000,
            "text.classes": 6,
        },
        published.NOTES,
    ),
    "study": presets.Preset(
        "every method × 3 seeds on Multi30k in about three hours of two cores",
        {
            "methods": methods.STUDY,
            "seeds": 3,
            "steps": 300,
            "looks": 8,
            "pretrain.steps": 2800,
            "pretrain.eval_every": 700,
            "pretrain.save_every": 700,
        },
    ),
    "quick": presets.Preset("the defaults: five methods, one seed, minutes", {}),
}


def main():
    config = command.parse(CONFIG, description=__doc__, presets=PRESETS)
    command.main(lambda: run(config))


def run(config):
    """The whole experiment; returns the folder of the run."""
    started = time.monotonic()
    check(config)
    cache = command.cache_folder(config)
    command.prepare_devices(config, cache, ())
    console = command.console()
    place = command.folder(config, "pivot_translation")
    layout = parallel.layout("data", config.devices)
    with loop.Signals() as signals:
        task = make_task(config, layout, cache, console, signals)
        chosen = options.settings(config)
        command.write_config(place, config, layout)
        announce(config, task, chosen, layout, place, console)
        subject = study.Game(task, chosen, layout, place, console=console)
        records = subject.run(signals)
    if processes.first():
        wall = time.monotonic() - started
        finish(config, place, records, task.facts, console, wall)
    return place


def check(config):
    """Misuse that can be told before anything is made."""
    methods.choose(config.methods)
    for name in ("seeds", "steps"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name} {getattr(config, name)}: at least 1 is needed")
    options.check_looks(options.settings(config))
    for names, flag in (
        ((config.dataset,), "dataset"),
        (config.pretrain_fr_en, "pretrain-fr-en"),
        (config.pretrain_en_de, "pretrain-en-de"),
    ):
        if not names:
            raise ValueError(f"--{flag}: name at least one data set")
        for name in names:
            tasks.corpus(name)


def make_task(config, layout, cache, console, signals):
    """The task of --dataset and the pretraining text, agents pretrained."""
    with preparation.Preparation(console) as told:
        return tasks.create(
            config.text,
            config.pretrain,
            config.dataset,
            config.pretrain_fr_en,
            config.pretrain_en_de,
            layout=layout,
            cache=cache,
            told={"report": told, "signals": signals},
        )


def announce(config, task, chosen, layout, place, console):
    """What is about to happen, before it does."""
    rl, sizes = config.rl, task.facts["vocabulary"]
    parameters = trees.size(task.params)
    weight = elastic_reset.retained_weight(rl.decay, rl.reset_every)
    shape = task.networks.sender.config
    lines = (
        f"agents    two GRUs, embedding {shape.embedding}, hidden {shape.hidden}, "
        f"{parameters:,} parameters in all; vocabularies "
        + ", ".join(f"{name} {size}" for name, size in sizes.items()),
        f"data      {config.dataset}: {len(task.train)} sentences to play with, "
        f"{len(task.val)} to choose on, {len(task.test)} to report",
        f"methods   {', '.join(chosen.methods)}",
        f"run       {len(chosen.seeds)} seeds × {chosen.steps} steps × {rl.tokens} "
        f"tokens on {len(layout.devices)} {layout.devices[0].platform} device(s)",
        f"resets    every {rl.reset_every} steps, EMA decay {rl.decay:g}: "
        f"w = {weight:.2f} of the way is kept",
        *(f"preset    {line}" for line in presets.told(config, PRESETS)),
        f"folder    {place}",
    )
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def finish(config, place, records, facts, console, wall):
    """The report, the table on the console, and where everything is."""
    rows = metrics_log.read(place / "samples.jsonl")
    chosen, labels = methods.choose(config.methods), methods.LABELS
    with canvas.naming(page.NAMES):
        about = report.Study(
            title="Pivot translation: German against English",
            question=__doc__.split("\n\n")[0],
            axes=page.AXES,
            corners=options.corners(config.corner, records),
            claims=claims.possible(CLAIMS, chosen, page.AXES),
            labels=labels,
            place="these corpora and these agents",
            command=command.command(),
            provenance=command.provenance(config),
            notes=notes(config, facts),
            extra=page.paragraphs(records, rows, labels),
            panels=page.PANELS,
        )
        results = report.write(
            place, records, about, rows=rows, controls=page.gates(records), wall=wall
        )
        last = [row for row in rows if row["phase"] == "final"]
        samples.show(samples.unselected(last, 4), console=console)
        report.show(results, labels=labels, console=console)
    for name in ("front.png", "curves.png", "report.md", "results.json"):
        console.print(str(place / name), highlight=False, soft_wrap=True)
    console.print(f"done in {progress.duration(wall)}", highlight=False)


def notes(config, facts):
    """What a reader must know to disbelieve the run."""
    return (
        page.vocabulary_note(facts),
        "Hypervolume corners are fixed in the configuration, above the pretrained "
        f"agents: {dataclasses.asdict(config.corner)}.",
        "Pretraining is shared by all seeds; each seed draws its own batches, critic "
        "and messages.",
        options.tuned_note(config),
        "NLL under the judge is no drift by itself: messages that all say the same "
        "likely thing would score best. It is read beside the other axes.",
        *presets.told(config, PRESETS),
    )
