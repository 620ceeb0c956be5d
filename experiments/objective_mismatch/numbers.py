"""The numbers behind the statements, as tables of a report."""

import numpy as np

from experiments.objective_mismatch import curves, measures, methods
from rlhf_jax.evaluation import overoptimization
from rlhf_jax.reporting import markdown, results

_QUALITY = {
    "accuracy": ("right on people's labels (%)", 100.0),
    "gold_accuracy": ("as gold (%)", 100.0),
    "nll": ("NLL", 1.0),
    "nll_scaled": ("at its temperature", 1.0),
    "brier": ("Brier", 1.0),
    "ece": ("ECE (points)", 100.0),
    "ece_scaled": ("at its temperature", 100.0),
    "temperature": ("temperature", 1.0),
    "variance": ("variance within prompts", 1.0),
    "correlation": ("r with gold", 1.0),
    "length_correlation": ("r with length", 1.0),
    "longer": ("right where the chosen is longer (%)", 100.0),
    "shorter": ("shorter (%)", 100.0),
}
_IN_PERCENT = {"accuracy": 100.0, "ties": 100.0}
_BEYOND = 2  # times the distance seen, at most, for a fitted peak to count
_RATED = {k: v for k, (_, v) in {**methods.MODELS, **methods.REWARDS}.items()}
_ALONG = {
    "proxy": "proxy at the end (sd)",
    "peak": "gold at its peak",
    "end": "gold at the end",
    "fall": "lost since the peak",
    "regret": "lost by keeping the best proxy",
    "kl": "KL at the end (nats)",
    "onset": "onset, iteration",
    "accuracy": "RM right on the policy's last pairs (%)",
    "ties": "pairs of equal gold then (%)",
    "parted": "runs with an onset",
}
# Reward models


def quality(models):
    """{reward model: {number: estimate}}, before anything climbs it."""
    return {
        name: {
            number: results.estimate({u: m[number] for u, m in models[name].items()})
            for number in ("parameters", *_QUALITY)
        }
        for name in _RATED
        if name in models
    }


def render_quality(found, evidence):
    """A line a reward model, a column a number."""
    if not found:
        return
    yield "## The reward models, before anything climbs them"
    yield (
        "On 512 pairs of π₀'s samples that people labelled and no model learned from, "
        f"and on π₀'s samples; {markdown.brackets(evidence.summary)}."
    )
    body = [
        [
            _RATED[name],
            markdown.integer(one["parameters"]["mean"]),
            *(markdown.interval(one[k], s) for k, (_, s) in _QUALITY.items()),
        ]
        for name, one in found.items()
    ]
    titles = [title for title, _ in _QUALITY.values()]
    yield markdown.table(["", "parameters", *titles], body)


# Curves


def along(runs):
    """{method: {number: estimate}} of how proxy and gold went."""
    return {
        method: {
            name: results.estimate({u: read(c) for u, c in by_unit.items()})
            for name, read in _READ.items()
        }
        for method, by_unit in runs.items()
        if by_unit
    }


def onset(curve):
    """The iteration after which gold falls while proxy rises: by two standard errors
    for two looks (`overoptimization.onset`), the peak found on one half of the prompts
    and the fall on the other. The mean of both ways; None unless both find it."""
    if len(curve.steps) < 3:
        return None
    errors = curve.errors * 2**0.5  # of half the prompts
    found = [
        overoptimization.onset(
            curve.steps, curve.proxy[""], curve.gold[read],
            errors=errors, peak_by=curve.gold[picked],
        )
        for picked, read in (("_a", "_b"), ("_b", "_a"))
    ]  # fmt: skip
    return None if None in found else float(np.mean(found))


def _onset_or_nan(curve):
    found = onset(curve)
    return np.nan if found is None else found


_READ = {
    "proxy": lambda curve: float(curve.proxy[""][-1]),
    "peak": curves.peak,
    "end": curves.end,
    "fall": curves.fall,
    "regret": curves.regret,
    "kl": lambda curve: float(curve.kl[-1]),
    "onset": _onset_or_nan,
    "accuracy": lambda curve: float(curves.accuracy(curve)[-1]),
    "ties": lambda curve: float(curve.other[measures.TIES.key][-1]),
    "parted": lambda curve: float(onset(curve) is not None),
}


def render_along(found, evidence):
    """A line a method, a column a number."""
    if not found:
        return
    yield "## Proxy and gold along every run"
    yield (
        "Since the start, in deviations of π₀'s samples; each method's proxy is the "
        "reward that it climbs. A peak is chosen on one half of the prompts and read "
        f"on the other; {markdown.brackets(evidence.summary)}. The onset is where gold "
        "falls, by two standard errors and for two looks, while proxy rises; its mean "
        "is over the runs that have one. Pairs are two samples of the policy on one "
        "prompt, weighted to the gold margins of π₀'s pairs, at the last look at which "
        "a quarter of them differ in gold."
    )
    body = []
    for method, one in found.items():
        cells = [_or_none(one[k], _IN_PERCENT.get(k, 1.0)) for k in _ALONG]
        cells[-1] = f"{100 * one['parted']['mean']:.0f}%"
        body.append([methods.LABELS[method], *cells])
    yield markdown.table(["method", *_ALONG.values()], body)


