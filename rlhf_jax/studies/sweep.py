"""Running the trials of a sweep: one after another, all with the same programs.

A *trial* is a setting of one method, run on every calibration seed: a study of its own
in trials/<method>-<number>/, with a trial.json when it is over. The experiment says how
such a study is made; which setting was the best is found out afterwards
(`sweep_report`).
"""

import dataclasses
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rlhf_jax.evaluation.axes import Axis
from rlhf_jax.reporting import markdown
from rlhf_jax.runtime import files, loop, metrics_log, processes, progress
from rlhf_jax.studies import eval_steps, runner, search, sweep_report, tables, values


class Trial(NamedTuple):
    """A setting of a method that is trained."""

    method: str
    number: int
    values: values.Values

    @property
    def name(self):
        """As in file names: "elastic_reset-3"."""
        return f"{self.method}-{self.number}"


class Sweep(NamedTuple):
    """What is swept, and where."""

    study: Callable  # (trial, names) -> interfaces.Study of these methods, so set
    table: Mapping  # {name: interfaces.Method}
    methods: tuple[str, ...]  # asked for, derived ones too
    trials: tuple[Trial, ...]  # in the order they run
    folder: pathlib.Path
    layout: Any
    axes: tuple[Axis, ...]  # what trials measure, with the corners of hypervolumes

    def file(self, trial):
        """Where a trial says that it is over, and how it ended."""
        return self.folder / "trials" / trial.name / "trial.json"

    def measured(self, method):
        """A method, and those asked for that are derived from its run."""
        return tuple(
            name
            for name in self.methods
            if name == method or self.table[name].source == method
        )


def plan(config, table, names, schedule):
    """Every trial in the order they run: the first of each method, the second, ...

    What is stopped halfway has spent as much on every method.

    Args: config: with the flags of the study, and `trials`, `draw` and `space`; table:
    {name: interfaces.Method}, with the settings that flags give a method alone; names:
    of the methods, in the table's order; schedule: `interfaces.Schedule` of a trial.
    Raises ValueError, naming the flag, for what cannot be swept.
    """
    by_method = {}
    for name in names:
        _check_method(name, table, by_method)
        if table[name].train is None:
            continue
        by_method[name] = search.trials(
            name,
            search.current(name, table[name], config),
            config.space,
            count=config.trials,
            steps=config.steps,
            seed=config.draw,
        )
        for setting in by_method[name]:
            tuned = tables.with_values({name: table[name]}, {name: setting})
            calendar = {name: tuned[name].resets(schedule)}
            eval_steps.check(config.steps, calendar, config.num_evals)
    rounds = zip(*by_method.values(), strict=True)
    return tuple(
        Trial(method, number, setting)
        for number, row in enumerate(rounds)
        for method, setting in zip(by_method, row, strict=True)
    )


def _check_method(name, table, before):
    """Raises ValueError for a method that has nothing to tune."""
    method = table[name]
    if method.twin in before and method.train == table[method.twin].train:
        raise ValueError(
            f"--methods {name}: it is {method.twin}, unless --override tells them "
            "apart; leave it out"
        )
    if method.reward != "proxy":
        raise ValueError(f"--methods {name}: a control is not tuned; leave it out")
    if method.train is None and method.source is None:
        raise ValueError(f"--methods {name}: has nothing to tune; leave it out")


def check(config, axes):
    """Raises ValueError for flags that no sweep can be made with.

    Args: config: with the flags `axis` and `tuned`; axes: those that can choose.
    """
    if config.tuned is not None:
        raise ValueError("--tuned: a sweep finds it; leave it out")
    keys = [axis.key for axis in axes]
    if config.axis not in keys:
        raise ValueError(f"--axis {config.axis}: choose from {', '.join(keys)}")


def check_folder(folder, *, resume):
    """Raises ValueError if another sweep lies in the folder."""
    if (folder / "trials").exists() and not resume:
        raise ValueError(
            f"{folder} holds a sweep already: pass --resume to continue it, or another "
            "--output"
        )


def run(sweep, console, signals):
    """Runs the trials that have not been run; each leaves a trial.json.

    Several processes can share a sweep: each takes the next trial that nobody has
    begun. Returns whether all trials are over.

    Raises loop.Interrupted, with the sweep's folder, when it is asked to stop.
    """
    starts, clock, count = {}, [], len(sweep.trials)
    try:
        for trial in sweep.trials:
            if processes.broadcast_from_first(lambda t=trial: _is_taken(sweep, t)):
                continue
            if stop := loop.stopped(signals):
                raise loop.Interrupted(f"{stop} before trial {trial.name}")
            clock.append((time.monotonic(), _finished(sweep)))
            setting = trial.values.known().items()
            line = ", ".join(f"{name} {value:.3g}" for name, value in setting)
            line = f"trial {trial.name}: {line}{_time_left(clock, count)}"
            console.print(line, highlight=False, markup=False, soft_wrap=True)
            _run_trial(sweep, trial, starts, console, signals)
    except loop.Interrupted as stop:
        stop.folder = sweep.folder
        raise
    rest = count - processes.broadcast_from_first(lambda: _finished(sweep))
    if rest:
        console.print(
            f"{markdown.count(rest, 'trial')} {'is' if rest == 1 else 'are'} with "
            "another process, which will write the report",
            highlight=False,
        )
    return not rest


def _finished(sweep):
    """How many trials are over."""
    return sum(sweep.file(trial).exists() for trial in sweep.trials)


def _is_taken(sweep, trial):
    """Whether a trial is over, or another process is at it."""
    file = sweep.file(trial)
    return file.exists() or files.is_locked(file.parent)


def _time_left(clock, count):
    """How long the rest will take, all processes of the sweep at it.

    clock: [(when a trial of this process began, how many were over by then)]; the
    first one compiled, and does not count.
    """
    if len(clock) < 3:
        return ""
    (start, before), (now, over) = clock[1], clock[-1]
    rate = (now - start) / (over - before)
    return f"; about {progress.duration(rate * (count - over))} left"


def _run_trial(sweep, trial, starts, console, signals):
    """One trial on every seed. Test splits are not read, no samples are kept."""
    file, failure = sweep.file(trial), ""
    study = sweep.study(trial, sweep.measured(trial.method))
    study = dataclasses.replace(
        study,
        schedule=dataclasses.replace(study.schedule, logged_samples=0),
        at_start=(),
        at_end=(),
        of_best=(),
    )
    where = file.parent, sweep.layout
    try:
        runner.run(study, *where, console=console, signals=signals, starts=starts)
    except loop.NotFinite as error:
        failure = str(error)
    if processes.first():
        facts = {"values": trial.values.known(), "failure": failure}
        files.write_json(file, facts)
        # A trial is not continued, and a sweep has many of them.
        shutil.rmtree(file.parent / "checkpoints", ignore_errors=True)
    processes.barrier(f"trial {trial.name}")


def results(sweep):
    """What the trials left: a list of `sweep_report.Result`, method by method."""
    rows = []
    for trial in sweep.trials:
        file = sweep.file(trial)
        records = metrics_log.read(file.with_name("metrics.jsonl"))
        failure = json.loads(file.read_text())["failure"]
        for name in sweep.measured(trial.method):
            rows.append(
                sweep_report.Result(
                    name,
                    trial.number,
                    trial.values,
                    [r for r in records if r["method"] == name],
                    failure,
                    source=sweep.table[name].source,
                    at_end=sweep.table[name].at_end,
                )
            )
    return sorted(rows, key=lambda row: sweep.methods.index(row.method))
