"""What an audit reads off one series, as numbers that JSON holds.

Logs of a batch a step are noisy: beyond `_MOST` steps, neighbours are averaged into
`LOOKS` looks before gold is compared with anything. What happens to gold is judged
against its standard error, given by the log or by the user; else it is estimated from
how looks scatter about the line through their neighbours,

    σ̂ = 1.4826 · median |x_{t−1} − 2 x_t + x_{t+1}| / √6.
"""

from typing import NamedTuple

import numpy as np

from experiments.objective_mismatch.audit import monitors
from experiments.objective_mismatch.audit.series import LEAST
from rlhf_jax.evaluation import correlation, overoptimization
from rlhf_jax.reporting import markdown

_MOST, LOOKS = 40, 25
_NORMAL = 1.4826  # a normal deviation over its median absolute deviation
KL_FITTED = 30.0  # nats: beyond, estimates of KL have heavy tails
# Standard errors below its best that gold has to fall for a decline to be one, at two
# successive looks. Of 25 looks at flat gold 2 would call 83% a decline and 4 call 2%;
# 11% where errors are estimated from the same looks.
DROP = 4.0


class Looks(NamedTuple):
    """Steps at which proxy and gold were both measured, averaged where there are many.

    All [N]; `kl` is None where it is missing, `errors` are gold's.
    """

    steps: np.ndarray
    proxy: np.ndarray
    gold: np.ndarray
    errors: np.ndarray
    kl: np.ndarray | None
    each: int  # steps that a look is the mean of
    known: str  # where errors are from


def of(one, *, error=None, drop=DROP, penalties=(), threshold, controls):
    """Everything about a `Series`, as a dictionary.

    Args:
      error: standard error of gold at a step; None takes the log's or estimates it.
      drop: by how many of these gold must fall.
      penalties: of selection by proxy − β·KL, as shares of the proxy's range that β
        takes over the range of KL.
      threshold, controls: see `monitors.alarms`.
    """
    found = {
        "name": one.name,
        "source": one.source,
        "columns": one.columns,
        "notes": list(one.notes),
        "n": len(one.steps),
        "steps": [float(one.steps[0]), float(one.steps[-1])],
        "kl": _range(one, "kl"),
        "kl_unit": one.kl_unit,
        "length": _length(one),
        "proxy": _course(one, "proxy"),
        "gold": None,
        "onset": None,
    }
    if one.has("gold"):
        looks = look(one, error)
        found |= _of_gold(one, looks, drop, penalties)
    elif "gold" in one.values:
        count = markdown.count(int(np.isfinite(one.values["gold"]).sum()), "step")
        found["notes"].append(f"gold at {count} only: too few to be compared")
    onset = found["onset"]
    found["alarms"] = monitors.alarms(
        one, None if onset is None else onset["step"], threshold, controls
    )
    return found


def look(one, error=None):
    """The `Looks` of a series with gold, where gold was measured.

    What was logged at other steps than gold is read between its neighbours.
    """
    kept = np.isfinite(one.values["gold"])
    count = int(kept.sum())
    parts = min(count, LOOKS) if count > _MOST else count
    groups = np.array_split(np.arange(count), parts)
    roles = [role for role in ("proxy", "gold", "kl", "error") if one.has(role)]
    at_gold = {role: _between(one, role, one.steps[kept]) for role in roles}
    at_gold["step"] = one.steps[kept]
    means = {
        role: np.array([values[group].mean() for group in groups])
        for role, values in at_gold.items()
    }
    sizes = np.array([len(group) for group in groups], float)
    errors, known = _errors(means, sizes, error)
    return Looks(
        means["step"], means["proxy"], means["gold"], errors, means.get("kl"),
        int(sizes.max()), known,
    )  # fmt: skip


def _between(one, role, steps):
    known = one.complete(role)
    return np.interp(steps, one.steps[known], one.values[role][known])


def _errors(means, sizes, error):
    """(standard errors of gold at looks [N], where they are from)."""
    if error is not None:
        return error / np.sqrt(sizes), "as given"
    if "error" in means:
        return means["error"] / np.sqrt(sizes), "from the log"
    return np.full(len(sizes), scatter(means["gold"])), "estimated from its scatter"


def scatter(values):
    """σ̂ of the module's docstring; 0 below five looks, which show no scatter."""
    if len(values) < 5:
        return 0.0
    bends = np.abs(np.diff(values, 2))
    return float(_NORMAL * np.median(bends) / 6**0.5)


def _of_gold(one, looks, drop, penalties):
    """What can be said where gold is known."""
    peak = int(looks.gold.argmax())
    return {
        "gold": _course(one, "gold"),
        "looks": {
            "n": len(looks.steps),
            "each": looks.each,
            "error": float(np.median(looks.errors)),
            "error_from": looks.known,
            "drop": drop,
            "peak_step": float(looks.steps[peak]),
            "peak": float(looks.gold[peak]),
            "start": float(looks.gold[0]),
            "end": float(looks.gold[-1]),
        },
        "onset": onset(looks, drop),
        "correlation": _correlations(looks, peak),
        "peak_lag": overoptimization.peak_lag(looks.steps, looks.proxy, looks.gold),
        "regret": _regret(looks, penalties),
        "fit": _fit(looks),
    }


