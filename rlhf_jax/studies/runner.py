"""Runs a study: every method on every unit, measured alike, resumable.

Runs are made unit by unit, so that what is done after an hour is paired: one after
another, or several side by side in one program. The folder holds metrics.jsonl,
samples.jsonl and a folder of checkpoints a run; resuming cuts the two files back to
what the checkpoints vouch for.
"""

import dataclasses
import functools
import pathlib
from typing import Any, NamedTuple

import jax
import rich.console

from rlhf_jax.runtime import (
    checkpoint,
    files,
    loop,
    metrics_log,
    population,
    processes,
    profile,
    progress,
    terminal,
)
from rlhf_jax.studies import interfaces, recorder, resuming, side_by_side


class Ending(NamedTuple):
    """How a run ended."""

    step: int  # its last one
    stopped: str  # who ended it before the last step of the schedule; "" nobody
    best: int  # the step of the policy that `Study.select` prefers


def run(
    study,
    folder,
    layout,
    *,
    console=None,
    signals=None,
    wandb=None,
    starts=None,
    profiled=0,
    size=1,
):
    """Trains, measures and saves every run of a study that is not done yet.

    Args: study: interfaces.Study; folder: of the runs, made when missing; layout: of
    `parallel`; signals: `loop.Signals`, asked between iterations; wandb: arguments of
    its `init`; starts: {unit: what its initial policy measured}, shared by studies
    that start alike; profiled: steps to trace with jax.profiler.

    Returns the records of metrics.jsonl. Raises ValueError when another process is at
    work in the folder, or where runs cannot be trained side by side; loop.Interrupted
    when a signal stopped it, its state saved.
    """
    if size > 1:
        side_by_side.check(study, layout)
    work = _Work(
        study,
        pathlib.Path(folder),
        layout,
        console or terminal.console(),
        {} if starts is None else starts,
        size,
    )
    with files.lock_for_all(work.folder):
        try:
            _run_all(work, signals, wandb, profiled)
        except loop.Interrupted as stop:
            stop.folder = work.folder
            raise
    return metrics_log.read(work.folder / "metrics.jsonl")


def policy(study, folder, layout, run, *, best=False, console=None):
    """The final policy of a run that is done, as it was trained: all weights, or
    adapters. `run` is an interfaces.Run without a layout, or with this one.

    best: the one that `Study.select` prefers, in place of the final one."""
    console = console or terminal.console()
    work = _Work(study, pathlib.Path(folder), layout, console, {})
    run = run._replace(layout=layout)
    trainer = work.trainer(run)
    if work.trains(run):
        end = work.end_of(run, trainer)
        return end.best if best else end.policy
    shape = jax.eval_shape(trainer.policy, jax.eval_shape(trainer.start))
    return work.checkpoints(run).restore(layout.like({"policy": shape}))[1]["policy"]


def ending(study, folder, layout, run, *, console=None):
    """How a run that is done ended, as `Ending`."""
    console = console or terminal.console()
    work = _Work(study, pathlib.Path(folder), layout, console, {})
    step, extra = work.checkpoints(run).peek()
    return Ending(step, extra.get("stopped", ""), extra["best"]["step"])


@dataclasses.dataclass(frozen=True)
class _Work:
    """A study in a folder, on a layout."""

    study: Any
    folder: pathlib.Path
    layout: Any
    console: rich.console.Console
    starts: dict
    size: int = 1

    def trains(self, run):
        return self.study.methods[run.method].train is not None

    def trainer(self, run):
        """The trainer of a run; of its source where it is derived from one, of the
        initial policy where it is neither."""
        method = self.study.methods[run.method]
        if method.source is None:
            make = self.study.initial if method.train is None else method.train
            return make(self.study, run)
        source = run._replace(method=method.source)
        trainer = self.trainer(source)
        if method.train is None:
            return trainer
        return method.train(self.study, run, self.end_of(source, trainer))

    def end_of(self, run, trainer):
        """The end of a run that is done: an interfaces.Source."""
        return self.done(run, trainer)[0]

    def done(self, run, trainer):
        """(the end of a run that is done, what was saved beside its state)."""
        checkpoints = self.checkpoints(run)
        restored = recorder.restore(self.study, run, trainer, checkpoints)
        if restored is None:
            raise ValueError(
                f"{self.folder / 'checkpoints' / run.name} is gone, deleted or moved "
                "since the run wrote it: what was trained is lost; start it again"
            )
        _, saved, extra = restored
        about = {"study": self.study, "run": run}
        read = interfaces.read(trainer, saved["state"], saved.get("best"), **about)
        return read, extra

    def checkpoints(self, run):
        return self.checkpoints_in(self.folder / "checkpoints" / run.name)

    def checkpoints_in(self, folder):
        say = functools.partial(
            self.console.print, highlight=False, markup=False, soft_wrap=True
        )
        return checkpoint.Checkpointer(
            folder,
            keep=self.study.schedule.keep,
            config_digest=self.study.digest,
            report=say,
        )

    def recorder(self, run, trainer, opened, before=None):
        return recorder.Recorder(
            self.study,
            run,
            trainer,
            opened,
            self.checkpoints(run),
            starts=self.starts,
            before=before,
        )


