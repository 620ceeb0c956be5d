"""audit.png: proxy and gold along steps and along √KL, and what watched them."""

import numpy as np

from experiments.objective_mismatch.audit import measures, monitors
from rlhf_jax.reporting import figure_style, markdown

_MOST = 4  # series that are drawn
_PROXY, _GOLD = figure_style.COLORS[1], figure_style.COLORS[0]
_ONSET = {"color": figure_style.MUTED, "lw": 1.2, "ls": (0, (4, 2))}
_WATCHED = figure_style.COLORS[2:]


def draw(found, measured, path):
    """Writes the picture, a row a series; returns its path.

    Args: found: `Series`; measured: what `measures.of` says of each.
    """
    pairs = list(zip(found, measured, strict=True))
    shown = pairs
    if len(pairs) > _MOST:  # those that parted come first
        shown = sorted(pairs, key=lambda pair: pair[1]["onset"] is None)[:_MOST]
    columns = _columns(shown)
    sheet, panels = figure_style.sheet(len(shown), len(columns), width=4.3, height=2.9)
    for row, (one, about) in zip(panels, shown, strict=True):
        for panel, column in zip(row, columns, strict=True):
            column(panel, one, about)
    left = len(pairs) - len(shown)
    note = f"{left} more in report.md; " if left else ""
    note += "0: the first look, 1: the farthest from it"
    return figure_style.finish(
        sheet, _keys(shown), path, "Do proxy and gold part?", note
    )


def _columns(shown):
    """The panels of a row that at least one series can fill."""
    columns = [_along_steps]
    if any(one.has("kl") for one, _ in shown):
        columns.append(_along_kl)
    if any(monitors.of(one) for one, _ in shown):
        columns.append(_monitors)
    return columns


def _scaled(values):
    """Values on the scale on which the first is 0 and the farthest from it is 1 away"""
    if not len(values):
        return values
    return (values - values[0]) / (np.abs(values - values[0]).max() or 1.0)


def _course(panel, one, x, role, color):
    kept = np.isfinite(one.values[role]) & np.isfinite(x)
    _line(panel, x[kept], _scaled(one.values[role][kept]), color)


def _line(panel, x, y, color):
    """Every step as a dot, means over neighbours as a line."""
    panel.plot(x, y, ls="", marker="o", ms=3, color=color, alpha=0.35, mew=0)
    if len(y):
        groups = np.array_split(np.arange(len(y)), min(len(y), measures.LOOKS))
        means = [(x[group].mean(), y[group].mean()) for group in groups]
        panel.plot(*np.transpose(means), color=color, lw=1.8)


def _rewards(panel, one, about, x, onset):
    roles = [("proxy", _PROXY)] + ([("gold", _GOLD)] if about["gold"] else [])
    for role, color in roles:
        _course(panel, one, x, role, color)
    if onset is not None:
        panel.axvline(onset, **_ONSET)
    panel.axhline(0.0, color="#9A9A9A", lw=0.8, zorder=1)


def _along_steps(panel, one, about):
    onset = about["onset"]
    _rewards(panel, one, about, one.steps, None if onset is None else onset["step"])
    panel.set_title(one.name, loc="left", fontsize=10, fontweight="bold")
    _label(panel, "step")


def _along_kl(panel, one, about):
    if not one.has("kl"):
        panel.set_visible(False)
        return
    onset = about["onset"]
    at = None if onset is None or onset["kl"] is None else max(onset["kl"], 0.0) ** 0.5
    d = np.sqrt(np.maximum(one.values["kl"], 0.0))
    _rewards(panel, one, about, d, at)
    _label(panel, f"d = √KL, KL in {one.kl_unit}")


def _monitors(panel, one, about):
    """Each monitor as the rewards are drawn; a triangle where it gave an alarm."""
    watched = monitors.of(one)
    if not watched:
        panel.set_visible(False)
        return
    for name, (steps, values) in watched.items():
        color = _color(name)
        y = _scaled(values)
        _line(panel, steps, y, color)
        step = about["alarms"][name]["step"]
        if step is not None:
            mark = {"marker": "v", "ms": 9, "mec": "#1A1A1A", "mew": 0.8, "ls": ""}
            panel.plot([step], y[steps == step], color=color, zorder=5, **mark)
    if about["onset"] is not None:
        panel.axvline(about["onset"]["step"], **_ONSET)
    rung = sum(found["step"] is not None for found in about["alarms"].values())
    panel.set_title(
        f"Monitors: {markdown.count(rung, 'alarm')}", loc="left", fontsize=10
    )
    _label(panel, "step")


def _color(name):
    return _WATCHED[list(monitors.MONITORS).index(name)]


def _label(panel, text):
    panel.set_xlabel(text, fontsize=8.5, color=figure_style.MUTED)


def _keys(shown):
    """The legend: what is drawn of rewards, then of monitors."""
    line = {"ls": "-", "lw": 2}
    keys = [figure_style.key("proxy", color=_PROXY, **line)]
    if any(about["gold"] for _, about in shown):
        keys.append(figure_style.key("gold", color=_GOLD, **line))
    if any(about["onset"] for _, about in shown):
        keys.append(figure_style.key("they part here", **_ONSET))
    names = list(dict.fromkeys(name for one, _ in shown for name in monitors.of(one)))
    watched = [
        figure_style.key(monitors.MONITORS[name].label, color=_color(name), **line)
        for name in names
    ]
    if any(a["step"] is not None for _, m in shown for a in m["alarms"].values()):
        watched.append(figure_style.key("alarm", marker="v", ms=8))
    return [keys, watched] if watched else [keys]
