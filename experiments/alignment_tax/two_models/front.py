"""front.png: what two models and those made of them score, against what they gained."""

import math

from matplotlib import patheffects

from experiments.alignment_tax.two_models import merges
from rlhf_jax.reporting import figure_style

TITLES = {
    "reward": "reward",
    "kl": "KL(model ‖ before)  (nats a sample)",
    "weight": "weight on the aligned model; of merges, density",
}
_CORNERS = {"reward": "↗ better", "kl": "↖ better", "weight": "↑ better"}
_ENDS = {
    "before": {"marker": "*", "ms": 14, "color": "#1A1A1A"},
    "after": {"marker": "D", "ms": 8, "color": "#1A1A1A"},
}
_RING = {"marker": "o", "ms": 12, "mfc": "none", "mec": "#1A1A1A", "mew": 1.2}
_BAR = {"color": "#9A9A9A", "lw": 3.5, "alpha": 0.55, "solid_capstyle": "butt"}
_NUMBERED = (2, 5, 8)  # tenths: the weights of MA that are written beside it
_COLUMNS = 3


def draw(results, path):
    """One panel a suite and one of all questions; returns the path."""
    panels = [("all questions", None), *((name, name) for name in results["lost"])]
    if len(results["lost"]) == 1:
        panels = panels[1:]
    columns = min(len(panels), _COLUMNS)
    rows = math.ceil(len(panels) / columns)
    width, height = (6.4, 4.6) if columns == 1 else (4.2, 3.5)
    sheet, grid = figure_style.sheet(rows, columns, width=width, height=height)
    for panel, (title, suite) in zip(grid.flat, panels, strict=False):
        _panel(panel, results, suite)
        _labels(panel, results, title, suite)
    for panel in grid.flat[len(panels) :]:
        panel.set_visible(False)
    for panel in grid[-1]:
        panel.set_xlabel(TITLES[results["axis"]], fontsize=9)
    if len(panels) % columns:  # panels above an empty place are the last of theirs
        for panel in grid[-2, len(panels) % columns :]:
            panel.set_xlabel(TITLES[results["axis"]], fontsize=9)
    title = "What alignment cost, and what averaging returns"
    groups = [_handles(results), _keys(results)]
    return figure_style.finish(sheet, groups, path, title, "")


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


def _panel(panel, results, suite):
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
        panel.plot(*_xy(results, path, suite), **line)
        marks = {"marker": style["marker"], "ls": "", "color": style["color"]}
        panel.plot(*_xy(results, points, suite), **marks, ms=5, mec="white", zorder=4)
        if name == "ma":
            _number(panel, results, points, suite)
    for end, style in zip(ends, _ENDS.values(), strict=True):
        x, y = _xy(results, [end], suite)
        panel.plot(x, y, ls="", mec="white", mew=0.9, zorder=6, **style)
    advised = [p for p in results["points"] if p["name"] == results["advice"]["point"]]
    panel.plot(*_xy(results, advised, suite), zorder=7, ls="", **_RING)
    _interval(panel, results, suite)
    panel.margins(x=0.08, y=0.12)


def _number(panel, results, points, suite):
    """The weights of some points, below them."""
    outline = [patheffects.withStroke(linewidth=2.2, foreground="white")]
    for point in points:
        if round(10 * point["weight"], 6) in _NUMBERED:
            ((x,), (y,)) = _xy(results, [point], suite)
            panel.annotate(
                f"{point['weight']:g}", (x, y), (-2, -6), textcoords="offset points",
                ha="right", va="top", fontsize=7, color=figure_style.COLORS[0],
                path_effects=outline, zorder=5,
            )  # fmt: skip


def _interval(panel, results, suite):
    """The interval of what was lost, at the aligned model."""
    before, after = results["points"][:2]
    ((x,), (start,)) = _xy(results, [before], suite)
    ((x,), _) = _xy(results, [after], suite)
    row = results["together"] if suite is None else results["lost"][suite]
    ends = [start + row["low"], start + row["high"]]
    panel.plot([x, x], ends, ls="-", zorder=1, **_BAR)


def _xy(results, points, suite):
    """(x, y) lists of some points in the panel of a suite."""
    xs = [p[results["axis"]] for p in points]
    ys = [p["together"] if suite is None else p["scores"][suite] for p in points]
    return xs, ys


def _labels(panel, results, title, suite):
    panel.yaxis.set_major_formatter(figure_style.PERCENT)
    panel.set_ylabel("score  (%)", fontsize=9)
    lost = suite is not None and results["lost"][suite]["taxed"]
    mark = "  (lost significantly)" if lost else ""
    panel.set_title(title + mark, loc="left", fontsize=9.5, fontweight="bold", pad=14)
    style = {"fontsize": 8, "color": figure_style.MUTED, "style": "italic"}
    text = _CORNERS[results["axis"]]
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
