"""Best of n in a report: proxy and gold against √KL, with the form of Gao et al.

Gao, Schulman & Hilton 2022, arXiv:2210.10760: gold gains d·(α − β·d) on the best of 1,
d² = log n − (n − 1)/n nats. Only gold is fitted; the form does not hold of proxies. It
reads methods called best_of_N, of which best_of_1 is the start.
"""

import math
import re

import numpy as np

from rlhf_jax.evaluation import best_of_n, overoptimization, units
from rlhf_jax.reporting import figure_style, markdown, results
from rlhf_jax.reporting.report import PICTURES, Picture
from rlhf_jax.reporting.sections import Section

_NAME = re.compile(r"best_of_(\d+)")
_KEYS = {"proxy": "eval/reward", "gold": "eval/gold"}
_FEWEST = 4  # values of n, without 1: a fit has two parameters


def compute(evidence):
    """What the best of n gains by n, and the fit; None without methods of that kind.

    Of every unit the gain of gold and of the proxy on the best of 1 (on nothing where
    that was not measured), gold in standard deviations of π₀'s samples where those are
    known; the fit of all units' gold together, with intervals that draw units; the fall
    of gold from its best n to the largest one, n chosen on one half of the prompts and
    read on the other; how proxy and gold correlate over the samples of a prompt.
    """
    return gains(evidence.records)


def gains(records):
    """What `compute` returns, of records as in metrics.jsonl."""
    by_unit = _read(records)
    if not by_unit:
        return None
    counts = sorted({n for found in by_unit.values() for n in found})
    looks = {u: [found[n] for n in counts] for u, found in by_unit.items()}
    d = [math.sqrt(best_of_n.kl_bound(n)) for n in counts]
    result = {"n": counts, "d": d, "relative": counts[0] == 1}
    for name in _KEYS:
        if all(name in look for row in looks.values() for look in row):
            gains = {u: _gain(row, name, counts) for u, row in looks.items()}
            result[name] = [
                results.estimate({u: float(g[i]) for u, g in gains.items()})
                for i in range(len(counts))
            ]
            result[f"{name}_by_unit"] = {str(u): g.tolist() for u, g in gains.items()}
    first = {u: row[0] for u, row in looks.items()}
    result["scaled"] = all(look["scaled"] for look in first.values())
    if all(look["correlation"] is not None for look in first.values()):
        result["correlation"] = results.estimate(
            {u: look["correlation"] for u, look in first.items()}
        )
    ties = [[look["ties"] for look in row] for row in looks.values()]
    if None not in sum(ties, []):
        result["ties"] = np.mean(ties, axis=0).tolist()
    if "gold" in result and result["relative"] and len(counts) > _FEWEST:
        gold = np.array(list(result["gold_by_unit"].values()))
        result["fit"] = fit(np.array(d[1:]), gold[:, 1:])
        falls = {u: _fall(row) for u, row in looks.items()}
        result["fall"] = results.estimate(falls)
    return result


def fit(d, gold):
    """{name: numbers} of gold = d·(α − β·d), and of its extrapolation.

    Args: d [N] > 0; gold [U, N], gains of each unit.
    """
    wide = np.broadcast_to(d, gold.shape)
    found = overoptimization.fit_best_of_n(wide.ravel(), gold.ravel())
    spread = overoptimization.interval(wide, gold, form=overoptimization.BEST_OF_N)
    further = overoptimization.extrapolation(
        d, gold.mean(0), form=overoptimization.BEST_OF_N
    )
    names = ("alpha", "beta", "peak", "reward_at_peak")
    return {
        **{name: _finite(getattr(spread, name)._asdict()) for name in names},
        "r2": found.r2,
        "resampled": spread.resampled,
        "units": len(gold),
        "extrapolation": {"error": further.error, "relative": further.relative},
    }


def _read(records):
    """{unit: {n: {"proxy", "gold", their halves, "ties"}}} of final measurements."""
    by_unit = {}
    for record in records:
        match = _NAME.fullmatch(record["method"])
        if match and _KEYS["proxy"] in record:
            look = {"ties": record.get("eval/ties")}
            scale = record.get("mismatch/gold_sd")
            look["correlation"] = record.get("mismatch/correlation")
            look["scaled"] = scale is not None
            for name, key in _KEYS.items():
                for half in ("", "_a", "_b"):
                    if key + half in record:
                        unit = scale if name == "gold" and scale else 1.0
                        look[name + half] = record[key + half] / unit
            by_unit.setdefault(units.of(record), {})[int(match[1])] = look
    return by_unit


def _gain(looks, name, counts):
    values = np.array([look[name] for look in looks])
    return values - values[0] if counts[0] == 1 else values


def _fall(looks):
    """Gold at the best n minus gold at the largest, over both ways of halves."""
    gold = [[look[f"gold{half}"] for look in looks] for half in ("_a", "_b")]
    largest = [range(len(looks))] * 2  # selecting by n keeps the largest
    return overoptimization.split_half_regret(largest, gold)


def _finite(numbers):
    """A peak at infinity as None, which JSON has."""
    return {k: v if math.isfinite(v) else None for k, v in numbers.items()}


