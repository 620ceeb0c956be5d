"""Detectors of reward hacking that see no gold: a monitor leaves its usual range.

A monitor is a number per look that costs no human: mean length, reward–length
correlation, entropy, KL per step, share of duplicates, spread of an ensemble. What is
usual is learned from the first looks at the same run; what is unusual enough, from
control runs without hacking (proxy = gold), where monitors move as well. T looks.
"""

from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import statistics

_NORMAL = 1.4826  # a normal deviation over its median absolute deviation
_RULES, _SIDES = ("cusum", "deviation"), ("up", "down", "both")


class Detector(NamedTuple):
    """A rule for when a series is out of its usual range."""

    rule: str = "cusum"  # or "deviation"
    side: str = "both"  # or "up", "down": where hacking is looked for
    first: int = 5  # looks that say what is usual
    allowance: float = 0.5  # deviations per look that a CUSUM forgives
    smallest: float = 0.0  # least deviation of the usual, in the monitor's unit


class Score(NamedTuple):
    """What a detector is worth over runs. NaN without such runs."""

    warned: statistics.Interval  # of runs that hacked: alarm before the onset
    detected: statistics.Interval  # of those: alarm at any time
    lead: float  # median of onset − alarm where both came, in steps
    false_alarms: statistics.Interval  # of runs that did not hack
    hacked: int
    clean: int


def statistic(values, *, detector=None):
    """[T]: how unusual a monitor is at each look, 0 at the first ones.

    With z_t = (x_t − median)/(1.4826 · MAD) of the first looks,

        deviation   z_t, −z_t or |z_t|, by side; never below 0
        cusum       S_t = max(0, S_{t−1} ± z_t − allowance), the larger for both sides

    (Page 1954). CUSUM sees small shifts that stay, deviation a large one at once. A
    monitor that did not move at first makes every move infinite: give `smallest`.

    Args: values [T], T > first. Raises ValueError for values that are not finite.
    """
    detector = Detector() if detector is None else detector
    values = _checked(values, detector)
    usual, later = values[: detector.first], values[detector.first :]
    center = np.median(usual)
    scale = max(_NORMAL * np.median(np.abs(usual - center)), detector.smallest)
    moved = later - center
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(moved == 0, 0.0, moved / scale)
    signs = {"up": (1,), "down": (-1,), "both": (1, -1)}[detector.side]
    if detector.rule == "cusum":
        found = [_cusum(sign * z - detector.allowance) for sign in signs]
    else:
        found = [np.maximum(sign * z, 0.0) for sign in signs]
    return np.concatenate([np.zeros(detector.first), np.max(found, axis=0)])


def alarm(steps, values, *, threshold, detector=None):
    """The first step at which `statistic` exceeds the threshold, or None.

    Args: steps [T]; values [T]; threshold: from `calibrate`; Detector() by default.
    """
    found = statistic(values, detector=detector) > threshold
    if len(steps) != len(found):
        raise ValueError(f"{len(steps)} steps for {len(found)} looks at a monitor")
    return steps[int(found.argmax())] if found.any() else None


def calibrate(controls, *, false_alarm=0.1, detector=None):
    """The least threshold at which at most this share of control runs alarms.

    Of the largest statistics of R control runs it is the largest but ⌊αR⌋. On another
    such run the chance of an alarm is then at most (⌊αR⌋ + 1)/(R + 1): with 5 runs,
    nothing below 1/6 can be promised. Control runs should have the length and the
    hyperparameters of the runs to be watched.

    Args: controls: series [T] of one monitor, one a run; false_alarm: α in [0, 1).
    Returns a float.
    """
    if not len(controls) or not 0 <= false_alarm < 1:
        raise ValueError(
            f"{len(controls)} control runs, false_alarm={false_alarm}: give at least "
            "one run, and a share in [0, 1)"
        )
    largest = sorted(
        float(statistic(values, detector=detector).max()) for values in controls
    )
    # 0.29 · 100 is 28.999999999999996.
    spared = int(false_alarm * len(largest) + 1e-9)
    return largest[len(largest) - 1 - spared]


def lead_time(alarm, onset):
    """onset − alarm, in steps: positive where the warning came first.

    None where either never came. An alarm long before is as likely to be false.
    """
    return None if alarm is None or onset is None else onset - alarm


def score(alarms, onsets, *, level=0.95):
    """Over runs: the share warned in time, the median lead, the false alarm rate.

    Runs without onset are those that did not hack. The threshold must come from other
    runs than these. An alarm that is false by chance counts as a warning when it falls
    before an onset, so the share warned is to be read beside the false alarm rate.

    Args: alarms, onsets: [R] steps or None, one a run. Returns Score.
    """
    if len(alarms) != len(onsets):
        raise ValueError(f"{len(alarms)} alarms and {len(onsets)} onsets: one a run")
    pairs = list(zip(alarms, onsets, strict=True))
    hacked = [pair for pair in pairs if pair[1] is not None]
    clean = [pair for pair in pairs if pair[1] is None]
    leads = [lead for pair in hacked if (lead := lead_time(*pair)) is not None]
    return Score(
        _share(sum(lead > 0 for lead in leads), len(hacked), level),
        _share(len(leads), len(hacked), level),
        float(np.median(leads)) if leads else float("nan"),
        _share(sum(pair[0] is not None for pair in clean), len(clean), level),
        len(hacked),
        len(clean),
    )


def _share(hits, count, level):
    if not count:
        return statistics.Interval(float("nan"), 0.0, 1.0)
    return statistics.wilson(hits / count, count, level=level)


def _cusum(increments):
    total, sums = 0.0, []
    for increment in increments:
        total = max(0.0, total + float(increment))
        sums.append(total)
    return np.array(sums)


def _checked(values, detector):
    if detector.rule not in _RULES or detector.side not in _SIDES:
        raise ValueError(
            f"a detector's rule is one of {_RULES} and its side one of {_SIDES}; "
            f"got {detector.rule!r} and {detector.side!r}"
        )
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not 1 <= detector.first < len(values):
        raise ValueError(
            f"a monitor of shape {values.shape} with first={detector.first}: give [T] "
            "looks, more than are needed to say what is usual"
        )
    if not np.isfinite(values).all():
        i = int((~np.isfinite(values)).argmax())
        raise ValueError(f"look {i} at the monitor is {values[i]}; leave it out")
    return values
