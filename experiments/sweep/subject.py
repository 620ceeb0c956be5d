"""What every sweep does, whatever it is of: plan, run the trials, report."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rlhf_jax.cli import experiment, options, presets
from rlhf_jax.evaluation.axes import Axis
from rlhf_jax.runtime import processes, progress, provenance
from rlhf_jax.studies import search, sweep, sweep_plan, sweep_report, tables

UNITS = 3  # of a trial, worlds or seeds; a report says what was cut


class Subject(NamedTuple):
    """An experiment that is swept. Most fields are functions of its config."""

    name: str  # of the folder under runs/
    title: str
    question: str
    again: Callable  # (config) -> the command that runs with what was chosen
    validated_on: str  # what validates: "validation prompts"
    drifts: tuple[Axis, ...]  # those whose hypervolume can choose
    presets: Mapping
    check: Callable  # (config): ValueError for what the experiment refuses
    table: Callable  # (config) -> {name: interfaces.Method}, as the flags have them
    methods: Callable  # (config) -> the names asked for, in the table's order
    schedule: Callable  # (config) -> interfaces.Schedule
    task: Callable  # (config, setting) -> what trials share
    study: Callable  # (config, task, {method: Values}) -> interfaces.Study
    axes: Callable  # (config, task) -> what is measured, with corners
    scope: Callable  # (config) -> what the numbers hold for
    notes: Callable  # (config) -> lines of the report, besides those of all sweeps
    batches: Callable = lambda config: ()  # row counts that devices share out

    def plan(self, config):
        """{method: how it is searched}. Raises ValueError, naming the flag, for what
        cannot be swept."""
        options.check(config)
        sweep_plan.check(config, self.drifts)
        self.check(config)
        names, schedule = self.methods(config), self.schedule(config)
        return sweep_plan.plan(config, self.table(config), names, schedule)

    def run(self, config):
        """The whole sweep; returns its folder."""
        return experiment.run(config, _experiment(self))


def _experiment(subject):
    """The `experiment.Experiment` of a sweep, whose "study" is a `sweep.Sweep`."""
    return experiment.Experiment(
        name=subject.name,
        check=subject.plan,
        study=lambda config, setting: _sweep(subject, config, setting),
        announce=lambda config, swept, layout: _announce(subject, config, swept),
        run=lambda config, swept, setting: _results(swept, setting),
        finish=lambda config, done: _finish(subject, config, done),
        batches=subject.batches,
    )


def _sweep(subject, config, setting):
    sweep_plan.check_folder(setting.folder, resume=config.resume)
    task = subject.task(config, setting)

    def study(trial, names):
        settings = dataclasses.replace(config, methods=names)
        return subject.study(settings, task, {trial.method: trial.values})

    return sweep.Sweep(
        study=study,
        table=subject.table(config),
        searches=subject.plan(config),
        units=subject.study(config, task, {}).units,
        folder=setting.folder,
        layout=setting.layout,
        axes=subject.axes(config, task),
        axis=config.axis,
        limit=config.space.extensions,
        size=getattr(config, "population", 1),
    )


def _results(swept, setting):
    """What all trials left, on the first host."""
    done = sweep.run(swept, setting.console, setting.signals)
    return sweep.results(swept, done) if processes.first() else None


def _announce(subject, config, swept):
    left = sweep.at_least(swept, sweep.paths(swept, sweep.read(swept)))
    return (
        f"methods   {', '.join(swept.searches)}",
        *(f"search    {name}: {_grids(one)}" for name, one in swept.searches.items()),
        f"sweep     at least {left} trials more, each of {len(swept.units)} units, "
        f"{config.steps} iterations and {config.num_evals} evaluations; what is read "
        "off another method's run shares its trials",
        f"chosen by hypervolume of the proxy on {subject.validated_on}, {config.axis}",
        *(f"preset    {line}" for line in presets.describe(config, subject.presets)),
    )


def _grids(searched):
    """The grids that a search begins with, in words."""
    return ", then ".join(f"{len(x.grid)} × {x.field}" for x in searched.lines)


def _finish(subject, config, done):
    """Writes the report, and says what was chosen and where everything is."""
    table = done.study.table
    report = sweep_report.Report(
        title=subject.title,
        question=subject.question,
        axes=done.study.axes,
        axis=config.axis,
        labels=tables.labels(table),
        scope=subject.scope(config),
        units=done.study.units,
        flags=lambda name, values: search.flags(name, table, values, config.rl),
        again=f"{subject.again(config)} --tuned {done.folder / 'results.json'}",
        command=provenance.command(),
        provenance=provenance.summary(config),
        notes=(*_budget(config, done.study.units), *subject.notes(config)),
    )
    summary = sweep_report.write(done.folder, done.records, report, wall=done.wall)
    lines = [
        f"{name}: trial {best['trial']}: {best['flags']}"
        for name, best in summary["chosen"].items()
    ]
    names = ("front.png", "report.md", "results.json")
    lines += [str(done.folder / name) for name in names]
    experiment.say(done.console, [*lines, f"done in {progress.duration(done.wall)}"])
    return done.folder


def _budget(config, units):
    """Notes of every sweep: equal resolution, what was cut, the grids."""
    return (
        "Equal resolution: every method begins with the same grid of learning rates, "
        "whatever else it has; how many trials that took stands under Budget.",
        f"{config.steps} iterations and {config.num_evals} evaluations of each unit.",
        *[f"Cut: {len(units)} units instead of {UNITS}."] * (len(units) < UNITS),
        "Grids, rates and penalties as multiples of the flags' own: "
        f"{dataclasses.asdict(config.space)}.",
    )
