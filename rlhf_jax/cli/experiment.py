"""What every experiment and recipe does around its study: prepare, announce, run.

An experiment is a record of functions: what it checks, the study it makes, what it says
before, what it writes after. `run` does the rest, in one order for all of them.
"""

import dataclasses
import pathlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

from rlhf_jax.cli import callbacks, command, library
from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.reporting import plots, samples
from rlhf_jax.reporting import report as reports
from rlhf_jax.runtime import (
    loop,
    metrics_log,
    parallel,
    processes,
    progress,
    provenance,
)
from rlhf_jax.studies import runner, tables


class Setting(NamedTuple):
    """Where an experiment runs, as the maker of its study is told."""

    folder: pathlib.Path
    layout: Any
    cache: pathlib.Path
    console: Any
    signals: loop.Signals
    report: Callable  # report(text, done=, total=, ...) of what is made beforehand
    given: Any = None  # the config as given, with objects where names may stand

    @property
    def of_tasks(self):
        """What the makers of `tasks` are told of it, as keywords."""
        names = ("layout", "cache", "report", "signals")
        return {name: getattr(self, name) for name in names}


class Done(NamedTuple):
    """What a run left, for whoever writes about it."""

    folder: pathlib.Path
    study: Any
    layout: Any
    records: list
    console: Any
    wall: float  # seconds


def run_study(config, study, setting):
    """Trains and measures every run of a study. Returns the records of its folder."""
    return runner.run(
        study,
        setting.folder,
        setting.layout,
        console=setting.console,
        signals=setting.signals,
        wandb=wandb(config),
        profiled=getattr(config, "profile", 0),
        size=getattr(config, "population", 1),
    )


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What differs between experiments."""

    name: str  # its folder under runs/
    check: Callable  # (config) -> None; ValueError for what needs nothing loaded
    study: Callable  # (config, setting) -> interfaces.Study, with what that needs
    announce: Callable  # (config, study, layout) -> lines about what is going to happen
    finish: Callable  # (config, done) -> what `run` returns; on the first host alone
    batches: Callable = lambda config: ()  # row counts that devices share out
    export: Callable = lambda config, done: None  # on all hosts, before `finish`
    run: Callable = run_study  # (config, study, setting) -> `Done.records`


def run(config, experiment, *, console=None):
    """Runs an experiment whole. Returns what its `finish` returns, on other hosts the
    folder.

    Args: config: may hold objects in place of names; the functions of `experiment` get
    the names, the maker of the study both; console: by default standard output.
    Raises ValueError, before anything is made, for what `check` refuses;
    loop.Interrupted when a signal stopped it, with what it takes to go on saved.
    """
    started = time.monotonic()
    given, config = config, library.names(config)
    experiment.check(config)
    watching = callbacks.load(getattr(given, "callbacks", ()))
    cache = command.cache_folder(config)
    command.prepare_devices(config, cache, experiment.batches(config))
    console = command.console() if console is None else console
    folder = command.run_dir(config, experiment.name)
    layout = parallel.layout(getattr(config, "layout", "data"), config.devices)
    with loop.Signals() as signals:
        with progress.Preparation(console) as report:
            setting = Setting(folder, layout, cache, console, signals, report, given)
            study = experiment.study(config, setting)
        if watching:
            study = dataclasses.replace(study, callbacks=watching)
        command.write_config(folder, config, layout)
        lines = experiment.announce(config, study, layout)
        say(console, (*lines, f"folder    {folder}"))
        records = experiment.run(config, study, setting)
    wall = time.monotonic() - started
    done = Done(folder, study, layout, records, console, wall)
    experiment.export(config, done)
    return experiment.finish(config, done) if processes.first() else folder


def entry_points(experiment, config, description, presets=None):
    """(main, run) of an experiment: as a command, and `run(config)` as above.

    Args: experiment: `Experiment`; the others: as for `command.parse`.
    """

    def run_(config, *, console=None):
        """The whole experiment; returns what its `finish` returns."""
        return run(config, experiment, console=console)

    def main():
        asked = command.parse(config, description=description, presets=presets)
        command.main(lambda: run_(asked))

    return main, run_


def report(
    config, done, *, title, question, scope, notes, panels=plots.PANELS, **fields
):
    """Writes the report of a study and shows what is in it; returns the results.

    Args: scope: what the numbers hold for; notes: what a reader must know to
    disbelieve them; panels: of curves.png; fields: of `report.Report` besides.
    """
    folder, study, console = done.folder, done.study, done.console
    rows = metrics_log.read(folder / "samples.jsonl")
    usual = {
        "axes": study.axes,
        "claims": study.claims,
        "sections": study.sections,
        "labels": tables.labels(study.methods),
        "panels": _named(panels, study.axes),
    }
    about = reports.Report(
        title=title,
        question=question,
        scope=scope,
        command=provenance.command(),
        provenance=provenance.summary(config),
        notes=tuple(notes),
        **{**usual, **fields},
    )
    results = reports.write(folder, done.records, about, rows=rows, wall=done.wall)
    final = [row for row in rows if row["phase"] == "final"]
    samples.show(samples.unselected(final, 4), console=console)
    reports.show(results, about, console=console)
    say(
        console,
        [
            *reports.written(folder, about.pictures),
            f"done in {progress.duration(done.wall)}",
        ],
    )
    return results


def _named(panels, axes):
    """Panels whose axes are titled as the study's are: rewards in their own units."""
    return tuple(
        tuple(axes_.find(axis.key, (*panel, *axes)) for axis in panel)
        for panel in panels
    )


def wandb(config):
    """Arguments of W&B's `init`, None where the flags do not ask for it."""
    log = getattr(config, "log", None)
    return {"project": log.project} if log is not None and log.wandb else None


def say(console, lines):
    """Prints lines as they are."""
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
