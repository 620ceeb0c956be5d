"""What every sweep does, whatever it is of: plan, run the trials, report."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

from rlhf_jax.cli import experiment, options, presets
from rlhf_jax.evaluation.axes import Axis
from rlhf_jax.runtime import processes, progress, provenance
from rlhf_jax.studies import search, sweep, sweep_report, tables

TRIALS, SEEDS = 9, 3  # what the protocol asks for; a report says what was cut


class Subject(NamedTuple):
    """An experiment that is swept. Most fields are functions of its config."""

    name: str  # of the folder under runs/
    title: str
    question: str
    again: str  # the command that runs with what was chosen
    halves_of: str  # what validation halves: "prompts"
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
        """Every trial, in the order they run. Raises ValueError, naming the flag, for
        what cannot be swept."""
        options.check(config)
        sweep.check(config, self.drifts)
        self.check(config)
        names, schedule = self.methods(config), self.schedule(config)
        return sweep.plan(config, self.table(config), names, schedule)

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
    sweep.check_folder(setting.folder, resume=config.resume)
    task = subject.task(config, setting)

    def study(trial, names):
        settings = dataclasses.replace(config, methods=names)
        return subject.study(settings, task, {trial.method: trial.values})

    return sweep.Sweep(
        study=study,
        table=subject.table(config),
        methods=subject.methods(config),
        trials=subject.plan(config),
        folder=setting.folder,
        layout=setting.layout,
        axes=subject.axes(config, task),
    )


def _results(swept, setting):
    """What all trials left, None while another process is at one."""
    finished = sweep.run(swept, setting.console, setting.signals)
    return sweep.results(swept) if finished and processes.first() else None


def _announce(subject, config, swept):
    count = len({trial.method for trial in swept.trials})
    return (
        f"methods   {', '.join(swept.methods)}",
        f"sweep     {config.trials} trials × {config.seeds} seeds of each of {count} "
        f"methods, {config.steps} iterations, {config.num_evals} evaluations each",
        f"chosen by hypervolume of the proxy on half A of the {subject.halves_of}, "
        f"{config.axis}",
        *(f"preset    {line}" for line in presets.describe(config, subject.presets)),
    )


def _finish(subject, config, done):
    """Writes the report, and says what was chosen and where everything is."""
    if done.records is None:
        return done.folder
    table = done.study.table
    report = sweep_report.Report(
        title=subject.title,
        question=subject.question,
        axes=done.study.axes,
        axis=config.axis,
        labels=tables.labels(table),
        scope=subject.scope(config),
        seeds=tuple(range(config.first_seed, config.first_seed + config.seeds)),
        flags=lambda name, values: search.flags(name, table, values, config.rl),
        again=f"{subject.again} --tuned {done.folder / 'results.json'}",
        command=provenance.command(),
        provenance=provenance.summary(config),
        notes=(*_budget(config), *subject.notes(config)),
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


def _budget(config):
    """Notes of every sweep: equal budgets, what was cut of them, what was drawn."""
    cut = [
        f"{name} {count} instead of {usual}"
        for name, count, usual in (
            ("trials", config.trials, TRIALS),
            ("calibration seeds", config.seeds, SEEDS),
        )
        if count < usual
    ]
    return (
        f"Equal budgets: {config.trials} trials of each method, {config.seeds} seeds a "
        f"trial, {config.steps} iterations and {config.num_evals} evaluations a seed.",
        f"Cut: {', '.join(cut)}." if cut else "Nothing was cut.",
        f"Trials drawn with seed {config.draw}, rates and penalties as multiples of "
        f"the flags' own, from {dataclasses.asdict(config.space)}.",
    )