def _run_all(work, signals, wandb, profiled):
    _split(work)
    folder, steps = work.folder, work.study.schedule.steps
    runs, path = work.study.runs(work.layout), folder / "metrics.jsonl"
    known = resuming.progress(work.study, runs, work.checkpoints, path)
    done, offsets = known.done, known.offsets
    plan = side_by_side.plan(work.study, runs, work.size)
    log = metrics_log.Log(folder, resume_offset=offsets["metrics"], wandb=wandb)
    path = folder / "samples.jsonl"
    samples = metrics_log.Lines(path, resume_offset=offsets["samples"])
    trained = [run for runs in plan for run in runs if work.trains(run)]
    bar = progress.Progress(len(trained) * steps, "training", console=work.console)
    trace = profile.Trace(profiled, folder / "profile")
    with log, samples, bar, trace:
        bar.start_at(sum(run in done for run in trained) * steps)
        opened = recorder.Files(log, samples, bar)
        before = 0
        for runs in plan:
            left = tuple(run for run in runs if run not in done)
            before += steps * sum(map(work.trains, set(runs) - set(left)))
            if left:
                if stop := loop.stopped(signals):
                    raise loop.Interrupted(f"{stop} before {left[0].name}")
                groups = _as_far(left, known.steps)
                _do(work, groups, opened, before, signals, trace)
            before += steps * sum(map(work.trains, left))


def _do(work, groups, opened, before, signals, trace):
    """Does what is next: trains runs, each group together, or measures one."""
    first = groups[0][0]
    if not work.trains(first):
        method = work.study.methods[first.method]
        follow = _measure if method.source is None else _derive
        return follow(work, first, opened)
    for together in groups:
        train = _train if len(together) == 1 else _train_together
        train(work, together, opened, before, signals, trace)
        before += work.study.schedule.steps * len(together)


def _as_far(runs, steps):
    """Runs that came as far, in groups that hosts can share. steps: {run: its step}."""
    groups, hosts = {}, processes.count()
    for run in runs:
        groups.setdefault(steps.get(run, 0), []).append(run)
    ordered = [groups[step] for step in sorted(groups)]
    return [part for group in ordered for part in side_by_side.fitting(group, hosts)]


def _split(work):
    """Splits the checkpoints that populations of an earlier process left."""

    def made(run):
        return work.trainer(run), work.checkpoints(run)

    given = work.study, work.folder / "checkpoints", made, work.checkpoints_in
    side_by_side.split(*given, work.layout)


def _train_together(work, runs, opened, before, signals, trace):
    """Trains runs side by side to their end, from their checkpoints on."""
    study = work.study
    train = study.methods[runs[0].method].train
    layout = population.of(work.layout.devices, len(runs))
    together = train.side_by_side(study, runs, layout)
    recorders = [work.recorder(run, work.trainer(run), opened) for run in runs]
    name = f"{side_by_side.PREFIX}{runs[0].name}"
    checkpoints = work.checkpoints_in(work.folder / "checkpoints" / name)
    members = side_by_side.Population(
        study, together, recorders, checkpoints, opened, before=before
    )
    state, start = members.restore()
    plan, hooks = members.plan(), members.hooks(trace)
    state = loop.run(state, start=start, plan=plan, hooks=hooks, signals=signals)
    members.save_each(state, study.schedule.steps)
    checkpoints.clear()


def _train(work, runs, opened, before, signals, trace):
    """Trains a run to its end, from its newest checkpoint on."""
    (run,) = runs
    study, trainer = work.study, work.trainer(run)
    recorded = work.recorder(run, trainer, opened, before)
    state, start = recorded.restore()
    plan = loop.Plan(
        steps=study.schedule.steps,
        evaluations=study.evaluations(run.method),
        resets=frozenset(study.resets(run.method)),
        save_every=study.schedule.save_every,
        saves=study.schedule.saves,
        prompt=bool(study.callbacks),
    )
    hooks = loop.Hooks(
        advance=trace.around(trainer.advance),
        log=recorded.log,
        evaluate=recorded.evaluate,
        save=recorded.save,
        reset=trainer.reset,
        stopped=lambda: bool(recorded.stopped),
        failed=lambda: recorded.failure,
    )
    loop.run(state, start=start, plan=plan, hooks=hooks, signals=signals)


def _derive(work, run, opened):
    """Saves the policy of a derived method, read off the end of its source.

    Where it is derived at every evaluation it has been measured there; else now.
    """
    study, method = work.study, work.study.methods[run.method]
    source = run._replace(method=method.source)
    trainer = work.trainer(run)
    read, extra = work.done(source, trainer)
    recorded = work.recorder(run, trainer, opened)
    last, best = study.schedule.steps, extra["best"]
    if extra.get("lost") and method.at_end:
        recorded.void(run, last)
        return _keep(work, run, opened, last, read.policy, best)
    (policy, found), step = interfaces.derive(method, read), last
    if method.at_end:
        # The best policy as it is was reached at its own step.
        step = best["step"] if policy is read.best else last
        recorded.measure(run, policy, step, "final", found)
    return _keep(work, run, opened, step, policy, best)


def _keep(work, run, opened, step, policy, best):
    """Saves the policy of a derived method."""
    extra = {**opened.offsets(), "best": best, "final": True}
    work.checkpoints(run).save(step, {"policy": policy}, extra)


def _measure(work, run, opened):
    """Measures a method that has no run: the initial policy, or samples of it."""
    study, trainer = work.study, work.trainer(run)
    initial = trainer.policy(trainer.start())
    recorded = work.recorder(run, trainer, opened)
    measure, step = study.methods[run.method].measure, study.schedule.steps
    if measure is None:
        measured = recorded.initial(initial)
    else:
        with opened.bar.phase(f"{run.name}: sampling"):
            measured = measure(study, run)
    recorded.write(run, *measured, step, "final")
    extra = {**opened.offsets(), "final": True}
    work.checkpoints(run).save(step, {"policy": initial}, extra)
