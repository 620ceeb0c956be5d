"""Records of a study as curves: what proxy, gold and drift did along every run.

Every method of a unit starts from one policy, which is measured once; what *its own*
reward said of that policy stands in the record of the initial one. Gold and proxy are
in deviations of π₀'s samples and relative to the start.
"""

from typing import NamedTuple

import numpy as np

from experiments.objective_mismatch import measures, methods
from rlhf_jax.evaluation import best_of_n, fronts, overoptimization, units
from rlhf_jax.evaluation.axes import KL_INITIAL, REWARD
from rlhf_jax.reporting import evaluations

INITIAL = "initial"  # the method that measures π₀ and the rewards
_START = "mismatch/start/"
_HALVES = ("", "_a", "_b")
_MOST_TIES = 0.75  # of pairs whose order is asked for
_FARTHEST = 30.0  # nats: beyond it estimates of KL are of few samples


class Curve(NamedTuple):
    """A run at its looks, the start first."""

    steps: np.ndarray  # [N] iterations done
    kl: np.ndarray  # [N] nats a sample, exact
    proxy: dict  # {"", "_a", "_b": [N]} of all prompts and of halves, since the start
    gold: dict  # the same
    errors: np.ndarray  # [N] standard errors of gold
    other: dict  # {key: [N]} of every other number, as it was logged

    @property
    def distance(self):
        """√KL, Gao et al.'s d."""
        return np.sqrt(np.maximum(self.kl, 0.0))


class BestOf(NamedTuple):
    """The best of n by a reward, n = 1 first."""

    distance: np.ndarray  # [N] √(log n − (n − 1)/n)
    proxy: np.ndarray  # [N] since n = 1
    gold: dict  # as in `Curve`
    ties: np.ndarray  # [N] share of prompts whose best is tied
    sizes: tuple  # of int, n


def of_records(records):
    """{method: {unit: Curve}} of all that was trained or read off a run."""
    initial, rows, starts = initials(records), {}, {}
    for record in records:
        if REWARD.key in record and record["method"] in methods.METHODS:
            unit = units.of(record)
            rows.setdefault(record["method"], {}).setdefault(unit, []).append(record)
            if evaluations.is_start(record):
                starts[unit] = record
    found = {}
    for method, by_unit in rows.items():
        for unit, looks in by_unit.items():
            if not evaluations.is_start(looks[0]):  # what is read off the end of a run
                looks = [*filter(None, [starts.get(unit)]), *looks]
            if unit in initial and len(looks) > 1:
                curve = _curve(looks, method, initial[unit])
                found.setdefault(method, {})[unit] = curve
    return found


def initials(records):
    """{unit: the record of the initial policy and of the rewards}."""
    return {
        units.of(record): record
        for record in records
        if record["method"] == INITIAL and REWARD.key in record
    }


def best_of(records):
    """{reward: {unit: BestOf}} of every reward that samples were chosen by."""
    found = {name: {} for name in methods.OF_BEST}
    for unit, record in initials(records).items():
        for name, by_unit in found.items():
            if f"mismatch/bon/{name}/1/proxy" in record:
                by_unit[unit] = _best_of(record, name)
    return {name: by_unit for name, by_unit in found.items() if by_unit}


def models(records):
    """{reward model: {unit: {number: value}}}: what is known before anything climbs."""
    found = {}
    for unit, record in initials(records).items():
        for key, value in record.items():
            if key.startswith("mismatch/rm/"):
                name, number = key.split("/", 3)[2:]
                found.setdefault(name, {}).setdefault(unit, {})[number] = value
    return found


def _curve(looks, method, initial):
    reward = methods.reward_of(method)
    start = {
        f"mismatch/{key.removeprefix(_START + reward + '/')}": value
        for key, value in initial.items()
        if key.startswith(f"{_START}{reward}/")
    }
    rows = [{**looks[0], **start}, *looks[1:]]
    keys = {k for row in rows for k, v in row.items() if isinstance(v, int | float)}
    read = {k: np.array([row.get(k, np.nan) for row in rows], float) for k in keys}
    since = {
        axis.key: {h: _since(read[axis.key + h]) for h in _HALVES}
        for axis in (measures.PROXY, measures.GOLD)
    }
    return Curve(
        steps=read["step"],
        kl=read[KL_INITIAL.key] - read[KL_INITIAL.key][0],
        proxy=since[measures.PROXY.key],
        gold=since[measures.GOLD.key],
        errors=read[measures.ERROR.key],
        other=read,
    )


