"""A run of one recipe: its folder, its lines, its checkpoints, its measurements."""

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any

import jax

from rlhf_jax.cli import command
from rlhf_jax.runtime import checkpoint, files, loop, progress
from rlhf_jax.runtime import metrics_log as logs

_SAMPLES = 20  # of a measurement, in samples.jsonl


@dataclasses.dataclass(frozen=True)
class Work:
    """What is trained: how it starts, advances and is measured.

    advance and reset as `loop.Hooks` has them; measure(state) -> (metrics, samples).
    """

    method: str  # its name in metrics.jsonl
    steps: int
    start: Callable[[], Any]
    advance: Callable[[Any, int, bool], tuple]
    measure: Callable[[Any], tuple]
    reset: Callable[[Any], Any] = lambda state: state
    resets: frozenset[int] = frozenset()  # iterations that end with one
    shown: dict[str, str] = dataclasses.field(default_factory=dict)  # name: metric


def run(work, config, place, *, layout, console, signals=None):
    """Does the work that is not done yet. Returns (state, records of metrics.jsonl).

    config: an `options.Base`. Raises `loop.Interrupted` when a signal stopped it, its
    state saved.
    """
    place = pathlib.Path(place)
    with files.alone(place):
        try:
            state = _run(work, config, place, layout, console, signals)
        except loop.Interrupted as stop:
            stop.folder = place
            raise
    return state, logs.read(place / "metrics.jsonl")


def _run(work, config, place, layout, console, signals):
    checkpoints = checkpoint.Checkpointer(
        place / "checkpoints" / work.method,
        keep=config.keep,
        config_digest=command.digest(config),
        report=functools.partial(
            console.print, highlight=False, markup=False, soft_wrap=True
        ),
    )
    found = checkpoints.restore(layout.like(jax.eval_shape(work.start)))
    start, state, extra = found or (0, None, {"metrics": 0, "samples": 0})
    state = work.start() if found is None else state
    wandb = {"project": config.log.project} if config.log.wandb else None
    log = logs.Log(place, resume_offset=extra["metrics"], wandb=wandb)
    samples = logs.Lines(place / "samples.jsonl", resume_offset=extra["samples"])
    bar = progress.Progress(work.steps, work.method, console=console)
    trace = _Trace(config.profile, place / "profile")
    with log, samples, bar, trace:
        bar.start_at(start)
        hooked = _Files(work, config.seed, log, samples, bar, checkpoints)
        hooks = loop.Hooks(
            advance=trace.around(work.advance),
            log=hooked.log,
            evaluate=hooked.evaluate,
            save=hooked.save,
            reset=work.reset,
        )
        return loop.run(
            state, start=start, plan=plan(work, config), hooks=hooks, signals=signals
        )


def plan(work, config):
    """When to measure, reset and save; both sides of a reset are measured."""
    every = config.eval_every
    regular = range(0, work.steps, every) if every else (0,)
    around = {r + 1 for r in work.resets}
    return loop.Plan(
        steps=work.steps,
        evaluations=frozenset({*regular, *around, work.steps}),
        resets=work.resets,
        save_every=config.save_every,
    )


class _Files:
    """The callbacks of the loop that write."""

    def __init__(self, work, seed, log, samples, bar, checkpoints):
        self._work, self._seed, self._bar = work, seed, bar
        self._log, self._samples, self._checkpoints = log, samples, checkpoints

    def log(self, step, metrics, rows):
        del rows
        self._write(metrics, step)
        shown = self._work.shown.items()
        found = {k: metrics[v] for k, v in shown if v in metrics}
        self._bar.update(step, **found)

    def evaluate(self, state, step, phase):
        with self._bar.phase("measuring"):
            metrics, samples = self._work.measure(state)
        self._write({"eval/phase": phase, **metrics}, step)
        for row in samples[:_SAMPLES]:
            where = {"method": self._work.method, "seed": self._seed, "step": step}
            self._samples.append({**where, "phase": phase, **row})
        shown = self._work.shown.items()
        self._bar.update(step, **{k: metrics[v] for k, v in shown if v in metrics})

    def save(self, state, step, final):
        extra = {"metrics": self._log.offset(), "samples": self._samples.offset()}
        with self._bar.phase("saving"):
            self._checkpoints.save(step, state, {**extra, "final": final})

    def _write(self, metrics, step):
        self._log.write(metrics, method=self._work.method, seed=self._seed, step=step)


class _Trace(contextlib.AbstractContextManager):
    """A trace of a few steps by jax.profiler, after the one that compiles."""

    def __init__(self, steps, folder):
        self._steps, self._folder, self._done, self._on = steps, folder, 0, False

    def around(self, advance):
        if not self._steps:
            return advance

        def traced(state, iteration, hold_reset):
            if self._done == 1:
                jax.profiler.start_trace(str(self._folder))
                self._on = True
            state, metrics, rows = advance(state, iteration, hold_reset)
            self._done += 1
            if self._on and self._done > self._steps:
                jax.block_until_ready(metrics)
                self._stop()
            return state, metrics, rows

        return traced

    def _stop(self):
        self._on = False
        jax.profiler.stop_trace()

    def __exit__(self, *_):
        if self._on:
            self._stop()


def announce(console, about, steps, layout, place):
    """What is about to happen, before it does."""
    devices = f"{len(layout.devices)} {layout.devices[0].platform} device(s)"
    lines = (*about, f"{steps} steps on {devices}", f"folder {place}")
    console.print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
