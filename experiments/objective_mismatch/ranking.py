"""Which number of a reward model orders the policies that climb it?

Published answers conflict: moderate accuracy is best (Chen et al. 2024,
arXiv:2410.06554), accuracy helps weakly (Wen et al. 2024, arXiv:2410.05584), variance
under the initial policy matters beside it (Razin et al. 2025, arXiv:2503.15477). Any
number orders noisy outcomes imperfectly, so the ceiling is measured: how well a second
run on the same models, under another sampling key, orders the first.
"""

import numpy as np

from experiments.objective_mismatch import curves, methods
from rlhf_jax.evaluation import correlation, overoptimization

CEILING = "ceiling"
NUMBERS = {
    "accuracy": "validation accuracy",
    "gold_accuracy": "accuracy by gold",
    "calibration": "calibration, −NLL",
    "variance": "reward variance of π₀ (Razin et al.)",
    "best_of": "gold of the best of 64",
    "gap": "−γ of Kim et al., along the run",
    "proxy": "final proxy reward",
}
ALONG = "gap", "proxy"  # numbers of a run, which its model alone does not tell
_N = 64
_LAST = 1e9  # a γ that only its rank is read of


def table(runs, best, models):
    """{unit: {model: {number: value, "gold" and "peak": of both runs}}}.

    Units on which every model was climbed twice. Args: as `curves` reads them.
    """
    names = [name for pair in methods.REPEATED.items() for name in pair]
    if not all(name in runs for name in names):
        return {}
    units = set.intersection(*(set(runs[name]) for name in names))
    return {
        unit: {name: _row(name, unit, runs, best, models) for name in methods.MODELS}
        for unit in sorted(units)
    }


def taus(rows, outcome="gold"):
    """{number or "ceiling": {unit: τ_b with the final gold of one run}}.

    Kendall's τ_b over the reward models of a unit, the mean of both runs; the ceiling
    is τ_b of the two runs with each other. Args: rows: of `table`; outcome: "gold", at
    the end, or "peak".
    """
    found = {name: {} for name in (CEILING, *NUMBERS)}
    for unit, by_model in rows.items():
        golds = np.array([row[outcome] for row in by_model.values()]).T  # [2, models]
        found[CEILING][unit] = correlation.kendall(*golds).value
        for name in NUMBERS:
            values = [row[name] for row in by_model.values()]
            both = [correlation.kendall(values, gold).value for gold in golds]
            found[name][unit] = float(np.mean(both))
    return {name: by_unit for name, by_unit in found.items() if by_unit}


def shortfalls(rows):
    """{number: {unit: ceiling − τ}}: what a number lacks to order as a second run."""
    found = taus(rows)
    ceiling = found.pop(CEILING, {})
    return {
        name: {unit: ceiling[unit] - tau for unit, tau in by_unit.items()}
        for name, by_unit in found.items()
    }


def _row(name, unit, runs, best, models):
    both = [runs[name][unit], runs[methods.REPEATED[name]][unit]]
    known, picked = models[name][unit], best[name][unit]
    return {
        "accuracy": known["accuracy"],
        "gold_accuracy": known["gold_accuracy"],
        "calibration": -known["nll"],
        "variance": known["variance"],
        "best_of": float(picked.gold[""][picked.sizes.index(_N)]),
        "gap": -curves.mean(map(_gap, both)),
        "proxy": curves.mean(curve.proxy[""][-1] for curve in both),
        "gold": [curves.end(curve) for curve in both],
        "peak": [curves.peak(curve) for curve in both],
    }


def _gap(curve):
    """γ = ∫|gold − proxy| dKL / ∫|gold| dKL along a run (arXiv:2505.12763)."""
    order = np.argsort(curve.kl)
    series = curve.gold[""][order], curve.proxy[""][order], curve.kl[order]
    try:
        return overoptimization.proxy_gap(*series)
    except ValueError:  # gold gains nothing over the range: the last of all
        return _LAST