def _since(values):
    """Values since the first one, to the digits that kept results hold."""
    return np.round(values - values[0], 5)


def _best_of(record, name):
    def read(what):
        start = f"mismatch/bon/{name}"
        values = [record[f"{start}/{n}/{what}"] for n in measures.SIZES]
        return np.array(values, float)

    gold = {half: read(f"gold{half}") for half in _HALVES}
    bounds = [best_of_n.kl_bound(n) for n in measures.SIZES]
    return BestOf(
        distance=np.sqrt(np.maximum(bounds, 0.0)),
        proxy=_since(read("proxy")),
        gold={half: _since(values) for half, values in gold.items()},
        ties=read("ties"),
        sizes=measures.SIZES,
    )


# One curve


def chosen(selector, values):
    """What is read of the look that a selector prefers: chosen on one half of the
    prompts and read on the other, both ways. Args: {"_a", "_b": [N]} each."""
    halves = (("_a", "_b"), ("_b", "_a"))
    return float(np.mean([values[b][np.argmax(selector[a])] for a, b in halves]))


def peak(curve):
    """The highest gold since the start, chosen and read on different prompts."""
    return chosen(curve.gold, curve.gold)


def end(curve):
    """Gold at the end."""
    return float(curve.gold[""][-1])


def fall(curve):
    """Gold at its peak minus gold at the end."""
    return peak(curve) - end(curve)


def regret(curve):
    """The gold that is lost by keeping the look of the highest proxy."""
    halves = ([series[h] for h in _HALVES[1:]] for series in (curve.proxy, curve.gold))
    return overoptimization.split_half_regret(*halves)


def rise_after_peak(curve):
    """Proxy at the end minus proxy where gold is highest."""
    return float(curve.proxy[""][-1]) - chosen(curve.gold, curve.proxy)


def accuracy(curve):
    """How often the reward model orders the policy's pairs as gold does, at the looks
    at which a quarter of them differ in gold: a policy that has collapsed may write
    none that do."""
    values, ties = curve.other[measures.ACCURACY.key], curve.other[measures.TIES.key]
    return values[np.isfinite(values) & (ties <= _MOST_TIES)]


def fitted(curve):
    """(√KL, gold since the start) of the looks that a fit may use: KL ≤ 30 nats."""
    keep = (curve.distance > 0) & (curve.distance <= _FARTHEST**0.5)
    return curve.distance[keep], curve.gold[""][keep]


def extrapolated(curve, form):
    """The error of a fit of the lower half of √KL on the upper one; NaN where a half
    holds too little."""
    try:
        return overoptimization.extrapolation(*fitted(curve), form=form).error
    except ValueError:
        return np.nan


# Two curves


def matched(one, other):
    """y − y′ of two curves (x, y) at 25, 50, 75 and 90% of the x that both reach; NaN
    where one never leaves 0."""
    top = min(x.max() for x, _ in (one, other))
    if not top > 0:
        return np.nan
    at, read = np.multiply(fronts.LEVELS, top), []
    for x, y in (one, other):
        order = np.argsort(x)
        read.append(np.interp(at, x[order], y[order]))
    return float(np.mean(read[0] - read[1]))


def gold_at_kl(one, other):
    """Gold of one minus another's at matched KL."""
    return matched((one.kl, one.gold[""]), (other.kl, other.gold[""]))


# Many curves


def of(runs, names):
    """{unit: the curves of these methods}."""
    found = {}
    for name in names:
        for unit, curve in runs.get(name, {}).items():
            found.setdefault(unit, []).append(curve)
    return found


def of_base(runs):
    """Both runs on the model that remedies start from: {unit: curves}."""
    return of(runs, (methods.BASE, methods.REPEATED[methods.BASE]))


def each(by_unit, number):
    """{unit: the mean of a number over its curves}."""
    return {unit: mean(map(number, group)) for unit, group in by_unit.items()}


def gap(runs, one, other, number):
    """{unit: a number of one method's curve minus the other's}."""
    pairs = paired(runs.get(one, {}), runs.get(other, {}))
    return {unit: number(a) - number(b) for unit, (a, b) in pairs.items()}


def paired(one, other):
    """{unit: (its value in one, in the other)} of the units that both have."""
    return {unit: (one[unit], other[unit]) for unit in one if unit in other}


def mean(values):
    """The mean of an iterable."""
    return float(np.mean(list(values)))
