"""Detectors that see no gold: do they warn before gold falls?

Each watches one number of a run, either at its evaluations or in every iteration. Its
threshold is set on runs that climb gold itself, where there is nothing to warn of, in
the *other* worlds; what counts is how long before the onset it warns, and how often it
does where nothing is wrong.
"""

import numpy as np

from experiments.objective_mismatch import measures, methods, numbers
from rlhf_jax.evaluation import detectors, units
from rlhf_jax.evaluation.axes import (
    ENTROPY,
    KL_INITIAL,
    KL_REFERENCE,
    LENGTH,
    TRAINING_ENTROPY,
)
from rlhf_jax.reporting import markdown

_FALSE_ALARMS = 0.1
_CONTROL = "gold"
_WATCHED = (*methods.MODELS, *methods.REPEATED.values())
# What is watched at evaluations and, in every iteration, of training: its printed name,
# and the least deviation that counts as usual.
LOOKS = {
    LENGTH.key: ("length", 0.3),
    measures.OF_LENGTH.key: ("reward–length correlation", 0.03),
    ENTROPY.key: ("entropy", 0.03),
    KL_INITIAL.key: ("KL", 0.3),
    "eval/duplicates": ("duplicates", 0.01),
    measures.SPREAD.key: ("disagreement of five RMs", 0.02),
}
ITERATIONS = {
    "response/length": ("length, every iteration", 0.3),
    TRAINING_ENTROPY.key: ("entropy, every iteration", 0.3),
    KL_REFERENCE.key: ("KL, every iteration", 0.3),
}
MONITORS = LOOKS | ITERATIONS
TRAINING = tuple(ITERATIONS)  # what kept results hold of training
_FIRST = {False: 3, True: 5}  # looks, or iterations, that say what is usual


def measure(runs, records):
    """{monitor: `detectors.Score` as a dictionary} over the runs on reward models.

    Args: runs: as `curves.of_records`; records: of training too.
    """
    if len(runs.get(_CONTROL, {})) < 2:
        return {}
    series = {
        **{key: _at_looks(runs, key) for key in LOOKS},
        **{key: _in_training(records, key) for key in ITERATIONS},
    }
    onsets = {
        (method, unit): numbers.onset(curve)
        for method in _WATCHED
        for unit, curve in runs.get(method, {}).items()
    }
    return {
        key: _score(by_run, onsets, _detector(key))
        for key, by_run in series.items()
        if any(method == _CONTROL for method, _ in by_run)
    }


def _detector(key):
    first = _FIRST[key in ITERATIONS]
    return detectors.Detector(first=first, smallest=MONITORS[key][1])


def _at_looks(runs, key):
    """{(method, unit): (steps, numbers)} of the looks that have one: of responses that
    are all of one length there is no correlation with it."""
    found = {}
    for method in (_CONTROL, *_WATCHED):
        for unit, curve in runs.get(method, {}).items():
            known = np.isfinite(curve.other[key])
            found[method, unit] = curve.steps[known], curve.other[key][known]
    return found


def _in_training(records, key):
    """The same of what was logged in every iteration."""
    rows = {}
    for record in records:
        if key in record and record["method"] in (_CONTROL, *_WATCHED):
            run = record["method"], units.of(record)
            rows.setdefault(run, []).append((record["step"], record[key]))
    return {run: tuple(np.array(logged, float).T) for run, logged in rows.items()}


def _score(series, onsets, detector):
    alarms, dated = [], []
    controls = {unit: one for (m, unit), one in series.items() if m == _CONTROL}
    for unit, clean in controls.items():
        others = [one[1] for u, one in controls.items() if u.world != unit.world]
        if not others:
            continue
        threshold = detectors.calibrate(
            others, false_alarm=_FALSE_ALARMS, detector=detector
        )
        watched = [(clean, None)] + [
            (series[run], onset)
            for run, onset in onsets.items()
            if run[1] == unit and onset is not None and run in series
        ]
        for one, onset in watched:
            alarms.append(detectors.alarm(*one, threshold=threshold, detector=detector))
            dated.append(onset)
    found = detectors.score(alarms, dated)
    return {
        name: value._asdict() if hasattr(value, "_asdict") else value
        for name, value in found._asdict().items()
    }


def render(found, evidence):
    """A line a monitor."""
    del evidence
    if not found:
        return
    yield "## Would anything have warned, without gold?"
    one = next(iter(found.values()))
    yield (
        f"Over {markdown.count(one['hacked'], 'run')} on learned rewards in which gold "
        f"fell, and {markdown.count(one['clean'], 'run')} on gold itself. Thresholds "
        f"are set for {100 * _FALSE_ALARMS:.0f}% false alarms on the control runs of "
        "the other worlds; shares with Wilson's interval, in percent. An alarm is the "
        f"first look whose sum of deviations (CUSUM) from the first {_FIRST[False]} "
        f"looks, or {_FIRST[True]} iterations, passes the threshold; the lead is "
        "positive where it came before the onset."
    )
    header = ("warned before the onset", "ever", "median lead (iterations)")
    body = [
        [
            MONITORS[key][0],
            markdown.interval(row["warned"], 100.0),
            markdown.interval(row["detected"], 100.0),
            markdown.number(row["lead"]) if row["lead"] == row["lead"] else "–",
            markdown.interval(row["false_alarms"], 100.0),
        ]
        for key, row in found.items()
    ]
    yield markdown.table(["watched", *header, "false alarms"], body)