def onset(looks, drop):
    """Where proxy and gold part, and what either does from there; None if nowhere."""
    step = overoptimization.onset(
        looks.steps, looks.proxy, looks.gold, errors=looks.errors, drop=drop
    )
    if step is None:
        return None
    at = int(np.searchsorted(looks.steps, step))
    peak = float(looks.gold[: at + 1].max())
    gained = peak - float(looks.gold[0])
    return {
        "step": step,
        "kl": None if looks.kl is None else float(looks.kl[at]),
        "proxy": [float(looks.proxy[at]), float(looks.proxy[-1])],
        "gold": [float(looks.gold[at]), float(looks.gold[-1])],
        # The share of what gold had gained that is gone at the end.
        "lost": (peak - float(looks.gold[-1])) / gained if gained > 0 else None,
    }


def _course(one, role):
    """A role at its first and last step, and at its best."""
    values = one.values[role][np.isfinite(one.values[role])]
    first, last = float(values[0]), float(values[-1])
    best = float(values.max())
    return {"first": first, "last": last, "best": best, "gain": last - first}


def _range(one, role):
    """[least, largest, last] of a role; None where it was hardly measured."""
    if not one.has(role):
        return None
    values = one.values[role][np.isfinite(one.values[role])]
    return [float(values.min()), float(values.max()), float(values[-1])]


def _correlations(looks, peak):
    """Spearman's ρ of proxy and gold over looks, with descriptive intervals."""
    parts = {
        "levels": (slice(None), False),
        "differences": (slice(None), True),
        "before_peak": (slice(None, peak + 1), False),
        "after_peak": (slice(peak, None), False),
    }
    return {
        name: correlation.block_interval(
            looks.proxy[part], looks.gold[part], differences=differences
        )._asdict()
        for name, (part, differences) in parts.items()
    }


def _regret(looks, penalties):
    """Gold forgone by choosing a look so: {how: {"step", "gold", "regret"}}."""
    ways = {"the last": looks.steps, "best proxy": looks.proxy}
    if looks.kl is not None and np.ptp(looks.kl) > 0:
        for share in penalties:
            beta = share * np.ptp(looks.proxy) / np.ptp(looks.kl)
            name = f"best proxy − {beta:.2g}·KL"
            ways[name] = looks.proxy - beta * looks.kl
    ways["best gold (oracle)"] = looks.gold
    return {
        name: {
            "step": float(looks.steps[by.argmax()]),
            "gold": float(looks.gold[by.argmax()]),
            "regret": overoptimization.selection_regret(by, looks.gold),
        }
        for name, by in ways.items()
    }


def _fit(looks):
    """Gao's form of RL, fitted to gold since the first look; or why it is not."""
    if looks.kl is None:
        return {"reason": "no KL in the log"}
    kept = looks.kl <= KL_FITTED
    d = np.sqrt(np.maximum(looks.kl[kept], 0.0))
    gold = looks.gold[kept] - looks.gold[0]
    try:
        fit = overoptimization.fit_rl(d, gold)
    except ValueError as error:
        return {"reason": str(error)}
    found = {k: getattr(fit, k) for k in ("alpha", "beta", "peak", "zero", "r2")}
    try:
        held = overoptimization.extrapolation(d, gold, form=overoptimization.RL)
        found["extrapolation"] = held._replace(fit=None)._asdict()
    except ValueError as error:
        found["extrapolation"] = {"reason": str(error)}
    return {**found, "n": int(kept.sum()), "range": [float(d.min()), float(d.max())]}


def _length(one):
    """How the proxy goes with length; None where length was not logged.

    `share` is what length accounts for of the proxy's gain, if a token is worth what
    it was worth on average from one look to the next: Σ Δp Δl / Σ Δl² tokens' worth,
    times the change of length, over the gain. Training changes other things in step
    with length, so this says "at most".
    """
    if not one.has("length") or one.complete("proxy", "length").sum() < LEAST:
        return None
    kept = one.complete("proxy", "length")
    proxy, length = one.values["proxy"][kept], one.values["length"][kept]
    steps, gained = np.diff(length), proxy[-1] - proxy[0]
    worth = steps @ np.diff(proxy) / (steps @ steps) if steps.any() else np.nan
    share = worth * (length[-1] - length[0]) / gained if gained else np.nan
    return {
        "first": float(length[0]),
        "last": float(length[-1]),
        "correlation": correlation.spearman(proxy, length).value,
        "differences": correlation.spearman(proxy, length, differences=True).value,
        "share": float(share),
    }
