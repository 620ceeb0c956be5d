"""Rankings of reward models, correlations along runs, and remedies, as tables."""

import functools

import numpy as np

from experiments.objective_mismatch import curves, measures, methods, ranking
from rlhf_jax.evaluation import correlation
from rlhf_jax.evaluation.axes import KL_INITIAL, LENGTH, REWARD, SKILLS, TEXT_NLL
from rlhf_jax.reporting import markdown, results

_AGAINST = {  # what more reward should go with, and its sign
    measures.GOLD.key: "gold",
    SKILLS.key: "skills",
    TEXT_NLL.key: "likelihood of human text",
    "eval/distinct_2": "distinct bigrams",
    LENGTH.key: "length",
    measures.ACCURACY.key: "the RM's accuracy on the policy's pairs",
}
_FEWER_IS_BETTER = (TEXT_NLL.key,)


def ranked(runs, best, models):
    """{number: estimate of τ}, the ceiling first, with the rows that it was made of."""
    rows = ranking.table(runs, best, models)
    if not rows:
        return {}
    taus = {
        outcome: {
            name: results.estimate(by_unit)
            for name, by_unit in ranking.taus(rows, outcome).items()
        }
        for outcome in ("gold", "peak")
    }
    return {"tau": taus, "rows": {str(unit): by for unit, by in rows.items()}}


def render_ranked(found, evidence):
    """A line a number."""
    if not found:
        return
    yield "## Which number of a reward model orders its policies?"
    yield (
        f"Kendall's τ_b over the {len(methods.MODELS)} reward models of a world with "
        "the final gold of one run on each (the mean of two runs); "
        f"{markdown.brackets(evidence.summary)}. The ceiling is τ_b of the two runs: "
        "no number can be asked for more. Beside it the same with gold at its peak, "
        "which was not declared and is not judged. γ is made of the run's own gold."
    )
    titles = {ranking.CEILING: "**ceiling: a second run**", **ranking.NUMBERS}
    final, peak = found["tau"]["gold"], found["tau"]["peak"]
    body = [
        [titles[k], markdown.interval(final[k]), markdown.interval(peak[k])]
        for k in final
    ]
    yield markdown.table(["ordered by", "τ, final gold", "τ, gold at its peak"], body)


def correlations(runs):
    """{what: Fisher means of Spearman's ρ with proxy}, levels and first differences,
    before and after gold's peak."""
    every = [c for name in methods.MODELS for c in runs.get(name, {}).values()]
    found = {}
    for key, title in _AGAINST.items():
        some = [c for c in every if key in c.other]
        if some:
            sign = -1.0 if key in _FEWER_IS_BETTER else 1.0
            found[title] = {
                name: _fisher([read(c.proxy[""], sign * c.other[key], c) for c in some])
                for name, read in _CORRELATED.items()
            }
    return found


def _fisher(values):
    made = correlation.fisher_mean(values)
    return {**made._asdict(), "missing": 0, "lost": made.missing}


def _before(x, y, curve, *, after=False):
    at = int(np.argmax(curve.gold[""]))
    part = slice(at, None) if after else slice(None, at + 1)
    return correlation.spearman(x[part], y[part]).value


_CORRELATED = {
    "levels": lambda x, y, c: correlation.spearman(x, y).value,
    "differences": lambda x, y, c: correlation.spearman(x, y, differences=True).value,
    "before": _before,
    "after": functools.partial(_before, after=True),
}


def render_correlations(found, evidence):
    """A line an evaluation."""
    del evidence
    if not found:
        return
    yield "## What goes with the proxy along a run"
    yield (
        "Spearman's ρ with the run's own proxy over its looks, the Fisher-z mean over "
        "runs on every reward model with a t-interval over runs (several to a world, "
        "so it is a little narrow): of levels, of first differences, and of levels "
        "before and after gold's peak. Two series that both rise correlate whatever "
        "they are: the differences are the honest column. Positive is as one would "
        "wish, length apart."
    )
    header = ("levels", "first differences", "up to gold's peak", "after it", "runs")
    body = [
        [
            title,
            *(_correlation(one[name]) for name in _CORRELATED),
            one["levels"]["runs"],
        ]
        for title, one in found.items()
    ]
    yield markdown.table(["", *header], body)


def _correlation(one):
    return markdown.interval(one) if one["runs"] else "–"


# Remedies


def remedies(runs):
    """{remedy: {number: estimate}}, differences to the base model's run besides."""
    found = {}
    for name in (methods.BASE, *methods.REMEDIES):
        by_unit, pairs = runs.get(name, {}), {}
        pairs = curves.paired(by_unit, runs.get(methods.BASE, {}))
        if not pairs:
            continue
        read = {
            "end": {u: curves.end(c) for u, c in by_unit.items()},
            "peak": {u: curves.peak(c) for u, c in by_unit.items()},
            "regret": {u: _lost(*pair) for u, pair in pairs.items()},
            "at_proxy": {u: _at_reference(*pair) for u, pair in pairs.items()},
            **{
                key: {u: _change(c, key) for u, c in by_unit.items()}
                for key in (KL_INITIAL.key, TEXT_NLL.key, SKILLS.key)
            },
        }
        found[name] = {k: results.estimate(by) for k, by in read.items()}
    return found


def _lost(one, base):
    """What the look of the highest proxy falls short of the best; of a policy that was
    picked once, what it falls short of the best look at the base run."""
    picked = len(one.steps) < 3
    return curves.peak(base) - curves.end(one) if picked else curves.regret(one)


def _at_reference(one, base):
    """Gold minus that of the base run where both have the same reward of the base
    model, at 25 to 90% of what both reach; NaN where one has a single look."""
    if min(len(one.steps), len(base.steps)) < 3:
        return np.nan
    proxies = [c.other[REWARD.key] - c.other[REWARD.key][0] for c in (one, base)]
    pairs = zip(proxies, (one, base), strict=True)
    return curves.matched(*((proxy, c.gold[""]) for proxy, c in pairs))


def _change(curve, key):
    return float(curve.other[key][-1] - curve.other[key][0])


def render_remedies(found, evidence):
    """A line a remedy."""
    if len(found) < 2:
        return
    yield "## Remedies"
    yield (
        "Gold and rewards in sd since the start. *At matched proxy*: gold minus that "
        "of PPO on one model, where both have earned the same reward of that model; "
        f"{markdown.brackets(evidence.summary)}."
    )
    columns = {
        "end": ("gold at the end", 1.0),
        "peak": ("gold at its peak", 1.0),
        "regret": ("lost by keeping the best proxy", 1.0),
        "at_proxy": ("gold at matched proxy", 1.0),
        KL_INITIAL.key: ("KL (nats)", 1.0),
        TEXT_NLL.key: ("human-text NLL", 1.0),
        SKILLS.key: ("skills (points)", 100.0),
    }
    body = [
        [methods.LABELS[name], *(_cell(one[k], s) for k, (_, s) in columns.items())]
        for name, one in found.items()
    ]
    yield markdown.table(["", *(title for title, _ in columns.values())], body)


def _cell(estimate, scale):
    if estimate["mean"] is None:
        return "–"
    return markdown.interval({**estimate, "missing": 0}, scale)
