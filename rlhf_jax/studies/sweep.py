"""Running the trials of a sweep: one after another, all of them in the same programs.

A *trial* is a setting of one method, run on every calibration seed: a study of its own
in trials/<method>-<number>/, with a trial.json when it is over. What is swept says how
such a study is made; which setting was the best is read off afterwards
(`reporting.sweeps`).
"""

import json
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rlhf_jax.reporting import wording
from rlhf_jax.runtime import files, loop, metrics_log, processes, progress
from rlhf_jax.studies import post_hoc, search, sweep_page


class Trial(NamedTuple):
    """A setting of a method that is trained."""

    method: str
    number: int
    values: search.Values

    @property
    def name(self):
        """As in file names: "elastic_reset-3"."""
        return f"{self.method}-{self.number}"


class Sweep(NamedTuple):
    """What is swept.

    study(trial, methods, folder, made) -> `study.Study` of a trial, with the methods
    that are read off it; made: programs and rewards that all trials share.
    """

    study: Callable
    table: Mapping  # name -> `methods.Method`
    methods: tuple[str, ...]  # asked for, derived ones too
    folder: pathlib.Path

    def file(self, trial):
        """Where a trial says that it is over, and how it ended."""
        return self.folder / "trials" / trial.name / "trial.json"

    def read_off(self, method):
        """A method, and those asked for that are derived from its run."""
        return tuple(
            name
            for name in self.methods
            if name == method or self.table[name].source == method
        )


def in_order(by_method):
    """Trials in the order they run: the first of each method, the second, ...

    by_method: {method: its settings, as many for each}. What is stopped halfway has
    spent as much on every method.
    """
    rounds = zip(*by_method.values(), strict=True)
    return [
        Trial(method, number, values)
        for number, row in enumerate(rounds)
        for method, values in zip(by_method, row, strict=True)
    ]


def check(config, axes):
    """Raises ValueError for what no sweep can be made with.

    config: with the flags `trials`, `looks`, `axis` and `tuned`; axes: that exist.
    """
    if config.tuned is not None:
        raise ValueError("--tuned: a sweep finds it; leave it out")
    if config.axis not in axes:
        raise ValueError(f"--axis {config.axis}: choose from {', '.join(axes)}")
    for name in ("trials", "looks"):
        if getattr(config, name) < 1:
            raise ValueError(f"--{name} {getattr(config, name)}: at least 1 is needed")


def check_folder(place, *, resume):
    """Raises ValueError where another sweep lies in the folder."""
    if (place / "trials").exists() and not resume:
        raise ValueError(
            f"{place} holds a sweep already: pass --resume to continue it, or another "
            "--output"
        )


def attempt(trials, sweep, console, signals):
    """Runs the trials that have not been run; each leaves a trial.json.

    What another process is at is left to it: several share a sweep, each taking the
    next trial that nobody has begun. Returns whether all trials are over.

    Raises loop.Interrupted, with the sweep's folder, when it is asked to stop.
    """
    made, clock = {}, []
    try:
        for trial in trials:
            if processes.told(lambda t=trial: _run_or_running(sweep, t)):
                continue
            if stop := loop.stopped(signals):
                raise loop.Interrupted(f"{stop} before trial {trial.name}")
            over = sum(_over(sweep, t) for t in trials)
            clock.append((time.monotonic(), over))
            said = ", ".join(f"{k} {v:.3g}" for k, v in trial.values.known().items())
            line = f"trial {trial.name}: {said}{_ahead(clock, len(trials))}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
            _attempt(trial, sweep, signals, made)
    except loop.Interrupted as stop:
        stop.folder = sweep.folder
        raise
    rest = sum(not processes.told(lambda t=t: _over(sweep, t)) for t in trials)
    if rest:
        console.print(
            f"{wording.count(rest, 'trial')} {'is' if rest == 1 else 'are'} with "
            "another process, which will write the page",
            highlight=False,
        )
    return not rest


def _over(sweep, trial):
    return sweep.file(trial).exists()


