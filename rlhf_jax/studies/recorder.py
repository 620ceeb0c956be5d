"""One run under way: what the host loop calls to log, measure, keep and save.

Budget spent so far, the best policy so far and how long it has been the best are kept
here, and saved with the state.
"""

import math
from typing import Any, NamedTuple

import jax

from rlhf_jax.evaluation import axes
from rlhf_jax.runtime import metrics_log, progress
from rlhf_jax.studies import callbacks, interfaces


class Question(NamedTuple):
    """What an evaluation asks: these measurements of these weights."""

    evaluators: tuple
    weights: Any
    run: interfaces.Run


_NOTHING = {"value": -1.0, "step": 0, "start": {}, "waited": 0}


class Files(NamedTuple):
    """What every run of a study writes to."""

    log: metrics_log.Log
    samples: metrics_log.Lines
    bar: progress.Progress

    def offsets(self):
        """How long the files of lines are now."""
        return {"metrics": self.log.offset(), "samples": self.samples.offset()}


class Recorder:
    """The callbacks of the loop for one run.

    Args: trainer: interfaces.Trainer; checkpoints: `checkpoint.Checkpointer` of the
    run; starts: {unit: (metrics, samples)} of initial policies, filled as they are
    measured; before: steps of all runs before this one, None for a run without steps.
    """

    def __init__(self, study, run, trainer, files, checkpoints, *, starts, before=None):
        self._study, self._run, self._trainer = study, run, trainer
        self._files, self._checkpoints = files, checkpoints
        self._starts, self._before = starts, before
        self._best, self._best_policy, self._spent = dict(_NOTHING), None, {}
        self._callbacks = callbacks.Callbacks(study.callbacks)
        self._given_up = ""  # why, where patience has ended the run
        self._lost = False

    @property
    def stopped(self):
        """Who ended the run before its last step; "" while nobody has."""
        by = self._callbacks.stopped
        return self._given_up or (f"the callback {by}" if by else "")

    @property
    def run(self):
        """The run that is recorded."""
        return self._run

    @property
    def lost(self):
        """Whether its updates were not finite, so that it no longer changes."""
        return self._lost

    @property
    def failure(self):
        """The error of a callback, or None."""
        return self._callbacks.failure

    def restore(self):
        """(state, steps done): of the newest checkpoint, or of the start."""
        saved = restore(self._study, self._run, self._trainer, self._checkpoints)
        if saved is None:
            state = self._trainer.start()
            self._keep(state)
            return state, 0
        step, tree, extra = saved
        self._best, self._spent = {**_NOTHING, **extra["best"]}, extra["spent"]
        self._lost = extra.get("lost", False)
        if self._study.select is not None:
            self._best_policy = self._run.layout.snapshot(tree["best"])
        return tree["state"], step

    def log(self, step, metrics, rows):
        """Writes the metrics of an iteration, with the budget spent up to it."""
        del rows
        for name, amount in self._study.budget(metrics).items():
            self._spent[name] = self._spent.get(name, 0) + amount
        spent = {f"budget/{name}": amount for name, amount in self._spent.items()}
        self._write(self._run, {**metrics, **spent}, step, told=True)

    def evaluate(self, state, step, phase):
        """Measures the run, and the methods that are derived from it as it goes.

        An evaluation that ends the run is its final one.
        """
        self._answer(self.evaluation(state, step, phase))

    def evaluation(self, state, step, phase):
        """`evaluate` as a generator: it yields each `Question` and is sent the answer,
        so that those of several runs can be answered together."""
        if self._is_asked_for():
            policy = self._trainer.policy(state)
            metrics, samples = yield from self._measured(self._run, policy, step, phase)
            self._select(metrics, state, step, phase)
            self._tell({"eval/phase": phase, **metrics}, step)
            if self.stopped and phase == "train":
                phase = "final"
                metrics = {**metrics, **self._at_end(policy)}
            self.write(self._run, metrics, samples, step, phase)
        if self._is_listed(self._run) and self._is_last(step, phase):
            self._measure_best(step)
        about = {"study": self._study, "run": self._run}
        source = interfaces.read(self._trainer, state, **about)
        for run, method in self._derived():
            policy, found = interfaces.derive(method, source)
            measured, samples = yield from self._measured(run, policy, step, phase)
            self.write(run, {**measured, **found}, samples, step, phase)

    def measure(self, run, policy, step, phase, found=None):
        """Measures a policy and logs it as `run`'s; returns the metrics.

        found: metrics of how the policy was derived.
        """
        metrics, samples = self._answer(self._measured(run, policy, step, phase))
        return self.write(run, {**metrics, **(found or {})}, samples, step, phase)

    def lose(self):
        """Leaves the run as it is from now on: its updates are not finite."""
        self._lost = True

    def void(self, run, step):
        """Writes that a run, or the one it was derived from, was lost: what a report
        reads of its end is NaN."""
        keys = [axes.REWARD.key, *(axis.key for axis in self._study.axes)]
        self.write(run, dict.fromkeys(keys, math.nan), (), step, "final")

    def void_all(self, step):
        """`void` of the run and of what is derived from it as it goes."""
        for run in (self._run, *(run for run, _ in self._derived())):
            self.void(run, step)

    def _measured(self, run, policy, step, phase):
        """(metrics, samples) of a policy, asked for as in `evaluation`."""
        weights = self._trainer.weights(policy)
        if phase == "start":
            with self._files.bar.phase(f"{run.name}: evaluating"):
                return self._start(run, weights)
        study, more = self._study, ()
        if self._is_last(step, phase):
            more = study.at_end
        return (yield Question((*study.evaluators, *more), weights, run))

    def _answer(self, asked):
        """Answers the questions of an evaluation one by one; returns its result."""
        answered = None
        while True:
            try:
                question = asked.send(answered)
            except StopIteration as end:
                return end.value
            with self._files.bar.phase(f"{question.run.name}: evaluating"):
                answered = _ask(*question)

    def _at_end(self, policy):
        """The metrics that are asked of final policies alone."""
        weights = self._trainer.weights(policy)
        return _ask(self._study.at_end, weights, self._run)[0]

    def initial(self, policy):
        """(metrics, samples) of the initial policy, measured once a unit."""
        with self._files.bar.phase(f"{self._run.name}: evaluating"):
            return self._start(self._run, self._trainer.weights(policy))

    def write(self, run, metrics, samples, step, phase):
        """Logs what was measured of a listed run, and samples. Returns the metrics."""
        metrics = {"eval/phase": phase, **metrics}
        if not self._is_listed(run):
            return metrics
        self._write(run, metrics, step)
        origin = {**run.origin, "step": step}
        for row in samples[: self._study.schedule.logged_samples]:
            self._files.samples.append({**origin, "phase": phase, **row})
        return metrics

    def save(self, state, step, final):
        """Saves the state, the best policy, and how far the files of lines reach."""
        best, extra = self.saved()
        tree = {"state": state}
        if self._study.select is not None:
            tree["best"] = best
        extra = {**self._files.offsets(), **extra, "final": final}
        with self._files.bar.phase(f"{self._run.name}: saving"):
            self._checkpoints.save(step, tree, extra)

    def saved(self):
        """(the best policy so far or None, what else is saved beside the state)."""
        extra = {"best": self._best, "spent": self._spent}
        return self._best_policy, {
            **extra,
            "stopped": self.stopped,
            "lost": self._lost,
        }

    def _tell(self, metrics, step):
        record = {**self._run.origin, "step": step, **metrics}
        self._callbacks.tell(step, record)

    def _write(self, run, metrics, step, told=False):
        if told:
            self._tell(metrics, step)
        log, bar = self._files.log, self._files.bar
        log.write(metrics, **run.origin, step=step)
        shown = self._study.shown.items()
        live = {name: metrics[key] for name, key in shown if key in metrics}
        bar.update(None if self._before is None else self._before + step, **live)

    def _is_listed(self, run):
        return self._study.methods[run.method].listed

    def _is_asked_for(self):
        """Whether anybody reads what this run itself measures: a report, or an early
        stop that looks for its best checkpoint."""
        readers = self._study.methods.values()
        return self._is_listed(self._run) or any(
            method.at_end and method.source == self._run.method for method in readers
        )

    def _is_last(self, step, phase):
        """Is this the last evaluation of a policy, after a reset if one ends it?"""
        last = step == self._study.schedule.steps or bool(self.stopped)
        return (last and phase != "before_reset") or phase == "final"

    def _start(self, run, weights):
        """Every method of a unit starts from the same policy: it is measured once."""
        if run.unit not in self._starts:
            evaluators = (*self._study.evaluators, *self._study.at_start)
            self._starts[run.unit] = _ask(evaluators, weights, run)
        return self._starts[run.unit]

    def _derived(self):
        """(run, method) of what is derived from this run at every evaluation."""
        for name, method in self._study.methods.items():
            reads = method.source == self._run.method and method.derive is not None
            if reads and not method.at_end:
                yield self._run._replace(method=name), method

    def _select(self, metrics, state, step, phase):
        """Keeps the best policy so far, and counts the evaluations since it."""
        select = self._study.select
        if select is None:
            return
        for key in select.metrics:
            if key not in metrics:
                known = ", ".join(k for k in metrics if not k.endswith(("_a", "_b")))
                raise ValueError(
                    f"the best policy is chosen by {key}, which is not measured; an "
                    f"evaluation has {known}"
                )
        now = {key: metrics[key] for key in select.metrics}
        first, start = not self._best["start"], self._best["start"] or now
        value = select.worth(now, start)
        self._best = {**self._best, "start": start}
        if self._study.patience is not None and not first:
            self._wait(value, phase)
        if value > self._best["value"]:
            self._best = {**self._best, "value": value, "step": step}
            self._keep(state)

    def _wait(self, value, phase):
        """Counts an evaluation; both sides of a reset are one, and the better counts.

        Worse or better as in `transformers`: by more than a threshold than the best.
        """
        patience, waited = self._study.patience, self._best["waited"]
        if value > self._best["value"] + patience.threshold:
            waited = 0
        elif phase != "after_reset":
            waited += 1
        self._best = {**self._best, "waited": waited}
        if waited >= patience.evaluations and phase != "before_reset":
            keys = " and ".join(self._study.select.metrics)
            looks = "1 evaluation" if waited == 1 else f"{waited} evaluations"
            best = f"a better {keys} than at step {self._best['step']}"
            self._given_up = f"early stopping: {looks} without {best}"

    def _keep(self, state):
        if self._study.select is not None:
            self._best_policy = self._run.layout.snapshot(self._trainer.policy(state))

    def _measure_best(self, step):
        """What is asked of the best policy at the end stands on a line of its own."""
        if not self._study.of_best:
            return
        weights = self._trainer.weights(self._best_policy)
        metrics, _ = _ask(self._study.of_best, weights, self._run)
        self._files.log.write(metrics, **self._run.origin, step=step)


def restore(study, run, trainer, checkpoints):
    """(step, {"state", "best"}, extra) of the newest checkpoint of a trained run, or
    None; "best" where the study selects one."""
    return checkpoints.restore(run.layout.like(target(study, trainer)))


def target(study, trainer):
    """The shapes of what is saved of a trained run."""
    state = jax.eval_shape(trainer.start)
    shapes = {"state": state}
    if study.select is not None:
        shapes["best"] = jax.eval_shape(trainer.policy, state)
    return shapes


def _ask(evaluators, weights, run):
    """The metrics of all evaluators together, and all their samples."""
    metrics, samples = {}, []
    for evaluate in evaluators:
        measured, rows = evaluate(weights, run)
        metrics |= measured
        samples += rows
    return metrics, samples
