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
lies between them. Trials run one after another; --resume goes on with the next.
"""

import dataclasses
import json
import shutil
import time
from typing import NamedTuple

from experiments import sentiment
from rlhf_jax import (
    command,
    derived,
    flags,
    hosts,
    loop,
    methods,
    parallel,
    study,
    tuning,
)
from rlhf_jax.reporting import metrics, progress, sweeps
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
    space: tuning.Space = dataclasses.field(default_factory=tuning.Space)
    seeds: int = SEEDS
    first_seed: int = 900
    """Seeds from 900 on are for calibration alone."""
    looks: int = 20
    """Measurements of every trial after its start."""
    microworld: small_world.Config = dataclasses.field(
        default_factory=lambda: small_world.Config(eval_split="validation")
    )


CONFIG = Config()


class Trial(NamedTuple):
    """A setting of a method that is trained."""

    method: str
    number: int
    values: tuning.Values

    @property
    def name(self):
        """As in file names: "elastic_reset-3"."""
        return f"{self.method}-{self.number}"


def main():
    presets = getattr(sentiment, "PRESETS", None)
    config = command.parse(CONFIG, description=__doc__, presets=presets)
    command.main(lambda: run(config))


def run(config):
    """The whole sweep; returns the folder of the run."""
    started = time.monotonic()
    trials = plan(config)
    cache = command.cache_folder(config)
    command.prepare_devices(config, cache, sentiment.batches(config))
    console = command.console()
    place = command.folder(config, "sweep")
    if (place / "trials").exists() and not config.resume:
        raise ValueError(
            f"{place} holds a sweep already: pass --resume to continue it, or another "
            "--output"
        )
    layout = parallel.layout(config.layout, config.devices)
    with loop.Signals() as signals:
        task = sentiment.make_task(config, layout, cache, console, signals)
        settings = flags.settings(config, task, console)
        command.write_config(place, config, layout)
        announce(config, trials, place, console)
        try:
            attempt(trials, task, settings, layout, place, console, signals)
        except loop.Interrupted as stop:
            stop.folder = place
            raise
    if hosts.first():
        finish(config, trials, place, console, time.monotonic() - started)
    return place


def plan(config):
    """Every trial in the order they run: the first of each method, the second, ...

    Raises ValueError for what cannot be swept.
    """
    if config.tuned is not None:
        raise ValueError("--tuned: a sweep finds it; leave it out")
    if config.export:
        raise ValueError("--export: a sweep keeps no weights; export a tuned run")
    if config.axis not in sentiment.AXES:
        known = ", ".join(sentiment.AXES)
        raise ValueError(f"--axis {config.axis}: choose from {known}")
    for name in ("trials", "looks"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name} {getattr(config, name)}: at least 1 is needed")
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
            by_method[name] = tuning.trials(
                name,
                method,
                config.space,
                config.rl,
                count=config.trials,
                steps=config.steps,
                seed=config.draw,
                override=own,
            )
            for values in by_method[name]:
                flags.check_looks(config, {name: values})
    return [
        Trial(name, number, by_method[name][number])
        for number in range(config.trials)
        for name in by_method
    ]


def announce(config, trials, place, console):
    """What is about to happen, before it does."""
    names = list(dict.fromkeys(trial.method for trial in trials))
    lines = (
        f"methods   {', '.join(methods.choose(config.methods))}",
        f"sweep     {config.trials} trials × {config.seeds} seeds of each of "
        f"{len(names)} methods, {config.steps} iterations, {config.looks} looks each",
        f"chosen by hypervolume of the proxy on half A, {config.axis}",
        f"folder    {place}",
    )
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)


def attempt(trials, task, settings, layout, place, console, signals):
    """Runs the trials that have not been run; each leaves a trial.json."""
    left = [t for t in trials if not hosts.told(lambda t=t: _file(place, t).exists())]
    made, clock = {}, []
    for trial in left:
        if stop := loop.stopped(signals):
            raise loop.Interrupted(f"{stop} before trial {trial.name}")
        clock.append(time.monotonic())
        said = ", ".join(f"{k} {v:.3g}" for k, v in trial.values.known().items())
        line = f"trial {trial.name}: {said}{_ahead(clock, len(left))}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
        _attempt(trial, task, settings, layout, place, console, signals, made)


def _ahead(clock, count):
    """How long the rest will take, from when trials began; the first one compiled."""
    if len(clock) < 3:
        return ""
    rate = (clock[-1] - clock[1]) / (len(clock) - 2)
    return f"; about {progress.duration(rate * (count - len(clock) + 1))} left"


def _attempt(trial, task, settings, layout, place, console, signals, made):
    """One trial on every seed; programs and rewards go into `made`."""
    own = dataclasses.replace(
        settings,
        methods=_with_derived(trial.method, settings.methods),
        tuned={trial.method: trial.values},
        digest=tuning.digest(settings.digest, {trial.name: trial.values}),
        logged_samples=0,
    )
    file = _file(place, trial)
    subject = study.Study(task, own, layout, file.parent, console=console, made=made)
    failure = ""
    try:
        subject.run(signals)
    except loop.NotFinite as error:
        failure = str(error)
    if hosts.first():
        facts = {"values": trial.values.known(), "failure": failure}
        metrics.write_json(file, facts)
        # A trial is not gone on with, and a sweep has many of them.
        shutil.rmtree(file.parent / "checkpoints", ignore_errors=True)
    hosts.wait(f"trial {trial.name}")


def _file(place, trial):
    return place / "trials" / trial.name / "trial.json"


def _with_derived(method, chosen):
    """A method and those of `chosen` that are read off its run."""
    return tuple(
        name
        for name in chosen
        if name == method or methods.METHODS[name].source == method
    )


def tried(trials, chosen, place):
    """What the trials left: a list of `sweeps.Tried`, those of a method together."""
    found = []
    for trial in trials:
        file = _file(place, trial)
        records = metrics.read(file.with_name("metrics.jsonl"))
        failure = json.loads(file.read_text())["failure"]
        for name in _with_derived(trial.method, chosen):
            found.append(
                sweeps.Tried(
                    name,
                    trial.number,
                    trial.values,
                    [r for r in records if r["method"] == name],
                    failure,
                    methods.METHODS[name].source,
                    derived.follows(name),
                )
            )
    return sorted(found, key=lambda t: chosen.index(t.method))


def finish(config, trials, place, console, wall):
    """The page, and the flags of what was chosen."""
    small = config.dataset == "microworld"
    file, chosen = place / "results.json", methods.choose(config.methods)
    every = tried(trials, chosen, place)
    records = [r for trial in every for r in trial.records]
    about = sweeps.Sweep(
        title="Sweep: settings at equal cost",
        question=__doc__.split("\n\n")[0],
        axes=sentiment.AXES if small else sentiment.AXES[:2],
        axis=config.axis,
        corners=flags.corners(config.corner, records),
        seeds=tuple(range(config.first_seed, config.first_seed + config.seeds)),
        labels=methods.LABELS,
        flags=lambda name, values: tuning.command(values, name, config.rl),
        again=f"python -m experiments.sentiment --seeds 10 --tuned {file}",
        place="this microworld and these models" if small else "these texts and models",
        command=command.command(),
        provenance={
            "commit": command.commit(),
            "config digest": command.digest(config),
            **command.versions(),
        },
        notes=notes(config, small),
    )
    summary = sweeps.write(place, every, about, wall=wall)
    for name, found in summary["chosen"].items():
        line = f"{name}: trial {found['trial']}: {found['flags']}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for name in ("front.png", "report.md", "results.json"):
        console.print(str(place / name), highlight=False, soft_wrap=True)
    console.print(f"done in {progress.duration(wall)}", highlight=False)


def notes(config, small):
    """What a reader must know to disbelieve the sweep."""
    cut = [
        f"{name} {asked} instead of {usual}"
        for name, asked, usual in (
            ("trials", config.trials, TRIALS),
            ("calibration seeds", config.seeds, SEEDS),
        )
        if asked < usual
    ]
    found = [
        f"Equal budgets: {config.trials} trials of each method, {config.seeds} seeds a "
        f"trial, {config.steps} iterations and {config.looks} looks a seed.",
        f"Cut: {', '.join(cut)}." if cut else "Nothing was cut.",
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
