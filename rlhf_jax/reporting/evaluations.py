"""Records of metrics.jsonl sorted into runs: what each method measured, unit by unit.

A record is a dictionary of one logged step. Evaluation records hold `eval/reward` and
an `eval/phase`: start, train, before_reset, after_reset or final. A metric that was
measured on two halves of the prompts is also logged as `<key>_a` and `<key>_b`, so
that looks are picked on one half and read on the other.
"""

import itertools
from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import fronts, units
from rlhf_jax.evaluation.axes import REWARD

HALVES = ("_a", "_b")


class Run(NamedTuple):
    """The evaluations of one method on one unit, in the order they were made."""

    method: str
    unit: units.Unit
    rows: list  # of dicts; the first evaluates the initial weights

    @property
    def looks(self):
        """How many evaluations there are after the start."""
        return len(self.rows) - 1

    @property
    def cycle(self):
        """[N] how many resets came before each evaluation."""
        return np.cumsum([row.get("eval/phase") == "after_reset" for row in self.rows])

    def has(self, axis, *, half=""):
        """Whether the axis was ever measured."""
        return any(axis.key + half in row for row in self.rows)

    def has_front(self, axis):
        """Whether the axis was measured at every evaluation.

        The best of n samples has no likelihood of human text and answers no questions.
        """
        return all(axis.key in row for row in self.rows)

    def values(self, axis, *, half=""):
        """An axis at every evaluation, [N], NaN where it is missing.

        For an axis that is read from the start, this is start − value.
        """
        key = axis.key + half
        values = np.array([row.get(key, np.nan) for row in self.rows], float)
        return values[0] - values if axis.from_start else values

    def gains(self, axis):
        """An axis since the start of each half: [N] on half A, [N] on half B.

        Without halves, the whole twice.
        """
        found = HALVES if all(self.has(axis, half=h) for h in HALVES) else ("", "")
        halves = [self.values(axis, half=half) for half in found]
        return tuple(values - values[0] for values in halves)

    def paths(self, axis):
        """`fronts.Path` of the proxy reward against a drift axis, on each half."""
        pairs = zip(self.gains(axis), self.gains(REWARD), strict=True)
        return tuple(fronts.Path(*pair, self.cycle) for pair in pairs)

    def attained(self, measure, axis, drifts):
        """A split-half reading of `measure` where the proxy is best at drift ≤ d.

        Gold is read there and selects nothing. Args: measure, axis: of type Axis;
        drifts [...] since the start. Returns [...] since the start.
        """
        return fronts.read(self.paths(axis), drifts, self.gains(measure))

    def final(self, axis):
        """The final measure: of a run with resets the mean over its last full cycle.

        That is the integral over steps of the looks between its last two resets, or up
        to the only one; of other runs the end point. Of a run that was looked at once,
        and so may have been picked on half A, it is half B's.
        """
        values = self.values(axis)
        if self.looks == 1 and self.has(axis, half="_b"):
            return float(self.values(axis, half="_b")[-1])
        last = self.cycle[-1] - 1
        if last < 0:
            return float(values[-1])
        inside = self.cycle == last
        steps = np.array([row["step"] for row in self.rows], float)[inside]
        if np.ptp(steps) == 0 or np.isnan(values[inside]).any():
            return float(values[-1])
        return float(np.trapezoid(values[inside], steps) / np.ptp(steps))

    def diverged(self, axes):
        """Whether a number among these axes is not finite where it was measured."""
        keys = [axis.key for axis in axes]
        measured = [row[key] for row in self.rows for key in keys if key in row]
        return not np.isfinite(np.array(measured, float)).all()


def is_start(row):
    """Whether a record evaluates the initial weights, before any step."""
    return row["step"] == 0 and row.get("eval/phase", "start") == "start"


def runs(records):
    """Evaluation records as a list of Run, methods in order of first appearance.

    A run without an evaluation of the initial weights borrows that of another method
    of the same unit: paired methods start from the same weights.
    """
    rows, starts = {}, {}
    for record in records:
        if REWARD.key in record:
            unit = units.of(record)
            rows.setdefault((record["method"], unit), []).append(record)
            if is_start(record):
                starts.setdefault(unit, record)
    result = []
    for (method, unit), evaluated in rows.items():
        evaluated = sorted(evaluated, key=lambda row: row["step"])
        if not is_start(evaluated[0]) and unit in starts:
            evaluated = [starts[unit], *evaluated]
        if not is_start(evaluated[-1]):
            result.append(Run(method, unit, evaluated))
    return result


def by_method(runs):
    """{method: its runs, by unit}, in order of first appearance."""
    result = {run.method: [] for run in runs}
    for run in sorted(runs, key=lambda run: run.unit):
        result[run.method].append(run)
    return result


def pooled(trials):
    """One run a unit with the looks of all trials: what any of them reached.

    trials: a sequence of sequences of Run, all of one method; each trial of a unit
    starts from the same weights. Returns a list of Run. Every trial after the first
    begins as if by a reset, so that nothing is read between two trials.
    """
    result = {}
    for run in itertools.chain(*trials):
        known = result.get(run.unit)
        if known is None:
            result[run.unit] = run
        else:
            begun = {**run.rows[0], "eval/phase": "after_reset"}
            result[run.unit] = known._replace(rows=[*known.rows, begun, *run.rows[1:]])
    return list(result.values())
