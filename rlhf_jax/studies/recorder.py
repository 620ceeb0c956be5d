"""A cell of a study under way: what of it is logged, measured and saved.

The callbacks of the host loop, the budget spent so far, and the best policy so far.
"""

import dataclasses

from rlhf_jax.runtime import metrics_log as logs
from rlhf_jax.runtime import progress


@dataclasses.dataclass(frozen=True)
class Files:
    """What every cell writes to."""

    log: logs.Log
    samples: logs.Lines
    bar: progress.Progress


class Recorder:
    """A cell under way: the callbacks of the loop, and the best policy so far.

    before: the steps of all cells before this one; None for a cell that takes none.
    """

    def __init__(self, study, cell, trainer, reward, files, before=None):
        self._study, self._cell, self._trainer = study, cell, trainer
        self._reward, self._files, self._before = reward, files, before
        self._checkpoints = study.checkpointer(cell)
        self._best = {"value": -1.0, "step": 0, "start": {}}
        self._best_params = None
        self._spent = {"tokens": 0.0, "gradient_steps": 0, "reward_calls": 0}

    def restore(self):
        """(state, steps done): of the newest checkpoint, or from the start."""
        found = self._study.restore(self._cell, self._trainer)
        if found is None:
            state = self._trainer.start()
            self._best_params = self._study.layout.keep(self._trainer.policy(state))
            return state, 0
        step, saved, extra = found
        self._best = extra["best"]
        self._best_params = self._study.layout.keep(saved["best"])
        self._spent = extra["spent"]
        return saved["state"], step

    def log(self, step, metrics, rows):
        del rows
        cell, spent = self._cell, self._spent
        self._study.spend(spent, metrics)
        metrics = {**metrics, **{f"budget/{k}": v for k, v in spent.items()}}
        self._files.log.write(metrics, method=cell.method, seed=cell.seed, step=step)
        live = {"reward": "objective/scores", "kl": "objective/kl"}
        shown = {k: metrics[v] for k, v in live.items() if v in metrics}
        self._show(step, shown)

    def evaluate(self, state, step, phase):
        policy = self._trainer.policy(state)
        metrics = self.evaluate_policy(self._cell, policy, step, phase)
        self._keep_best(metrics, state, step)
        if self._at_end(step, phase):
            self._conclude(step)
        companions = self._study.companions(self._cell, self._trainer)
        for cell, derive in companions.items():
            self.evaluate_policy(cell, derive(state), step, phase)

    def evaluate_policy(self, cell, policy, step, phase):
        """Measures a policy, logs it with samples as a cell's; returns the metrics."""
        with self._files.bar.phase(f"{cell.name}: evaluating"):
            weights = self._trainer.weights(policy)
            last = self._at_end(step, phase)
            metrics, samples = self._measure(weights, phase, last)
            if last:
                metrics = {**metrics, **self._study.conclude(weights)}
        return self.write(cell, metrics, samples, step, phase)

    def _at_end(self, step, phase):
        """Whether this is the last look at a policy: after a reset, if one ends it."""
        last = step == self._study.settings.steps and phase != "before_reset"
        return last or phase == "final"

    def measured_at_start(self, policy):
        """(metrics, samples) of the initial policy, once a seed."""
        with self._files.bar.phase(f"{self._cell.name}: evaluating"):
            return self._measure(self._trainer.weights(policy), "start", True)

    def best_of(self, numbers):
        """{n: (metrics, samples)} of the best of n samples, once a seed."""
        evaluator, reward = self._study.evaluator(self._reward), self._reward
        with self._files.bar.phase(f"{self._cell.name}: sampling"):
            key = ("best of", numbers, self._cell.seed)
            return self._study.once(key, lambda: evaluator.best_of(reward, numbers))

    def write(self, cell, metrics, samples, step, phase):
        """Logs what was measured of a cell, and samples; returns the metrics."""
        files = self._files
        metrics = {"eval/phase": phase, **metrics}
        files.log.write(metrics, method=cell.method, seed=cell.seed, step=step)
        for row in samples[: self._study.settings.logged_samples]:
            where = {"method": cell.method, "seed": cell.seed, "step": step}
            files.samples.append({**where, "phase": phase, **row})
        axis = self._study.axis  # which the best of n has no value on
        live = {"drift": metrics[axis]} if axis in metrics else {}
        self._show(step, live)
        return metrics

    def _show(self, step, metrics):
        """On the bar, which a cell that takes no steps leaves where it is."""
        done = None if self._before is None else self._before + step
        self._files.bar.update(done, **metrics)

    def _measure(self, policy, phase, at_end):
        """(metrics, samples); every method of a seed starts from the same policy."""
        evaluator, rest = self._study.evaluator(self._reward), {}
        tested = getattr(self._study.task, "at_ends", None) is not None
        if tested and (at_end or phase == "start"):
            rest["everything"] = True
        if phase != "start":
            return evaluator(policy, self._reward, **rest)
        key = ("start", self._cell.seed)
        return self._study.once(key, lambda: evaluator(policy, self._reward, **rest))

    def _keep_best(self, metrics, state, step):
        """The policy that is worth most, by the study's measure."""
        best = self._best
        now = {k: metrics[k] for k in self._study.judged}
        start = best["start"] or now
        value = self._study.worth(now, start)
        self._best = {**best, "start": start}
        if value > best["value"]:
            self._best = {"value": value, "step": step, "start": start}
            self._best_params = self._study.layout.keep(self._trainer.policy(state))

    def _conclude(self, step):
        """What a kind of study says of the best policy at the end, on a line of its
        own."""
        weights = self._trainer.weights(self._best_params)
        found = self._study.conclude(weights, best=True)
        if found:
            where = {"method": self._cell.method, "seed": self._cell.seed}
            self._files.log.write(found, step=step, **where)

    def save(self, state, step, final):
        with self._files.bar.phase(f"{self._cell.name}: saving"):
            extra = {
                **self.offsets(),
                "best": self._best,
                "spent": self._spent,
                "final": final,
            }
            tree = {"state": state, "best": self._best_params}
            self._checkpoints.save(step, tree, extra)

    def offsets(self):
        """How long the files of lines are now."""
        log, samples = self._files.log, self._files.samples
        return {"metrics": log.offset(), "samples": samples.offset()}
