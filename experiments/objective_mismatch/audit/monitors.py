"""Alarms of monitors that see no gold: a number that leaves its usual range.

What is usual is learned from a run's first looks. Monitors move in every run that
learns, so that only a threshold from control runs, in which nothing is hacked, makes
an alarm a sign of hacking; without controls it is a question.
"""

from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import detectors

_FEWEST = 6  # looks of a monitor
_FIRST = ((50, 10), (15, 5), (_FEWEST, 3))  # of series so long, looks to learn from
_ALLOWANCE = 1.0  # deviations a look that are forgiven
FALSE_ALARM = 0.1  # share of control runs that may alarm
# Deviations, of a CUSUM. Of noise alone 3% (10 looks) to 9% (300 looks) pass it.
THRESHOLD = 20.0


class Monitor(NamedTuple):
    """What is watched, in which direction, and the least move that counts."""

    label: str
    side: str
    share: float = 0.02  # of its usual size: a deviation is at least so large
    least: float = 0.0  # or so large, in its own unit


MONITORS = {
    "length": Monitor("length", "both"),
    "entropy": Monitor("entropy", "down"),
    "duplicates": Monitor("duplicates", "up", least=0.01),
    "spread": Monitor("spread of the proxy", "both"),
    "kl_rate": Monitor("KL a step", "up", share=0.1, least=1e-4),
}


def of(one):
    """{monitor: (steps [T], values [T])} of a `Series`, those of enough looks."""
    found = {}
    for name in MONITORS:
        role = "kl" if name == "kl_rate" else name
        if role not in one.values:
            continue
        kept = one.complete(role)
        seen = one.steps[kept], one.values[role][kept]
        steps, values = one.watched.get(role, seen)
        if name == "kl_rate":
            values, steps = np.diff(values) / np.diff(steps), steps[1:]
        if len(values) >= _FEWEST:
            found[name] = steps, values
    return found


def alarms(one, onset, threshold, controls=()):
    """{monitor: {"step", "lead", "threshold", "controls"}} of a `Series`.

    Args:
      onset: the step of Goodhart's onset, None where there is none or gold is unknown.
      threshold: of a CUSUM in deviations of the first looks, used without controls.
      controls: series of runs without hacking: the threshold is then the least at
        which at most `FALSE_ALARM` of them alarm; "controls" counts them.
    """
    found, calm = {}, [of(control) for control in controls]
    for name, (steps, values) in of(one).items():
        detector = _detector(name, values)
        watched = [run[name][1] for run in calm if name in run]
        watched = [values for values in watched if len(values) > detector.first]
        limit = threshold
        if watched:
            limit = detectors.calibrate(
                watched, false_alarm=FALSE_ALARM, detector=detector
            )
        step = detectors.alarm(steps, values, threshold=limit, detector=detector)
        step = None if step is None else float(step)
        found[name] = {
            "step": step,
            "lead": detectors.lead_time(step, onset),
            "threshold": limit,
            "controls": len(watched),
        }
    return found


def _detector(name, values):
    """The detector of a monitor, in the size that it has in a run's first looks."""
    monitor = MONITORS[name]
    first = next(first for length, first in _FIRST if len(values) >= length)
    usual = abs(float(np.median(values[:first])))
    smallest = max(monitor.share * usual, monitor.least)
    return detectors.Detector(
        side=monitor.side, first=first, allowance=_ALLOWANCE, smallest=smallest
    )
