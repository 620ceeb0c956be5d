"""Which setting does each method of the translation game deserve, at equal cost?

Of Elastic Reset in this game neither decay nor interval is published, and of no penalty
its strength: here they are swept, and the learning rate of every method with them, with
as many trials for each. Trials run on calibration seeds and are judged by the
hypervolume of German against English on half of the validation sentences; test
sentences are not read. What was chosen is frozen in results.json, from which
experiments.pivot_translation runs it on fresh seeds. All trials share compiled programs
and pretrained agents. Flags mean here what they mean there.

    python -m experiments.pivot_sweep --preset study --trials 6 --seeds 2 \\
        --dataset data/multi30k --pretrain-fr-en data/anki_en_fr \\
        --pretrain-en-de data/anki_en_de
    python -m experiments.pivot_translation --preset study ... \\
        --tuned runs/pivot_sweep/<time>/results.json

Expected: every method gains from its own rate, which narrows what lies between them.
A second process joins with --resume and the first one's --output: each takes the next
trial that nobody has begun.
"""

import dataclasses
import time

from experiments import pivot_translation
from experiments.pivot_translation import (
    methods,
    options,
    page,
    published,
    study,
    tuned,
)
from rlhf_jax.cli import command, presets
from rlhf_jax.reporting import canvas
from rlhf_jax.runtime import loop, parallel, processes
from rlhf_jax.studies import search, sweep, sweep_page

TRIALS, SEEDS = 9, 3  # what the protocol asks for; a report says what was cut
METHODS = (
    "reinforce",
    "reinforce_kl",
    "elastic_reset",
    "elastic_reset_receiver",
    "reinforce_average",
    "reinforce_ma50",
)


@dataclasses.dataclass(frozen=True)
class Config(pivot_translation.Config):
    """Everything a sweep depends on; seeds are calibration seeds."""

    trials: int = TRIALS
    """Settings of every method, the flags' own among them."""
    draw: int = 0
    """Seed of the trials' draw."""
    axis: str = page.AXES[0]
    """The drift whose hypervolume chooses."""
    space: tuned.Space = dataclasses.field(default_factory=tuned.Space)
    methods: tuple[str, ...] = METHODS
    """Names of methods, or quick, study, all; those that train nothing are read off."""
    seeds: int = SEEDS
    first_seed: int = 900
    """Seeds from 900 on are for calibration alone."""
    looks: int = 12
    """Measurements of every trial after its start."""


CONFIG = Config()


def _preset(name, summary, **changes):
    """A preset of the game, as a sweep's: its own methods, seeds and looks."""
    known = pivot_translation.PRESETS[name]
    kept = {
        flag: value
        for flag, value in known.flags.items()
        if flag not in ("methods", "seeds", "looks", "eval_every")
    }
    return presets.Preset(summary, {**kept, **changes}, known.notes)


PRESETS = {
    "paper": _preset(
        "paper",
        "around the published settings, over what is not published; a GPU and weeks",
        looks=published.FLAGS["steps"] // published.FLAGS["eval_every"],
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


def main():
    config = command.parse(CONFIG, description=__doc__, presets=PRESETS)
    command.main(lambda: run(config))


def run(config):
    """The whole sweep; returns the folder of the run."""
    started = time.monotonic()
    planned = plan(config)
    cache = command.cache_folder(config)
    command.prepare_devices(config, cache, ())
    console = command.console()
    place = command.folder(config, "pivot_sweep")
    sweep.check_folder(place, resume=config.resume)
    layout = parallel.layout("data", config.devices)
    with loop.Signals() as signals:
        task = pivot_translation.make_task(config, layout, cache, console, signals)
        settings = dataclasses.replace(options.settings(config), tested=False)

        def make(trial, names, folder, made):
            own = sweep.changes(trial, settings.digest)
            own = dataclasses.replace(settings, methods=names, **own)
            return study.Game(task, own, layout, folder, console=console, made=made)

        swept = sweep.Sweep(make, methods.METHODS, settings.methods, place)
        command.write_config(place, config, layout)
        told = [f"preset    {line}" for line in presets.told(config, PRESETS)]
        sweep.announce(
            config, planned, swept, console, sides="validation sentences", lines=told
        )
        over = sweep.attempt(planned, swept, console, signals)
    if over and processes.first():
        with canvas.naming(page.NAMES):
            found = sweep.tried(planned, swept)
            about = describe(config, found, place)
            wall = time.monotonic() - started
            sweep.finish(found, swept, about, console, wall=wall)
    return place


def plan(config):
    """Every trial in the order they run: the first of each method, the second, ...

    Raises ValueError for what cannot be swept.
    """
    sweep.check(config, page.AXES)
    pivot_translation.check(config)
    settings, by_method = options.settings(config), {}
    for name in settings.methods:
        method = methods.METHODS[name]
        if not method.trains:
            continue
        found = search.trials(
            name,
            tuned.own(method, config.rl, config.strengths),
            config.space,
            count=config.trials,
            steps=config.steps,
            seed=config.draw,
        )
        by_method[name] = found
        for values in found:
            own = {"methods": (name,), "tuned": {name: values}}
            options.check_looks(dataclasses.replace(settings, **own))
    return sweep.in_order(by_method)


def describe(config, tried, place):
    """What the page says besides its trials, a list of `sweeps.Tried`."""
    records = [record for trial in tried for record in trial.records]
    return sweep_page.Sweep(
        title="Sweep of the translation game: settings at equal cost",
        question=__doc__.split("\n\n")[0],
        axes=page.AXES,
        axis=config.axis,
        corners=options.corners(config.corner, records),
        seeds=tuple(range(config.first_seed, config.first_seed + config.seeds)),
        labels=methods.LABELS,
        flags=lambda name, values: tuned.command(
            values, methods.METHODS[name], config.rl
        ),
        again=f"python -m experiments.pivot_translation --seeds 5 --tuned "
        f"{place / 'results.json'}",
        place="these corpora and these agents",
        command=command.command(),
        provenance=command.provenance(config),
        notes=notes(config),
    )


def notes(config):
    """What a reader must know to disbelieve the sweep."""
    return (
        *sweep.told(config, trials=TRIALS, seeds=SEEDS),
        f"Trials drawn with seed {config.draw}, rates and strengths as multiples of "
        f"the flags' own, from {dataclasses.asdict(config.space)}.",
        "Corners are fixed in the configuration, above the pretrained agents: "
        f"{dataclasses.asdict(config.corner)}.",
        "Validation sentences alone: test sentences are read by the run that uses what "
        "was chosen.",
        *presets.told(config, PRESETS),
    )


if __name__ == "__main__":
    main()
