"""Where proxy and gold part, who orders whom, and how sure reward models are."""

import functools

import numpy as np

from experiments.objective_mismatch import curves, measures, methods, ranking
from rlhf_jax.evaluation import overoptimization
from rlhf_jax.reporting import figure_style, markdown
from rlhf_jax.reporting.report import PICTURES, Picture

_SHOWN = 5  # reward models in the picture of curves
_GRID = np.linspace(0.0, 1.0, 60)[1:]
_SCATTERED = ("accuracy", "variance", "best_of", "proxy")


def of_records(records):
    """The pictures of a report about all rows of a study."""
    runs, best = curves.of_records(records), curves.best_of(records)
    models, found = curves.models(records), [*PICTURES]
    if any(runs.get(name) for name in methods.MODELS):
        draw = functools.partial(_parting, runs, best)
        found.insert(0, Picture("Proxy and gold part", "parting.png", draw))
    rows = ranking.table(runs, best, models)
    if rows:
        draw = functools.partial(_ranking, rows)
        found.append(Picture("Which number orders policies?", "ranking.png", draw))
    if models:
        draw = functools.partial(_reliability, models)
        found.append(Picture("How sure is a reward model?", "reliability.png", draw))
    return tuple(found)


def _worlds(by_unit):
    return markdown.count(len({unit.world for unit in by_unit}), "world")


# Proxy and gold against √KL


def _parting(runs, best, records, path, report):
    """Dashed the proxy, solid gold, thin Gao et al.'s form; RL and best-of-n."""
    names = [name for name in methods.MODELS if runs.get(name)][:_SHOWN]
    control = ["gold"] if runs.get("gold") else []
    columns = 2 if best else 1
    sheet, (panels,) = figure_style.sheet(1, columns, width=6.0, height=4.2)
    styles = dict(zip([*names, *control], figure_style.styles(), strict=False))
    for name in (*names, *control):
        both = (name, methods.REPEATED.get(name, name))
        every = [c for group in curves.of(runs, both).values() for c in group]
        _mean_curve(panels[0], every, styles[name], overoptimization.RL)
        picked = list(best.get(name, {}).values())
        if picked:
            _mean_curve(panels[1], picked, styles[name], overoptimization.BEST_OF_N)
    titles = ("PPO without a penalty", "best of n samples of π₀")
    for panel, title in zip(panels, titles, strict=False):
        panel.set_title(title, fontsize=10, loc="left")
        panel.set_xlabel("distance from the initial policy, √KL  (√nats)")
        panel.axhline(0.0, color=figure_style.MUTED, lw=0.8, zorder=1)
    panels[0].set_ylabel("gained  (sd of initial samples)")
    keys = [
        figure_style.key("gold", ls="-", lw=2.2),
        figure_style.key("the proxy that is climbed", ls="--", lw=1.4),
        figure_style.key("Gao et al.'s form", ls="-", lw=0.8),
    ]
    labels = {k: v for k, (_, v) in methods.OF_BEST.items()} | {"gold": "gold itself"}
    groups = [_entries(styles, labels), keys]
    return figure_style.finish(
        sheet,
        groups,
        path,
        "Proxy and gold part",
        f"means over {_worlds(runs[names[0]])}",
    )


def _entries(styles, labels):
    return [
        figure_style.key(
            labels[name],
            color=style["color"],
            marker=style["marker"],
            ms=6,
            mec="white",
        )
        for name, style in styles.items()
    ]


def _mean_curve(panel, every, style, form):
    """Means look by look, of runs that were looked at alike."""
    d = np.mean([c.distance for c in every], axis=0)
    gold = np.mean([_gold(c) for c in every], axis=0)
    proxy = np.mean([_proxy(c) for c in every], axis=0)
    color = style["color"]
    panel.plot(d, proxy, ls="--", lw=1.4, color=color, alpha=0.75, zorder=3)
    dots = {"marker": style["marker"], "ms": 5.5, "mec": "white", "mew": 0.6}
    panel.plot(d, gold, ls="-", lw=2.2, color=color, zorder=5, **dots)
    keep = (d > 0) & (d <= 30**0.5)
    if np.unique(d[keep]).size > 2:
        fit = getattr(overoptimization, f"fit_{form}")(d[keep], gold[keep])
        at = _GRID * d.max()
        panel.plot(at, fit.predict(at), lw=0.8, color=color, alpha=0.6, zorder=4)


