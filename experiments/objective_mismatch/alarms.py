"""Detectors that see no gold: do they warn before gold falls?

Each watches one number of a run. Its threshold is set on runs that climb gold itself,
where there is nothing to warn of, in the *other* worlds; what counts is how long before
the onset it warns, and how often it does where nothing is wrong.
"""

import numpy as np

from experiments.objective_mismatch import curves, measures, methods, numbers
from rlhf_jax.evaluation import detectors
from rlhf_jax.evaluation.axes import ENTROPY, KL_INITIAL, LENGTH
from rlhf_jax.reporting import markdown

_FALSE_ALARMS = 0.1
_CONTROL = "gold"
# What is watched, its printed name, and the least deviation that counts as usual.
MONITORS = {
    LENGTH.key: ("length", 0.3),
    measures.OF_LENGTH.key: ("reward–length correlation", 0.03),
    ENTROPY.key: ("entropy", 0.03),
    KL_INITIAL.key: ("KL", 0.3),
    "eval/duplicates": ("duplicates", 0.01),
    measures.SPREAD.key: ("disagreement of five RMs", 0.02),
}
_DETECTOR = detectors.Detector(first=3)


def measure(runs):
    """{monitor: `detectors.Score` as a dictionary} over the runs on reward models.

    A run is long before its onset when it starts, so a warning at once is no warning:
    only the first three looks say what is usual, and none of them can alarm.
    """
    control = runs.get(_CONTROL, {})
    if len(control) < 2:
        return {}
    hacking = curves.of(runs, (*methods.MODELS, *methods.REPEATED.values()))
    return {
        key: _score(control, hacking, key, detectors.Detector(**_rule(smallest)))
        for key, (_, smallest) in MONITORS.items()
    }


def _rule(smallest):
    return _DETECTOR._asdict() | {"smallest": smallest}


def _score(control, hacking, key, detector):
    alarms, onsets = [], []
    for unit, clean in control.items():
        others = [
            _series(c, key)[1] for u, c in control.items() if u.world != unit.world
        ]
        if not others:
            continue
        threshold = detectors.calibrate(
            others, false_alarm=_FALSE_ALARMS, detector=detector
        )
        alarms.append(_alarm(clean, key, threshold, detector))
        onsets.append(None)
        for curve in hacking.get(unit, ()):
            onset = numbers.onset(curve)
            if onset is not None:
                alarms.append(_alarm(curve, key, threshold, detector))
                onsets.append(onset)
    found = detectors.score(alarms, onsets)
    return {
        name: value._asdict() if hasattr(value, "_asdict") else value
        for name, value in found._asdict().items()
    }


def _alarm(curve, key, threshold, detector):
    series = _series(curve, key)
    return detectors.alarm(*series, threshold=threshold, detector=detector)


def _series(curve, key):
    """(steps, numbers) of the looks that have one: of responses that are all of one
    length there is no correlation with it."""
    found = np.isfinite(curve.other[key])
    return curve.steps[found], curve.other[key][found]


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
        "first look whose sum of deviations from the first three looks (CUSUM) passes "
        "the threshold; the lead is positive where it came before the onset."
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