def render(found, evidence):
    """The table of n, and what the fit says."""
    if not found:
        return
    yield "## Best of n"
    columns = [name for name in _KEYS if name in found]
    names = [f"{name} gained" if found["relative"] else name for name in columns]
    if found["scaled"]:
        names = [name.replace("gold", "gold (sd)") for name in names]
    header, tied = ["n", "√KL (bound)", *names], found.get("ties")
    rows = [
        [n, markdown.number(found["d"][i])]
        + [markdown.interval(found[name][i]) for name in columns]
        + ([markdown.number(tied[i])] if tied else [])
        for i, n in enumerate(found["n"])
    ]
    yield markdown.table([*header, *["ties"] * bool(tied)], rows)
    yield " ".join(_notes(found, evidence.summary))
    if "fit" in found:
        yield _said(found["fit"], found["fall"], found["d"][-1])


def _notes(found, summary):
    """Sentences below the table."""
    if found["relative"]:
        yield f"On the best of 1; {markdown.brackets(summary)}."
    else:
        yield f"Add best_of_1 to --methods for gains; {markdown.brackets(summary)}."
    if found["scaled"]:
        yield "Gold is in standard deviations of π₀'s samples."
    if "ties" in found:
        yield "Ties: how often the best is not alone."
    if "correlation" in found:
        rho = markdown.interval(found["correlation"])
        yield f"Proxy and gold order the samples of a prompt alike by ρ = {rho}."


def _said(fit, fall, furthest):
    """A sentence on the fit, one on how far to believe it, one on what was seen."""
    texts = {
        name: f"{markdown.number(fit[name]['value'])} "
        f"[{markdown.number(fit[name]['low'])}, {markdown.number(fit[name]['high'])}]"
        for name in ("alpha", "beta", "peak")
    }
    peak = fit["peak"]["value"]
    if peak is None:
        where = "nowhere"
    else:
        inside = "within" if peak <= furthest else "beyond"
        where = f"at d = {texts['peak']}, {inside} what was measured"
    return (
        f"Gold is d·(α − β·d) with α = {texts['alpha']}, β = {texts['beta']} (95% by "
        f"drawing {fit['resampled']}, {markdown.count(fit['units'], 'unit')}), R² "
        f"{fit['r2']:.3f}: it peaks {where}. Fitted to the lower half of d, it misses "
        f"the upper by {markdown.number(fit['extrapolation']['relative'])} of the "
        f"deviation there. From its best n to the largest gold falls by "
        f"{markdown.interval(fall)}, chosen and read on different prompts."
    )


def draw(records, path, report):
    """Writes a panel of the proxy and one of gold with its fit, a thin line a unit."""
    found = gains(records)
    names = [name for name in _KEYS if name in found]
    sheet, grid = figure_style.sheet(1, len(names), width=4.4, height=3.2)
    d, styles = np.array(found["d"]), figure_style.styles()
    for panel, name, style in zip(grid.flat, names, styles, strict=False):
        for values in found[f"{name}_by_unit"].values():
            panel.plot(d, values, color=style["color"], lw=0.8, alpha=0.45)
        mean = [one["mean"] for one in found[name]]
        panel.plot(d, mean, **{**style, "ls": "-"}, lw=1.8, ms=5.5, mec="white")
        if name == "gold" and "fit" in found:
            _curve(panel, found["fit"], d[-1])
        unit = " (sd)" if name == "gold" and found["scaled"] else ""
        heading = f"{name} gained{unit}"
        panel.set_title(heading, loc="left", fontsize=10, fontweight="bold")
        panel.set_xlabel("√KL, d (√nats, bound)", fontsize=8.5, color="#555555")
        _counts(panel, d, found["n"])
    keys = [
        figure_style.key("mean", ls="-", lw=1.8),
        figure_style.key("a unit", ls="-", lw=0.8, alpha=0.45),
    ]
    if "fit" in found:
        keys.append(figure_style.key("d·(α − β·d)", ls=(0, (4, 3)), color="#1A1A1A"))
    title = f"{report.title}: best of n"
    return figure_style.finish(sheet, [keys], path, title, "on the best of 1")


def _curve(panel, fit, furthest):
    d = np.linspace(0, 1.15 * furthest, 100)
    alpha, beta = fit["alpha"]["value"], fit["beta"]["value"]
    style = {"color": "#1A1A1A", "lw": 1.1, "ls": (0, (4, 3))}
    panel.plot(d, d * (alpha - beta * d), **style)


def _counts(panel, d, counts):
    """The values of n along the upper edge."""
    upper = panel.secondary_xaxis("top")
    upper.set_xticks(d, [str(n) for n in counts])
    upper.tick_params(labelsize=7.5, length=2, color="#9A9A9A", pad=1)
    upper.spines["top"].set_visible(False)


def pictures(methods):
    """The pictures of a report on methods, by their names: fronts and curves unless all
    are best of n, which have one measure of drift and no training."""
    ours = [bool(_NAME.fullmatch(name)) for name in methods]
    return (*PICTURES * (not all(ours)), *(PICTURE,) * any(ours))


SECTION = Section("best_of_n", compute, render, after="results")
PICTURE = Picture("Best of n", "best_of_n.png", draw)
