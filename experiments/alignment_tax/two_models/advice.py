"""How much of the tax a model returns, what of the reward it pays, and which to keep.

Items are questions and prompts, the same for every model, so intervals speak about
these two models on other items of the kind. The point that measures best flatters
itself: it is picked on the even items, half A, and read on the odd ones, half B.
"""

from typing import NamedTuple

import numpy as np

from rlhf_jax.evaluation import statistics

LEVEL = 0.05  # of a loss, after Holm's correction
_DRAWS, _PART = 10_000, 500
HALF = 0.5  # of the tax, which is asked back where there is no price


class Share(NamedTuple):
    """A share of the way from one model back to another, with a 95% interval."""

    mean: float
    low: float
    high: float


class Advice(NamedTuple):
    """Which point to keep, read on half B; `point` is None where nothing is advised."""

    point: str | None
    reason: str  # a sentence
    returned: Share | None = None  # of the tax
    paid: Share | None = None  # of the reward; None without a reward


def taxed(changes):
    """({suite: Holm's p}, names of the suites that lost significantly).

    changes: {suite: `suites.Change`}.
    """
    if not changes:
        return {}, ()
    adjusted = statistics.holm([change.p for change in changes.values()])
    p_values = dict(zip(changes, map(float, adjusted), strict=True))
    lost = (k for k, x in changes.items() if x.after < x.before)
    return p_values, tuple(k for k in lost if p_values[k] < LEVEL)


def shares(before, after, points, *, seed=0):
    """(p̄ − after̄) / (beforē − after̄) of each point: a list of `Share`.

    Of scores it is the share of the tax that a point returns, of rewards the share of
    the gain that it pays. Percentile intervals of a paired bootstrap over items; where
    beforē does not differ from after̄ in the direction of the data, a resample has no
    share and counts as −∞ for the lower and ∞ for the upper end.

    Args: before, after: [N] of the same items; points: a list of [N].
    """
    values = np.stack([before, after, *points], -1).astype(np.float64)
    counts, rng = len(values), np.random.default_rng(seed)
    means = [values.mean(0, keepdims=True)]
    for _ in range(0, _DRAWS, _PART):
        drawn = rng.multinomial(counts, np.full(counts, 1 / counts), size=_PART)
        means.append(drawn @ values / counts)
    means = np.concatenate(means)
    gap = means[:, :1] - means[:, 1:2]
    there = gap * np.sign(gap[0]) > 1e-12
    share = (means[:, 2:] - means[:, 1:2]) / np.where(there, gap, 1.0)
    low, high = (
        np.quantile(np.where(there, share, bound)[1:], q, axis=0, method="inverted_cdf")
        for q, bound in ((0.025, -np.inf), (0.975, np.inf))
    )
    value = share[0] if there[0, 0] else np.full(share.shape[1], np.nan)
    return [Share(*map(float, row)) for row in zip(value, low, high, strict=True)]


def pick(scores, rewards, *, pay, averages):
    """`Advice`: a point chosen on half A of the items and read on half B.

    With rewards: of the points that pay at most `pay` of the gain, the one that returns
    most. Without: of `averages`, given from the largest weight down, the first that
    returns half of the tax.

    Args: scores: {name: [N]} of the taxed questions; rewards: {name: [P]} of prompts,
    or None; both with "before" and "after"; averages: names.
    """
    names = [name for name in scores if name not in ("before", "after")]
    returned = _on(0, scores, names)
    if _gap(scores) <= 0:
        return Advice(None, "On half A of the questions there is no tax to return.")
    if rewards is None:
        enough = [name for name in averages if returned[name] >= HALF]
        if not enough:
            reason = f"No average returned {HALF:.0%} of the tax on half A."
            return Advice(None, reason)
        (share,) = _half(1, scores, enough[:1])
        reason = f"The least averaging that returned {HALF:.0%} of the tax on half A."
        return Advice(enough[0], reason, share)
    if -_gap(rewards) <= 0:
        reason = "On half A of the prompts the aligned model earns no more reward."
        return Advice(None, reason)
    paid = _on(0, rewards, names)
    allowed = [name for name in names if paid[name] <= pay and returned[name] > 0]
    if not allowed:
        reason = f"Nothing returned any tax for at most {pay:.0%} of the reward."
        return Advice(None, f"{reason[:-1]} on half A.")
    best = max(allowed, key=lambda name: (returned[name], -paid[name]))
    reason = f"Returned most for at most {pay:.0%} of the reward on half A."
    return Advice(best, reason, *(_half(1, x, [best])[0] for x in (scores, rewards)))


def _gap(values):
    """before − after on half A."""
    return float(np.mean(values["before"][::2]) - np.mean(values["after"][::2]))


def _on(half, values, names):
    """{name: its share on half 0, A, or 1, B}, without an interval."""
    start, end = (float(np.mean(values[k][half::2])) for k in ("before", "after"))
    gap = start - end
    means = {name: float(np.mean(values[name][half::2])) for name in names}
    return {k: (mean - end) / gap if gap else np.nan for k, mean in means.items()}


def _half(half, values, names):
    parts = {k: np.asarray(v)[half::2] for k, v in values.items()}
    ends = parts["before"], parts["after"]
    return shares(*ends, [parts[name] for name in names])