def fits(runs, best):
    """{what: numbers} of Gao et al.'s forms, a fit of each unit."""
    rl, bon = overoptimization.RL, overoptimization.BEST_OF_N
    found = {}
    for name in (*methods.MODELS, "mean", "worst", "uncertainty", *methods.ALGORITHMS):
        if runs.get(name):
            label = methods.LABELS[name]
            found[name] = {"label": label, **_fit(runs[name], rl, bon)}
    for name, by_unit in best.items():
        label = f"best-of-n, {methods.OF_BEST[name][1]}"
        found[f"best_of/{name}"] = {"label": label, **_fit(by_unit, bon, rl)}
    return found


def _fit(by_unit, form, other):
    """Estimates of one form's coefficients, and both forms' errors."""
    fit = {rl: getattr(overoptimization, f"fit_{rl}") for rl in (form, other)}
    made = {unit: fit[form](*curves.fitted(c)) for unit, c in by_unit.items()}
    read = {
        "alpha": {u: one.alpha for u, one in made.items()},
        "beta": {u: one.beta for u, one in made.items()},
        "r2": {u: one.r2 for u, one in made.items()},
        "peak": {u: _seen(one, by_unit[u]).peak for u, one in made.items()},
        "reward_at_peak": {
            u: _seen(one, by_unit[u]).reward_at_peak for u, one in made.items()
        },
        "error": {u: curves.extrapolated(c, form) for u, c in by_unit.items()},
        "other_error": {u: curves.extrapolated(c, other) for u, c in by_unit.items()},
    }
    numbers = {k: results.estimate(by) for k, by in read.items()}
    return {"form": form, **numbers}


def _seen(fit, curve):
    """A fit, its peak infinite where it lies far beyond what was seen."""
    if fit.peak <= _BEYOND * curve.distance.max():
        return fit
    return fit._replace(peak=np.inf, reward_at_peak=np.inf)


def render_fits(found, evidence):
    """A line a curve."""
    if not found:
        return
    yield "## Gao et al.'s forms"
    yield (
        "R(d) = d(α − β log d) for RL and d(α − βd) for best-of-n, d = √KL, by least "
        "squares within each unit, KL ≤ 30 nats. The error is that of a fit of the "
        "lower half of the range on the upper one, beside that of the other form; "
        f"{markdown.brackets(evidence.summary)}. A fit without a decline, or with a "
        f"peak beyond {_BEYOND} times the distance seen, is left out of the means of "
        "d* and R*."
    )
    header = ("α", "β", "R²", "d*", "R*", "error (sd)", "other form's")
    names = ("alpha", "beta", "r2", "peak", "reward_at_peak", "error", "other_error")
    body = [
        [one["label"], *(_some(one[name]) for name in names)] for one in found.values()
    ]
    yield markdown.table(["curve", *header], body)


def _some(estimate):
    """An estimate whose units may lack it: how many do is said in words."""
    missing = estimate.get("missing", 0)
    return f"{_or_none(estimate)}{f', {missing} without' * bool(missing)}"


def _or_none(estimate, scale=1.0):
    """An estimate of the units that have it; "none" where no unit has."""
    if estimate["mean"] is None:
        return "none"
    return markdown.interval({**estimate, "missing": 0}, scale)


def best_of(best):
    """{reward: {"gold": [estimate an n], "proxy", "ties"}}."""
    found = {}
    for name, by_unit in best.items():
        read = {
            "gold": {u: c.gold[""] for u, c in by_unit.items()},
            "proxy": {u: c.proxy for u, c in by_unit.items()},
            "ties": {u: c.ties for u, c in by_unit.items()},
        }
        found[name] = {
            what: [
                results.estimate({u: values[i] for u, values in by.items()})
                for i in range(len(measures.SIZES))
            ]
            for what, by in read.items()
        }
    return found


def render_best_of(found, evidence):
    """Gold of the best of n, a column an n."""
    if not found:
        return
    yield "## Best of n"
    yield (
        "Gold of the best of n samples of π₀ by each reward, minus that of one sample, "
        f"in sd ({markdown.brackets(evidence.summary)}), and the proxy's gain and the "
        "share of prompts with a tie at the largest n."
    )
    shown = [i for i, n in enumerate(measures.SIZES) if n > 1]
    header = [f"n = {measures.SIZES[i]}" for i in shown]
    body = []
    for name, one in found.items():
        cells = [markdown.interval(one["gold"][i]) for i in shown]
        ends = (
            markdown.interval(one["proxy"][-1]),
            f"{100 * one['ties'][-1]['mean']:.1f}%",
        )
        body.append([methods.OF_BEST[name][1], *cells, *ends])
    yield markdown.table(["chosen by", *header, "proxy", "ties"], body)