def _gold(curve):
    return curve.gold[""]


def _proxy(curve):
    return curve.proxy[""] if isinstance(curve.proxy, dict) else curve.proxy


# Rankings


def _ranking(rows, records, path, report):
    """A dot a reward model and world: a number of the model against final gold, both
    as deviations from the mean of their world."""
    sheet, (panels,) = figure_style.sheet(1, len(_SCATTERED), width=3.4, height=3.3)
    names = list(methods.MODELS)
    styles = dict(zip(names, figure_style.styles(), strict=False))
    taus = ranking.taus(rows)
    ceiling = np.mean(list(taus[ranking.CEILING].values()))
    for panel, number in zip(panels, _SCATTERED, strict=True):
        for by_model in rows.values():
            x = _centred([by_model[name][number] for name in names])
            y = _centred([np.mean(by_model[name]["gold"]) for name in names])
            for name, one, other in zip(names, x, y, strict=True):
                style = {k: styles[name][k] for k in ("color", "marker")}
                panel.plot(one, other, ls="", ms=5, alpha=0.75, mew=0, **style)
        tau = np.mean(list(taus[number].values()))
        title = f"τ = {tau:.2f}, a second run {ceiling:.2f}"
        panel.set_title(title, fontsize=9, loc="left")
        panel.set_xlabel(ranking.NUMBERS[number], fontsize=8.5)
    panels[0].set_ylabel("final gold, minus its world's mean  (sd)")
    labels = {name: label for name, (_, label) in methods.MODELS.items()}
    return figure_style.finish(
        sheet, [_entries(styles, labels)], path,
        "Which number of a reward model orders its policies?", _worlds(rows),
    )  # fmt: skip


def _centred(values):
    values = np.asarray(values, float)
    kept = values[np.isfinite(values)]
    return values - (kept.mean() if kept.size else 0.0)


# Calibration


def _reliability(models, records, path, report):
    """How often a model is right where it is so sure, of all worlds together."""
    names = [name for name in methods.MODELS if name in models]
    sheet, (panels,) = figure_style.sheet(1, 2, width=5.2, height=4.0)
    styles = dict(zip(names, figure_style.styles(), strict=False))
    panels[0].plot([0.5, 1], [0.5, 1], color=figure_style.MUTED, lw=1, zorder=1)
    for name in names:
        confidence, accuracy = _bins(models[name].values())
        style = {**styles[name], "ls": "-"}
        panels[0].plot(confidence, accuracy, ms=5, mec="white", lw=1.4, **style)
    panels[0].set_xlabel("confidence of the reward model, max(p, 1 − p)")
    panels[0].set_ylabel("share of pairs that it orders as people did")
    for key, hollow in (("nll", False), ("nll_scaled", True)):
        for place, name in enumerate(reversed(names)):
            value = np.mean([one[key] for one in models[name].values()])
            style = {k: styles[name][k] for k in ("color", "marker")}
            face = {"mfc": "white"} if hollow else {}
            panels[1].plot(value, place, ls="", ms=7, **style, **face)
    panels[1].axvline(np.log(2), color=figure_style.MUTED, lw=1, ls=":", zorder=1)
    panels[1].set_yticks(range(len(names)))
    ticks = [methods.MODELS[name][1] for name in reversed(names)]
    panels[1].set_yticklabels(ticks, fontsize=8.5)
    panels[1].set_xlabel("NLL of people's labels  (nats; dotted: a coin's log 2)")
    keys = [
        figure_style.key("as trained", marker="o", ms=7),
        figure_style.key("at its temperature", marker="o", ms=7, mfc="white"),
    ]
    labels = {name: label for name, (_, label) in methods.MODELS.items()}
    groups = [_entries(styles, labels), keys]
    note = _worlds(next(iter(models.values())))
    return figure_style.finish(sheet, groups, path, "How sure is a reward model?", note)


def _bins(known):
    """(confidence, accuracy) of each bin, of all units together."""
    known, found = list(known), []
    for i in range(measures.BINS):
        counts = np.array([one[f"bin{i}/count"] for one in known])
        if counts.sum():
            found.append(
                [
                    np.average([one[f"bin{i}/{k}"] for one in known], weights=counts)
                    for k in ("confidence", "accuracy")
                ]
            )
    return np.array(found).T
