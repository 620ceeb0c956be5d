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

Expected on the microworld: every method gains from its own rate, which narrows what
lies between them. Trials run one after another; --resume goes on with the next. A
second process joins with --resume and the first one's --output: each takes the next
trial that nobody has begun.
"""

import dataclasses
import time

from experiments import sentiment
from rlhf_jax.cli import command, options
from rlhf_jax.runtime import loop, parallel, processes
from rlhf_jax.studies import methods, runner, search, sweep, sweep_page
from rlhf_jax.tasks import microworld as small_world

TRIALS, SEEDS = 9, 3  # what the protocol asks for; a report says what was cut


@dataclasses.dataclass(frozen=True)
class Config(sentiment.Config):
    """Everything a sweep depends on; seeds are calibration seeds."""

    trials: int = TRIALS
    """Settings of every method, the flags' own among them."""
    draw: int = 0
    """Seed of the trials' draw."""
    axis: str = "drift/text_nll"
    """The drift whose hypervolume chooses."""
    space: search.Space = dataclasses.field(default_factory=search.Space)
    seeds: int = SEEDS
    first_seed: int = 900
    """Seeds from 900 on are for calibration alone."""
    looks: int = 20
    """Measurements of every trial after its start."""
    microworld: small_world.Config = dataclasses.field(
        default_factory=lambda: small_world.Config(eval_split="validation")
    )


CONFIG = Config()


def main():
    presets = getattr(sentiment, "PRESETS", None)
    config = command.parse(CONFIG, description=__doc__, presets=presets)
    command.main(lambda: run(config))


def run(config):
    """The whole sweep; returns the folder of the run."""
    started = time.monotonic()
    planned = plan(config)
    cache = command.cache_folder(config)
    command.prepare_devices(config, cache, sentiment.batches(config))
    console = command.console()
    place = command.folder(config, "sweep")
    sweep.check_folder(place, resume=config.resume)
    layout = parallel.layout(config.layout, config.devices)
    with loop.Signals() as signals:
        task = sentiment.make_task(config, layout, cache, console, signals)
        settings = options.settings(config, task, console)

        def make(trial, names, folder, made):
            own = sweep.changes(trial, settings.digest)
            own = dataclasses.replace(settings, methods=names, **own)
            return runner.Study(task, own, layout, folder, console=console, made=made)

        swept = sweep.Sweep(make, methods.METHODS, settings.methods, place)
        command.write_config(place, config, layout)
        sweep.announce(config, planned, swept, console, sides="prompts")
        over = sweep.attempt(planned, swept, console, signals)
    if over and processes.first():
        found = sweep.tried(planned, swept)
        about = page(config, found, place)
        wall = time.monotonic() - started
        sweep.finish(found, swept, about, console, wall=wall)
    return place


def plan(config):
    """Every trial in the order they run: the first of each method, the second, ...

    Raises ValueError for what cannot be swept.
    """
    sweep.check(config, sentiment.AXES)
    if config.export:
        raise ValueError("--export: a sweep keeps no weights; export a tuned run")
    sentiment.check(config)
    by_method, overrides = {}, methods.overrides(config.override)
    for name in methods.choose(config.methods):
        method, own = methods.METHODS[name], overrides.get(name)
        if method.twin in by_method and own == overrides.get(method.twin):
            raise ValueError(
                f"--methods {name}: it is {method.twin}, unless --override tells them "
                "apart; leave it out"
            )
        if method.reward is not None:
            raise ValueError(f"--methods {name}: a control is not tuned; leave it out")
        if method.untrained or method.best_of:
            raise ValueError(f"--methods {name}: has nothing to tune; leave it out")
        if method.trains:
            by_method[name] = search.trials(
                name,
                search.own(name, method, config.rl, own),
                config.space,
                count=config.trials,
                steps=config.steps,
                seed=config.draw,
            )
            for values in by_method[name]:
                options.check_looks(config, {name: values})
    return sweep.in_order(by_method)


def page(config, tried, place):
    """What the page says besides its trials, a list of `sweeps.Tried`."""
    small = config.dataset == "microworld"
    records = [record for trial in tried for record in trial.records]
    return sweep_page.Sweep(
        title="Sweep: settings at equal cost",
        question=__doc__.split("\n\n")[0],
        axes=sentiment.AXES if small else sentiment.AXES[:2],
        axis=config.axis,
        corners=options.corners(config.corner, records),
        seeds=tuple(range(config.first_seed, config.first_seed + config.seeds)),
        labels=methods.LABELS,
        flags=lambda name, values: search.command(values, name, config.rl),
        again=f"python -m experiments.sentiment --seeds 10 --tuned "
        f"{place / 'results.json'}",
        place="this microworld and these models" if small else "these texts and models",
        command=command.command(),
        provenance=command.provenance(config),
        notes=notes(config, small),
    )


def notes(config, small):
    """What a reader must know to disbelieve the sweep."""
    found = [
        *sweep.told(config, trials=TRIALS, seeds=SEEDS),
        f"Trials drawn with seed {config.draw}, rates and β as multiples of the flags' "
        f"own, from {dataclasses.asdict(config.space)}.",
        "Corners are fixed in the configuration, above the initial policy: "
        f"{dataclasses.asdict(config.corner)}.",
    ]
    if small:
        found.append(
            f"Prompts, reviews and questions of the {config.microworld.eval_split} "
            "split. Pretraining is shared by all seeds."
        )
    else:
        found.append(
            f"Validated on texts of --text.eval-split {config.text.eval_split}: run "
            "what was chosen on another."
        )
    return tuple(found)


if __name__ == "__main__":
    main()
