"""Recovery after a reset: how many iterations until the proxy is back.

A reset gives up reward. Elastic Reset claims that an average of the policy regains it
sooner than the initial weights do, which a warm critic and a warm optimiser would help
as well (Noukhovitch et al. 2023, arXiv:2312.07551; the arm to compare with resets to θ₀
at the same iterations).

A trace is the mean score of each iteration's rollout, which is drawn before the
iteration's updates: iteration t + 1 shows the policy that a reset at the end of
iteration t left behind. Watching stops at the next reset or at the end of the run. A
recovery not seen by then is *censored*: it takes longer than that.
"""

from typing import NamedTuple

import numpy as np


class Recovery(NamedTuple):
    """What followed one reset."""

    reset: int  # the 0-based iteration that ended with it
    level: float  # the proxy before it
    target: float  # what is to be regained
    steps: int  # iterations spent below the target before it was met, or all watched
    watched: int  # iterations between this reset and the next, or the end
    regained: bool  # False: censored, the true time is at least `steps`


def after_resets(scores, resets, *, origin=0.0, share=0.9, window=3):
    """T = min{s ≥ 0 : score_{r+1+s} ≥ o + share·(level_r − o)} for each reset r.

    level_r is the mean score of the last `window` iterations up to r that lie after
    the reset before it: one rollout is noisy, and all else is before a reset. o is
    what the initial policy scores, 0 on a normalised proxy, so that a share of the
    gain is regained and not of an arbitrary zero. A reset that nothing follows, or
    before which nothing was gained (level_r ≤ o), has no entry.

    Args:
      scores: [N], the mean score of each iteration.
      resets: 0-based iterations that end with a reset, each < N.
      share: in (0, 1]; window: ≥ 1.
    Returns a list of Recovery, by reset. Raises ValueError for scores that are not
    finite: a run that diverged recovers from nothing.
    """
    scores, resets = _checked(scores, resets, share, window)
    result, begin, bounds = [], 0, [*resets, len(scores) - 1]
    for reset, end in zip(resets, bounds[1:], strict=True):
        level = float(scores[max(begin, reset + 1 - window) : reset + 1].mean())
        after, begin = scores[reset + 1 : end + 1], reset + 1
        if level <= origin or len(after) == 0:
            continue
        target = origin + share * (level - origin)
        met = np.flatnonzero(after >= target)
        steps = int(met[0]) if len(met) else len(after)
        result.append(Recovery(reset, level, target, steps, len(after), bool(len(met))))
    return result


def earlier(one, other):
    """+1 where `one` recovered first, −1 where `other` did, 0 together, None unknown.

    A time that is censored is longer than one that was seen within the same watch; of
    two censored ones nobody knows. Raises ValueError for different resets or watches.
    """
    if (one.reset, one.watched) != (other.reset, other.watched):
        raise ValueError(
            f"iterations {one.reset} and {other.reset}, watched for {one.watched} and "
            f"{other.watched}: only the same reset of two runs can be compared"
        )
    if not one.regained and not other.regained:
        return None
    if one.regained and other.regained:
        return int(np.sign(other.steps - one.steps))
    return 1 if one.regained else -1


def restricted(recoveries):
    """Mean over resets of min(T, watched): iterations spent below the target.

    The restricted mean of survival analysis. It is observed for every reset, censored
    or not, and so needs no guess at times that nobody saw; it is no recovery time, but
    a lower bound on the mean of one. recoveries: list of Recovery, not empty.
    """
    if not recoveries:
        raise ValueError("no reset was followed by anything to regain")
    return float(np.mean([recovery.steps for recovery in recoveries]))


def _checked(scores, resets, share, window):
    scores = np.asarray(scores, float)
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite, [N], got {scores}")
    resets = sorted(int(reset) for reset in resets)
    if resets and not 0 <= resets[0] <= resets[-1] < len(scores):
        raise ValueError(f"resets {resets} lie outside of {len(scores)} iterations")
    if not 0 < share <= 1:
        raise ValueError(f"share must lie in (0, 1], got {share!r}")
    if window < 1:
        raise ValueError(f"window must be at least 1 iteration, got {window!r}")
    return scores, resets
