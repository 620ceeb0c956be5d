"""The host loop: dispatch, fetch one iteration late, log, evaluate, save, stop.

Everything that touches a file, a clock or a signal while a run goes on is here; the
iterations it drives are pure programs.
"""

import dataclasses
import signal
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from rlhf_jax.runtime import interruption, processes

Signals = interruption.Signals
MAX_SKIPPED = 3  # updates not finite in a row, after which a run is lost


class Interrupted(Exception):
    """A signal asked the run to stop; its state is saved. The text begins with its
    name, such as SIGINT.

    `folder`: of the run to resume; None before there is one, as while pretraining.
    """

    folder = None

    @property
    def status(self):
        """The exit status by which a shell knows the signal: 130 or 143."""
        name, known = str(self).partition(" ")[0], signal.Signals.__members__
        return 128 + known.get(name, signal.SIGTERM)


class NotFinite(Exception):
    """Updates were skipped several times in a row, because they were not finite."""


def skipped(metrics):
    """Updates in a row that were not finite, as of one iteration."""
    return max((v for k, v in metrics.items() if k.endswith("skipped")), default=0.0)


class Unscored(ValueError):
    """A reward of Python failed, or took too long; the iteration changed nothing."""


def stopped(signals):
    """The name of a signal that came, to this host or to any; "" where none has."""
    return _name(signals, processes.any_of(_received(signals)))


def _received(signals):
    return signals is not None and signals.received is not None


def _name(signals, came):
    return (signals.received or "a signal to another host") if came else ""


@dataclasses.dataclass(frozen=True)
class Plan:
    """When a run does what. Iterations count from 0, steps are iterations done."""

    steps: int
    evaluations: frozenset[int] = frozenset()  # steps after which to evaluate
    resets: frozenset[int] = frozenset()  # iterations that end with a reset
    save_every: int = 0  # steps; 0: only at the end and on a signal
    saves: frozenset[int] = frozenset()  # steps after which to save besides
    prompt: bool = False  # metrics are fetched at once: what is logged may end the run
    max_skipped: int = MAX_SKIPPED


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What the loop calls; everything but `advance` may touch files.

    advance(state, iteration) -> (state, metrics, rows): one iteration, dispatched; it
    never resets. reset(state) -> state, after the iterations of `Plan.resets`.
    evaluate(state, step, phase). log(step, metrics, rows). save(state, step, final).
    stopped() -> whether what was logged or evaluated asked for the end; failed() -> an
    exception that it raised, or None.
    """

    advance: Callable[[Any, int], tuple]
    log: Callable[[int, dict, Any], None]
    evaluate: Callable[[Any, int, str], None] = lambda *_: None
    save: Callable[[Any, int, bool], None] = lambda *_: None
    reset: Callable[[Any], Any] = lambda state: state
    stopped: Callable[[], bool] = lambda: False
    failed: Callable[[], Exception | None] = lambda: None


def run(state, *, start, plan, hooks, signals=None):
    """Iterations `start` to `plan.steps`, and what the plan asks for in between.

    Metrics of an iteration are fetched after the next one is dispatched, so that the
    device never waits for the host; with `plan.prompt` at once. Hosts stop after the
    same step: the one after that in which one of several is told to. On iterations that
    end with a reset and are evaluated, both sides of the reset are. Of the metrics the
    loop itself reads one: `skipped`, under any prefix. Where `hooks.stopped` says so a
    step is the last one, evaluated and saved as such.

    Returns the state. Raises, after saving, Interrupted when a signal came; NotFinite
    when `plan.max_skipped` updates in a row were skipped; Unscored, when a reward
    failed, the state from before saved; what `hooks.failed` returned.
    """
    if start == 0 and 0 in plan.evaluations:
        hooks.evaluate(state, 0, "start")
        _raise(hooks.failed())
    pending, ballot = _Pending(hooks.log), processes.Ballot()
    for iteration in range(start, plan.steps):
        step, resets = iteration + 1, iteration in plan.resets
        try:
            state, metrics, rows = hooks.advance(state, iteration)
        except Unscored as error:
            done = iteration, iteration > start
            raise _saved(error, state, *done, plan, pending, hooks) from error
        if plan.resets:
            metrics = {**metrics, "reset/reset": float(resets)}
        pending.put(step, metrics, rows, prompt=plan.prompt)
        last = step == plan.steps or hooks.stopped()
        wanted = step in plan.evaluations or hooks.stopped()
        if wanted or last:
            pending.flush()
        if pending.skipped >= plan.max_skipped:
            raise _lost(hooks.reset(state) if resets else state, step, pending, hooks)
        if wanted:
            state = _evaluate(state, step, resets, last, hooks)
            pending.restart_clock()
        elif resets:
            state = hooks.reset(state)
        last, failure = last or hooks.stopped(), hooks.failed()
        stop = ballot.cast(_received(signals))
        if last or stop or failure is not None or _is_saved(plan, step):
            pending.flush()
            hooks.save(state, step, last)
        _raise(failure)
        if last:
            break
        if stop:
            raise Interrupted(f"{_name(signals, stop)} after step {step}")
    return state


def _lost(state, step, pending, hooks):
    """Saves the state after too many skipped updates; the error that says so."""
    problem = pending.problem()
    pending.flush()
    hooks.save(state, step, False)
    return NotFinite(problem)


def _saved(error, state, done, moved, plan, pending, hooks):
    """Saves what was done before an iteration failed; the error that says so.

    moved: whether there was one since it was restored, or since the start.
    """
    pending.flush()
    if not moved:
        return error
    if not _is_saved(plan, done):
        hooks.save(state, done, False)
    return Unscored(f"{error}; step {done} is saved, --resume goes on from there")


def _is_saved(plan, step):
    every = plan.save_every and step % plan.save_every == 0
    return every or step in plan.saves


def _raise(failure):
    if failure is not None:
        raise failure


def _evaluate(state, step, resets, last, hooks):
    """Evaluates, on both sides of a reset where there is one. Returns the state."""
    if not resets:
        hooks.evaluate(state, step, "final" if last else "train")
        return state
    hooks.evaluate(state, step, "before_reset")
    state = hooks.reset(state)
    hooks.evaluate(state, step, "after_reset")
    return state


class _Pending:
    """The one iteration whose metrics are still on the device."""

    def __init__(self, log):
        self._log = log
        self._held = None
        self.skipped = 0.0  # updates in a row, as of the iteration last fetched
        self._fetched = 0
        self.restart_clock()

    def restart_clock(self):
        """What comes next is not charged for what was done until now."""
        self._clock = time.monotonic()

    def put(self, step, metrics, rows, *, prompt=False):
        before, self._held = self._held, (step, metrics, rows)
        self._write(before)
        if prompt:
            self.flush()

    def flush(self):
        held, self._held = self._held, None
        self._write(held)

    def problem(self):
        """What to tell a user whose updates are skipped."""
        return (
            f"step {self._fetched}: {self.skipped:.0f} updates in a row had gradients "
            "that are not finite and were skipped; the last finite weights are saved. "
            "Lower the learning rate, or look at the reward"
        )

    def _write(self, held):
        if held is None:
            return
        step, metrics, rows = held
        fetched = jax.device_get(metrics).items()
        # A population's are arrays, which its own hooks read.
        metrics = {k: float(v) if np.ndim(v) == 0 else v for k, v in fetched}
        now = time.monotonic()
        metrics["time/iteration"] = now - self._clock
        self._clock = now
        self._log(step, metrics, rows)
        self._fetched = step
        self.skipped = skipped({k: v for k, v in metrics.items() if np.ndim(v) == 0})
