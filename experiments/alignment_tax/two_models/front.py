"""front.png: what two models and those made of them score, against what they gained."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from matplotlib import patheffects

from experiments.alignment_tax.two_models import merges
from rlhf_jax.reporting import figure_style

TITLES = {
    "reward": "reward",
    "kl": "KL(model ‖ before)  (nats a sample)",
    "weight": "weight on the aligned model; of merges, density",
}
_CORNERS = {"reward": "↗ better", "kl": "↖ better", "weight": "↑ better"}
_LOWER = {"reward": "↘ better", "kl": "↙ better", "weight": "↓ better"}
_ENDS = {
    "before": {"marker": "*", "ms": 14, "color": "#1A1A1A"},
    "after": {"marker": "D", "ms": 8, "color": "#1A1A1A"},
}
_RING = {"marker": "o", "ms": 12, "mfc": "none", "mec": "#1A1A1A", "mew": 1.2}
_BAR = {"color": "#9A9A9A", "lw": 3.5, "alpha": 0.55, "solid_capstyle": "butt"}
_NUMBERED = (2, 5, 8)  # tenths: the weights of MA that are written beside it
_COLUMNS = 3


class _Panel(NamedTuple):
    """What a panel shows of every model."""

    title: str
    value: Callable  # an entry of results["points"] -> y
    change: Mapping  # from "before" to "after": low, high
    corners: Mapping  # {x axis: where it is better}
    unit: str = "score  (%)"


def draw(results, path):
    """One panel of all questions, one a suite, one of human text where it was read;
    returns the path."""
    found = panels(results)
    columns = min(len(found), _COLUMNS)
    rows = math.ceil(len(found) / columns)
    width, height = (6.4, 4.6) if columns == 1 else (4.2, 3.5)
    sheet, grid = figure_style.sheet(rows, columns, width=width, height=height)
    for panel, shown in zip(grid.flat, found, strict=False):
        _draw(panel, results, shown)
        _labels(panel, results, shown)
    for panel in grid.flat[len(found) :]:
        panel.set_visible(False)
    for panel in grid[-1]:
        panel.set_xlabel(TITLES[results["axis"]], fontsize=9)
    if len(found) % columns:  # panels above an empty place are the last of theirs
        for panel in grid[-2, len(found) % columns :]:
            panel.set_xlabel(TITLES[results["axis"]], fontsize=9)
    title = "What alignment cost, and what averaging returns"
    groups = [_handles(results), _keys(results)]
    return figure_style.finish(sheet, groups, path, title, "")


def panels(results):
    """[`_Panel`]: all questions, where there are several suites, suites, human text."""
    found = []
    if len(results["lost"]) > 1:
        both = results["together"]
        found.append(_Panel("all questions", lambda p: p["together"], both, _CORNERS))
    for name, row in results["lost"].items():
        title = name + "  (lost significantly)" * row["taxed"]
        found.append(_Panel(title, lambda p, k=name: p["scores"][k], row, _CORNERS))
    if results["text"] is not None:
        text = results["text"], _LOWER, "nats / token"
        found.append(_Panel("NLL of human text", lambda p: p["text_nll"], *text))
    return found


def _keys(results):
    """Legend entries of what is no line."""
    keys = [
        figure_style.key(f"{name} alignment", mec="white", **style)
        for name, style in _ENDS.items()
    ]
    keys.append(figure_style.key("95% interval of the change", ls="-", **_BAR))
    if any(p["family"] == "ma" for p in results["points"]):
        text = "weight of MA"
        keys.append(figure_style.key(text, marker="$0.8$", ms=11, mew=0.2))
    if results["advice"]["point"] is not None:
        keys.append(figure_style.key("advised", **_RING))
    return keys


def _draw(panel, results, shown):
    ends = results["points"][:2]
    for name, style in _styles(results).items():
        points = [p for p in results["points"] if p["family"] == name]
        points.sort(key=lambda p: p["weight"])
        line = {"color": style["color"], "lw": 1.6, "alpha": 0.9, "zorder": 3}
        path = points
        if name in ("ma", "hma"):
            path = [ends[0], *points, ends[1]]
        if name == "beyond":
            path, line["ls"] = [ends[1], *points], (0, (1.5, 1.5))
        panel.plot(*_xy(results, path, shown), **line)
        marks = {"marker": style["marker"], "ls": "", "color": style["color"]}
        panel.plot(*_xy(results, points, shown), **marks, ms=5, mec="white", zorder=4)
        if name == "ma":
            _number(panel, results, points, shown)
    for end, style in zip(ends, _ENDS.values(), strict=True):
        x, y = _xy(results, [end], shown)
        panel.plot(x, y, ls="", mec="white", mew=0.9, zorder=6, **style)
    advised = [p for p in results["points"] if p["name"] == results["advice"]["point"]]
    panel.plot(*_xy(results, advised, shown), zorder=7, ls="", **_RING)
    _interval(panel, results, shown)
    panel.margins(x=0.08, y=0.12)


def _number(panel, results, points, shown):
    """The weights of some points, below them."""
    outline = [patheffects.withStroke(linewidth=2.2, foreground="white")]
    for point in points:
        if round(10 * point["weight"], 6) in _NUMBERED:
            ((x,), (y,)) = _xy(results, [point], shown)
            panel.annotate(
                f"{point['weight']:g}", (x, y), (-2, -6), textcoords="offset points",
                ha="right", va="top", fontsize=7, color=figure_style.COLORS[0],
                path_effects=outline, zorder=5,
            )  # fmt: skip


def _interval(panel, results, shown):
    """The interval of what was lost, at the aligned model."""
    before, after = results["points"][:2]
    ((x,), (start,)) = _xy(results, [before], shown)
    ((x,), _) = _xy(results, [after], shown)
    ends = [start + shown.change["low"], start + shown.change["high"]]
    panel.plot([x, x], ends, ls="-", zorder=1, **_BAR)


def _xy(results, points, shown):
    """(x, y) lists of some points in a panel."""
    return [p[results["axis"]] for p in points], [shown.value(p) for p in points]


def _labels(panel, results, shown):
    if "%" in shown.unit:
        panel.yaxis.set_major_formatter(figure_style.PERCENT)
    panel.set_ylabel(shown.unit, fontsize=9)
    panel.set_title(shown.title, loc="left", fontsize=9.5, fontweight="bold", pad=14)
    style = {"fontsize": 8, "color": figure_style.MUTED, "style": "italic"}
    text = shown.corners[results["axis"]]
    panel.text(0.0, 1.015, text, transform=panel.transAxes, **style)


def _styles(results):
    """{family: colour and marker} of those that were measured, always the same."""
    styles = dict(zip(merges.FAMILIES, figure_style.styles(), strict=False))
    styles["beyond"] = {**styles["beyond"], "color": styles["ma"]["color"]}
    used = {p["family"] for p in results["points"]}
    return {name: style for name, style in styles.items() if name in used}


def _handles(results):
    return [
        figure_style.key(
            merges.FAMILIES[name].label,
            color=style["color"], marker=style["marker"], ms=6, mec="white", lw=1.8,
            ls=(0, (1.5, 1.5)) if name == "beyond" else "-",
        )
        for name, style in _styles(results).items()
    ]  # fmt: skip
