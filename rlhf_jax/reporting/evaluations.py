"""Records of metrics.jsonl sorted into runs: what each method measured, seed by seed.

A record is a dictionary of one logged step. Evaluation records hold `eval/reward` and
an `eval/phase`: start, train, before_reset, after_reset or final. A metric that was
measured on two halves of the prompts is also logged as `<key>_a` and `<key>_b`;
checkpoints are then chosen on one half and read on the other, both ways, and averaged.
"""

from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import pareto
from rlhf_jax.evaluation.axes import REWARD

HALVES = ("_a", "_b")


class Run(NamedTuple):
    """The evaluations of one method and seed, in the order they were made."""

    method: str
    seed: int
    start: dict  # the evaluation of the initial weights
    rows: list  # of dicts, `start` first

    @property
    def final(self):
        """The last evaluation; on an iteration with a reset, the one after it."""
        return self.rows[-1]

    def values(self, axis, *, half=""):
        """An axis at every evaluation, [N], NaN where it is missing.

        For an axis that is read from the start, this is start − value.
        """
        key = axis.key + half
        values = np.array([row.get(key, np.nan) for row in self.rows], float)
        if axis.from_start:
            return float(self.start.get(key, np.nan)) - values
        return values

    def points(self, axis, *, reward=REWARD, half=""):
        """(drift, reward) of every evaluation that has both, [N, 2]."""
        drift_half = half if self.has(axis, half=half) else ""
        columns = self.values(axis, half=drift_half), self.values(reward, half=half)
        points = np.stack(columns, axis=-1)
        return points[~np.isnan(points).any(-1)]

    def halves(self, axis):
        """An axis on the two halves of the prompts, [N] each.

        Without halves, the whole twice. A drift is shifted to start on both halves
        where it starts on the whole: a half with harder texts has not drifted.
        """
        whole = self.values(axis)
        if not all(self.has(axis, half=half) for half in HALVES):
            return whole, whole
        halves = [self.values(axis, half=half) for half in HALVES]
        if axis.better == "less":
            halves = [values - values[0] + whole[0] for values in halves]
        return tuple(halves)

    def points_by_half(self, axis):
        """(drift, proxy reward) on the two halves, [N, 2] each, NaN rows kept."""
        pairs = zip(self.halves(axis), self.halves(REWARD), strict=True)
        return tuple(np.stack(pair, axis=-1) for pair in pairs)

    def picked(self, measure, axis, drifts):
        """`measure` at the checkpoint with the best proxy reward at drift ≤ d.

        Gold is read there and selects nothing. Args: measure, axis: of type Axis;
        drifts [...]. Returns [...], NaN where no checkpoint is that near.
        """
        chosen = [pareto.picks(points, drifts) for points in self.points_by_half(axis)]
        return pareto.crossed(*chosen, *self.halves(measure))

    def has(self, axis, *, half=""):
        """Whether the axis was ever measured."""
        return any(axis.key + half in row for row in self.rows)

    def has_front(self, axis):
        """Whether the axis was measured after the start of the method.

        The best of n samples has no likelihood of human text and answers no questions.
        """
        return any(axis.key in row for row in self.rows if not is_start(row))


def is_start(row):
    """Whether a record evaluates the initial weights, before any step."""
    return row["step"] == 0 and row.get("eval/phase", "start") == "start"


def runs(records):
    """Evaluation records as a list of Run, methods in order of first appearance.

    A run without an evaluation of the initial weights borrows that of another method
    with the same seed: paired methods start from the same weights.
    """
    rows, starts = {}, {}
    for record in records:
        if REWARD.key in record:
            rows.setdefault((record["method"], record["seed"]), []).append(record)
            if is_start(record):
                starts.setdefault(record["seed"], record)
    result = []
    for (method, seed), evaluated in rows.items():
        evaluated = sorted(evaluated, key=lambda row: row["step"])
        if not is_start(evaluated[0]) and seed in starts:
            evaluated = [starts[seed], *evaluated]
        if not is_start(evaluated[-1]):
            result.append(Run(method, seed, evaluated[0], evaluated))
    return result


def by_method(runs):
    """{method: its runs, by seed}, in order of first appearance."""
    result = {run.method: [] for run in runs}
    for run in sorted(runs, key=lambda run: run.seed):
        result[run.method].append(run)
    return result


def pooled(trials):
    """One run a seed with the checkpoints of all trials: what any of them reached.

    trials: a sequence of sequences of Run, all of one method; each trial of a seed
    starts from the same weights. Returns a list of Run.
    """
    result = {}
    for run in (run for trial in trials for run in trial):
        known = result.get(run.seed, run._replace(rows=[run.start]))
        result[run.seed] = known._replace(rows=known.rows + run.rows[1:])
    return list(result.values())