def _run_or_running(sweep, trial):
    """Whether a trial is over, or another process is at it."""
    return _over(sweep, trial) or files.taken(sweep.file(trial).parent)


def _ahead(clock, count):
    """How long the rest will take, all processes of the sweep at it.

    clock: [(when a trial of this process began, how many were over by then)]; the
    first one compiled, and tells nothing.
    """
    if len(clock) < 3:
        return ""
    (start, before), (now, over) = clock[1], clock[-1]
    rate = (now - start) / (over - before)
    return f"; about {progress.duration(rate * (count - over))} left"


def _attempt(trial, sweep, signals, made):
    """One trial on every seed; programs and rewards go into `made`."""
    file = sweep.file(trial)
    own = sweep.read_off(trial.method)
    subject = sweep.study(trial, own, file.parent, made)
    failure = ""
    try:
        subject.run(signals)
    except loop.NotFinite as error:
        failure = str(error)
    if processes.first():
        facts = {"values": trial.values.known(), "failure": failure}
        metrics_log.write_json(file, facts)
        # A trial is not gone on with, and a sweep has many of them.
        shutil.rmtree(file.parent / "checkpoints", ignore_errors=True)
    processes.wait(f"trial {trial.name}")


def tried(trials, sweep):
    """What the trials left: a list of `sweeps.Tried`, those of a method together."""
    found = []
    for trial in trials:
        file = sweep.file(trial)
        records = metrics_log.read(file.with_name("metrics.jsonl"))
        failure = json.loads(file.read_text())["failure"]
        for name in sweep.read_off(trial.method):
            found.append(
                sweep_page.Tried(
                    name,
                    trial.number,
                    trial.values,
                    [r for r in records if r["method"] == name],
                    failure,
                    sweep.table[name].source,
                    post_hoc.follows(name),
                )
            )
    return sorted(found, key=lambda t: sweep.methods.index(t.method))


def changes(trial, digest):
    """The fields of a study's settings that make it this trial's.

    digest: of the sweep's settings; a trial's checkpoints are no other's.
    """
    return {
        "tuned": {trial.method: trial.values},
        "digest": search.digest(digest, {trial.name: trial.values}),
        "logged_samples": 0,
    }


def told(config, *, trials, seeds):
    """The notes of any sweep: equal budgets, and what was cut of `trials` settings of a
    method and `seeds` calibration seeds, which the protocol asks for."""
    cut = [
        f"{name} {count} instead of {usual}"
        for name, count, usual in (
            ("trials", config.trials, trials),
            ("calibration seeds", config.seeds, seeds),
        )
        if count < usual
    ]
    return (
        f"Equal budgets: {config.trials} trials of each method, {config.seeds} seeds a "
        f"trial, {config.steps} iterations and {config.looks} looks a seed.",
        f"Cut: {', '.join(cut)}." if cut else "Nothing was cut.",
    )


def announce(config, trials, sweep, console, *, sides, lines=()):
    """What is about to happen, before it does.

    sides: what half A is half of; lines: told besides.
    """
    names = {trial.method for trial in trials}
    said = (
        f"methods   {', '.join(sweep.methods)}",
        f"sweep     {config.trials} trials × {config.seeds} seeds of each of "
        f"{len(names)} methods, {config.steps} iterations, {config.looks} looks each",
        f"chosen by hypervolume of the proxy on half A of the {sides}, {config.axis}",
        *lines,
        f"folder    {sweep.folder}",
    )
    console.print("\n".join(said), highlight=False, markup=False, soft_wrap=True)


def finish(tried, sweep, about, console, *, wall):
    """Writes the page of a sweep, and says what was chosen and where everything is."""
    summary = sweep_page.write(sweep.folder, tried, about, wall=wall)
    for name, found in summary["chosen"].items():
        line = f"{name}: trial {found['trial']}: {found['flags']}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for name in ("front.png", "report.md", "results.json"):
        console.print(str(sweep.folder / name), highlight=False, soft_wrap=True)
    console.print(f"done in {progress.duration(wall)}", highlight=False)
