"""Running a sweep: trials that the searches of all methods ask for, one at a time.

A *trial* is a setting of a trained method, run on every calibration unit: a study in
trials/<its setting>/study, with a trial.json beside it when it is over, which holds
what the methods that are read off it reached. What comes next follows from those files
alone (`coordinate_search`), so several processes can share a sweep and a stopped one
goes on: each takes a trial that is asked for and that nobody is at. The experiment says
how such a study is made.
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from rlhf_jax.evaluation import units
from rlhf_jax.evaluation.axes import Axis
from rlhf_jax.reporting import evaluations, markdown
from rlhf_jax.runtime import files, loop, metrics_log, processes, progress
from rlhf_jax.studies import (
    coordinate_search,
    runner,
    search,
    sweep_outcome,
    sweep_report,
    sweep_together,
)
from rlhf_jax.studies.sweep_plan import Search
from rlhf_jax.studies.values import Values

_SHORT = {"learning_rate": "lr", "kl_coef": "kl", "weight": "w"}  # in names of trials
_PAUSE = 5.0  # seconds between looks at what other processes are at


class Trial(NamedTuple):
    """A setting of a method that is trained."""

    method: str
    values: Values

    @property
    def name(self):
        """As in file names: "elastic_reset-lr0.001-w0.5-every10"."""
        known = self.values.known().items()
        words = [f"{_SHORT.get(field, field)}{value:.6g}" for field, value in known]
        return "-".join([self.method, *words])


class Sweep(NamedTuple):
    """What is swept, and where."""

    study: Callable  # (trial, names) -> interfaces.Study of these methods, so set
    table: Mapping  # {name: interfaces.Method}
    searches: Mapping[str, Search]  # {method: how it is searched}, in the table's order
    folder: pathlib.Path
    layout: Any
    units: tuple[units.Unit, ...]  # that every trial is run on
    axes: tuple[Axis, ...]  # what trials measure, with the corners of hypervolumes
    axis: str  # key of the drift axis whose hypervolume chooses
    limit: int = coordinate_search.LIMIT  # values that a grid may grow by on one side
    size: int = 1  # runs that one program trains side by side

    def file(self, trial):
        """Where a trial says that it is over, and what came out."""
        return self.folder / "trials" / trial.name / "trial.json"

    def folder_of(self, trial):
        """The folder of its study."""
        return self.file(trial).with_name("study")

    def trained(self, method):
        """The method whose run this one is, or is read off."""
        return self.table[method].derived_from or method

    def measured(self, trial):
        """The methods that a trial measures: its own, and those read off its run."""
        readers = (m for m in self.searches if self.trained(m) == trial.method)
        return tuple(dict.fromkeys([trial.method, *readers]))

    def trial(self, method, values):
        """The trial that shows what a method is worth with these values."""
        first = self.searches[method].first
        setting = search.trained(method, self.table, values, first)
        return Trial(self.trained(method), setting)


# What comes next


def read(sweep, done=None):
    """{name of a trial: its trial.json} of those that are over; `done` and later ones,
    added to it."""
    done = {} if done is None else done
    for file in sorted((sweep.folder / "trials").glob("*/trial.json")):
        if file.parent.name not in done:
            done[file.parent.name] = json.loads(file.read_text())
    return done


def paths(sweep, done):
    """{method: `coordinate_search.Path`}, its search over the trials that are over."""

    def path(method, first, lines):
        def found(values):
            told = done.get(sweep.trial(method, values).name)
            if told is None:
                return None
            return sweep_outcome.outcome(told["reached"][method])

        return coordinate_search.follow(first, lines, found, limit=sweep.limit)

    return {method: path(method, *search) for method, search in sweep.searches.items()}


def wanted(sweep, found):
    """The trials asked for, each once, those of methods that got least far first.

    What is stopped halfway has got as far with every method. found: of `paths`.
    """
    asked = [
        (len(path.compared) - len(path.wanted) + i, sweep.trial(method, values))
        for method, path in found.items()
        for i, values in enumerate(path.wanted)
    ]
    return list(dict.fromkeys(trial for _, trial in sorted(asked, key=lambda x: x[0])))


def at_least(sweep, found):
    """How many trials are left if no grid grows: those asked for, and those of lines
    ahead. What methods read off one source may share is counted once."""
    ahead = 0
    for method, path in found.items():
        shared = sweep.table[sweep.trained(method)].tunes
        for line in path.ahead:
            if method == sweep.trained(method) or line.field not in shared:
                own = getattr(sweep.searches[method].first, line.field)
                ahead += len(set(line.grid) - {own})
    return len(wanted(sweep, found)) + ahead


# Running


def run(sweep, console, signals):
    """Runs trials until no search asks for more, with whoever else is at the sweep.

    Returns {name of a trial: its trial.json}. Raises loop.Interrupted, with the sweep's
    folder, when it is asked to stop.
    """
    done, starts, clock, waits = {}, {}, [], False
    try:
        while asked := _asked(sweep, done):
            if stop := loop.stopped(signals):
                raise loop.Interrupted(f"{stop} between trials")
            with contextlib.ExitStack() as claims:
                if mine := _claimed(sweep, asked, claims):
                    clock.append((time.monotonic(), len(done)))
                    _say(console, _progress(sweep, mine, done, clock))
                    _run_trials(sweep, mine, starts, console, signals)
            if not mine:
                if not waits:
                    _say(console, "waiting for the trials of other processes")
                time.sleep(_PAUSE)
            waits = not mine
    except loop.Interrupted as stop:
        stop.folder = sweep.folder
        raise
    return done


def _asked(sweep, done):
    """The trials to be run next, the same on every host."""

    def ask():
        read(sweep, done)
        trials = wanted(sweep, paths(sweep, done))
        return [(trial.method, trial.values.known()) for trial in trials]

    told = processes.broadcast_from_first(ask)
    read(sweep, done)  # on the other hosts
    return [Trial(method, Values(**known)) for method, known in told]


def _claimed(sweep, asked, claims):
    """The trials that this process is to run now: one, or as many as a population
    holds. claims: an ExitStack, which holds them."""
    most, mine = max(1, sweep.size // len(sweep.units)), []
    for trial in asked:
        if len(mine) < most and claims.enter_context(_claim(sweep, trial)):
            mine.append(trial)
    return mine


@contextlib.contextmanager
def _claim(sweep, trial):
    """Holds a trial for this process; yields False if another one holds it, or if it
    is over by now. The system releases the claim of a process that is killed."""
    file = sweep.file(trial)
    with contextlib.ExitStack() as stack:

        def take():
            try:
                stack.enter_context(files.lock(file.parent))
            except ValueError:
                return False
            return not file.exists()

        yield processes.broadcast_from_first(take)


def _say(console, line):
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _progress(sweep, trials, done, clock):
    """The line that announces a trial, or several that run together."""
    left = at_least(sweep, paths(sweep, done))
    setting = trials[0].values.known().items()
    line = ", ".join(f"{name} {value:.3g}" for name, value in setting)
    more = f" and {len(trials) - 1} more beside it" * (len(trials) > 1)
    return (
        f"trial {len(done) + 1}, {trials[0].method}: {line}{more}; at least "
        f"{markdown.count(left, 'trial')} to go{_time_left(clock, left)}"
    )


def _time_left(clock, left):
    """How long the rest takes at least, all processes of the sweep at it.

    clock: [(when a trial of this process began, how many were over by then)]; the
    first one compiled, and does not count.
    """
    if len(clock) < 3:
        return ""
    (start, before), (now, over) = clock[1], clock[-1]
    rate = (now - start) / max(over - before, 1)
    return f", about {progress.duration(rate * left)}"


def _run_trials(sweep, trials, starts, console, signals):
    """Trials on every unit, several as one study."""
    studies = {trial.name: _study(sweep, trial) for trial in trials}
    failure, folders = "", [sweep.folder_of(trial) for trial in trials]
    study, folder = next(iter(studies.values())), folders[0]
    if len(trials) > 1:
        study = sweep_together.merge(studies)
        folder = sweep.folder / "together" / study.digest
    how = {"console": console, "signals": signals, "starts": starts, "size": sweep.size}
    try:
        runner.run(study, folder, sweep.layout, **how)
    except loop.NotFinite as error:
        failure = str(error)
    if processes.first():
        if len(trials) > 1:
            records = metrics_log.read(folder / "metrics.jsonl")
            sweep_together.share_out(records, folders)
        for trial in trials:
            _write(sweep, trial, failure)
        # A trial is not continued, and a sweep has many of them.
        last = folder if len(trials) > 1 else folder / "checkpoints"
        shutil.rmtree(last, ignore_errors=True)
    processes.barrier(f"trial {trials[0].name}")


def _study(sweep, trial):
    """The study of a trial. Test splits are not read, no samples are kept."""
    study = sweep.study(trial, sweep.measured(trial))
    schedule = dataclasses.replace(study.schedule, logged_samples=0)
    bare = {"at_start": (), "at_end": (), "of_best": ()}
    return dataclasses.replace(study, schedule=schedule, **bare)


def _write(sweep, trial, failure):
    """Writes that a trial is over, and what it reached."""
    records = metrics_log.read(sweep.folder_of(trial) / "metrics.jsonl")
    rest, names = (sweep.units, sweep.axes, sweep.axis), sweep.measured(trial)
    found = {name: sweep_outcome.reached(records, name, *rest) for name in names}
    if not failure and sweep.size > 1 and None in found[trial.method].values():
        failure = "a run was lost: its updates were not finite"
    facts = {
        "method": trial.method,
        "values": trial.values.known(),
        "failure": failure,
        "reached": found,
    }
    files.write_json(sweep.file(trial), facts)


# What all trials left


def results(sweep, done):
    """{method: `sweep_report.Searched`} of a sweep whose trials are over.

    A trial that several methods compared is paid for by the first of them.
    """
    paid, found = set(), {}
    for method, path in paths(sweep, done).items():
        compared = []
        for number, values in enumerate(path.compared, 1):
            trial = sweep.trial(method, values)
            told, free = done[trial.name], trial.name in paid
            records = metrics_log.read(sweep.folder_of(trial) / "metrics.jsonl")
            compared.append(
                sweep_report.Result(
                    method=method,
                    number=number,
                    trial=trial.name,
                    values=values,
                    reached=told["reached"][method],
                    outcome=sweep_outcome.outcome(told["reached"][method]),
                    records=[r for r in records if r["method"] == method],
                    runs=[r for r in evaluations.runs(records) if r.method == method],
                    cost={} if free else sweep_report.cost(records, trial.method),
                    failure=told["failure"],
                )
            )
            paid.add(trial.name)
        chosen = path.chosen and sweep.trial(method, path.chosen).values
        source = sweep.table[method].derived_from
        found[method] = sweep_report.Searched(path, tuple(compared), chosen, source)
    return found
