"""The two pictures of a run: the reward–drift front and the training curves."""

import math

import numpy as np

from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation import statistics, units
from rlhf_jax.evaluation.axes import GOLD, REWARD
from rlhf_jax.reporting import evaluations, figure_style

# A panel shows the first of its axes that the records hold.
PANELS = (
    (axes_.REWARD, axes_.SCORES),
    (axes_.GOLD,),
    (axes_.TEXT_NLL,),
    (axes_.KL_INITIAL, axes_.KL_REFERENCE),
    (axes_.SKILLS,),
    (axes_.ENTROPY, axes_.TRAINING_ENTROPY),
)
_CROWD, _MANY = 9, 6  # with more methods or units, looks and paths are left out
_POINTS = 60  # of a front that is drawn


def front(records, axes, path, *, rewards=(REWARD, GOLD), labels=None, note=None):
    """Draws the reward–drift front, one panel a drift axis; returns the path.

    Everything is drawn since the start of its own unit, the star. The thick line is the
    mean over units of the best proxy reward at drift ≤ d, a split-half reading
    (`evaluation.fronts`); it ends where the run that drifts least of the method ends. A
    second row shows the gold of the same policies: gold selects nothing. Dots are
    looks, faint lines the path of each run (dotted across a reset), the large marker
    its last look. From 8 worlds on, a band shows the 95% t-interval over worlds. Looks
    and paths are left out with more than 9 methods, or more than 6 units.

    Args:
      records: dictionaries as in metrics.jsonl.
      axes: drift axes, of type Axis, two or more: axes can disagree.
      rewards: the proxy reward's Axis, and the gold reward's.
      labels: {method: name to print}; note: text above the panels.
    """
    if len(axes) < 2:
        raise ValueError(f"a front needs two drift axes or more, got {axes!r}")
    runs = evaluations.runs(records)
    rewards = rewards if any(run.has(GOLD) for run in runs) else rewards[:1]
    sheet, panels = figure_style.sheet(len(rewards), len(axes), width=3.9, height=3.5)
    methods = evaluations.by_method(runs)
    few = len(methods) <= _CROWD and len({run.unit for run in runs}) <= _MANY
    for row, reward in zip(panels, rewards, strict=True):
        for panel, axis in zip(row, axes, strict=True):
            for group, style in zip(
                methods.values(), figure_style.styles(), strict=False
            ):
                if few:
                    _paths(panel, group, axis, reward, style)
                _front_of(panel, group, axis, reward, style)
            panel.plot(0, 0, ls="", zorder=7, **figure_style.STAR)
            _axis_labels(panel, axis, reward, runs, first=panel is row[0])
    keys = [
        figure_style.key("initial policy π₀", **figure_style.STAR),
        figure_style.key("last look at a run", marker="o", ms=7, mec="white"),
        *[figure_style.key("look", marker="o", ms=3)] * few,
        figure_style.key(
            "best proxy at drift ≤ d" + ", and its gold" * (len(rewards) > 1),
            ls="-",
            lw=2,
        ),
    ]
    groups = [figure_style.handles(methods, labels), keys]
    note = note or _units(records)
    return figure_style.finish(sheet, groups, path, "Reward against drift", note)


def fronts(trials, axes, path, *, chosen, rewards=(REWARD, GOLD), labels=None, note=""):
    """Draws what every trial of every method reaches, and all of them together.

    Thick: the best proxy reward at drift ≤ d over the looks of all trials of a unit;
    thin: the trial that was chosen; faint: the others. Means over units, split-half. A
    second row shows the gold of the same policies. More trials make a better front:
    give every method as many.

    Args: trials: {method: [list of evaluations.Run, one a unit; a list a trial]};
    chosen: {method: number of the trial, or None}; the rest as in `front`. Returns the
    path.
    """
    every = [run for tried in trials.values() for runs in tried for run in runs]
    rewards = rewards if any(run.has(GOLD) for run in every) else rewards[:1]
    sheet, panels = figure_style.sheet(len(rewards), len(axes), width=3.9, height=3.5)
    for row, reward in zip(panels, rewards, strict=True):
        for panel, axis in zip(row, axes, strict=True):
            for (method, tried), style in zip(
                trials.items(), figure_style.styles(), strict=False
            ):
                for i, runs in enumerate(tried):
                    faint = {"lw": 0.6, "alpha": 0.4, "zorder": 2}
                    clear = {"lw": 1.1, "zorder": 4}
                    line = clear if i == chosen.get(method) else faint
                    _attained(panel, runs, axis, reward, style, band=False, **line)
                pooled = evaluations.pooled(tried)
                _attained(panel, pooled, axis, reward, style, lw=2.6)
            panel.plot(0, 0, ls="", zorder=7, **figure_style.STAR)
            _axis_labels(panel, axis, reward, every, first=panel is row[0])
    keys = [
        figure_style.key("initial policy π₀", **figure_style.STAR),
        figure_style.key("best of all trials at drift ≤ d", ls="-", lw=2.6),
        figure_style.key("the chosen trial", ls="-", lw=1.1),
        figure_style.key("another trial", ls="-", lw=0.6, alpha=0.5),
    ]
    groups = [figure_style.handles(trials, labels), keys]
    return figure_style.finish(sheet, groups, path, "Front of fronts", note)


def curves(records, path, *, labels=None, panels=PANELS, note=None):
    """Draws the training curves against the iteration; returns the path.

    Thin lines are runs, the thick one their mean; ticks at the bottom mark resets, and
    the line falls where a policy was measured before and after one. panels: a tuple of
    axes each.
    """
    runs = evaluations.runs(records)
    series = {a.key: _series(a, records, runs) for axes in panels for a in axes}
    chosen = [next((a for a in axes if series[a.key]), None) for axes in panels]
    chosen = [axis for axis in chosen if axis]
    columns = 3 if len(chosen) > 4 else max(1, math.ceil(len(chosen) / 2))
    rows = max(1, math.ceil(len(chosen) / columns))
    sheet, grid = figure_style.sheet(rows, columns, width=3.9, height=2.6)
    methods = evaluations.by_method(runs) or _methods(records)
    resets = _resets(records)
    for panel in grid.flat[len(chosen) :]:
        panel.set_visible(False)
    for panel, axis in zip(grid.flat, chosen, strict=False):
        for method, style in zip(methods, figure_style.styles(), strict=False):
            _curve(panel, series[axis.key].get(method, {}), style)
            _ticks(panel, resets.get(method, ()), style["color"])
        _panel_labels(panel, axis)
    keys = [figure_style.key("reset", marker="|", ms=8, mew=1.4)] if resets else []
    groups, note = (
        [figure_style.handles(methods, labels) + keys],
        note or _units(records),
    )
    return figure_style.finish(sheet, groups, path, "Training curves", note)


def _front_of(panel, group, axis, reward, style):
    """One method in one panel: last looks, front, band."""
    size = 7 if len(group) <= _MANY else 3.5
    dots = {"ls": "", "marker": style["marker"], "color": style["color"]}
    for run in group:
        panel.plot(
            *_points(run, axis, reward)[-1], **dots, ms=size, mec="white", mew=0.6
        )
    if max(run.looks for run in group) > 1:  # one look makes no front
        _attained(panel, group, axis, reward, style)


def _paths(panel, group, axis, reward, style):
    """The looks of every run in one panel, and the path through them."""
    color, marker = style["color"], style["marker"]
    small = {"ls": "", "marker": marker, "ms": 2.6, "mew": 0, "alpha": 0.45}
    for run in group:
        points = _points(run, axis, reward)
        starts = [i for i, row in enumerate(run.rows) if i and _after_reset(row)]
        edges = [0, *starts, len(points)]
        line = {"color": color, "lw": 0.6, "alpha": 0.33, "zorder": 2}
        for begin, end in zip(edges, edges[1:], strict=False):
            panel.plot(*points[begin:end].T, ls="-", **line)
            panel.plot(*points[end - 1 : end + 1].T, ls=(0, (1, 2)), **line)
        panel.plot(*points[1:-1].T, color=color, **small, zorder=3)


def _points(run, axis, reward):
    """(drift, reward) of every look since the start, on all prompts, [N, 2]."""
    values = (run.values(one) for one in (axis, reward))
    return np.stack([v - v[0] for v in values], axis=-1)


def _attained(panel, group, axis, reward, style, *, band=True, **line):
    """Mean over units of the reward that the best proxy within each drift has."""
    line = {"color": style["color"], "ls": style["ls"], "lw": 2, "zorder": 5, **line}
    measured = (axis, reward)
    group = [r for r in group if r.has_front(axis) and not r.diverged(measured)]
    reach = [min(half.drift.max() for half in run.paths(axis)) for run in group]
    if not group or min(reach) <= 0:
        return
    drifts = np.linspace(0.0, min(reach), _POINTS)
    best = np.stack([run.attained(reward, axis, drifts) for run in group])
    panel.plot(drifts, best.mean(0), **line)
    if band:
        _band(panel, drifts, best, [run.unit for run in group], style)


def _band(panel, x, table, rows, style):
    """The 95% t-interval over worlds of a mean curve, where there are enough of them.

    Args: table [U, N]; rows: the unit of each row.
    """
    names = [unit.world for unit in rows]
    worlds = np.stack([table[np.equal(names, w)].mean(0) for w in sorted(set(names))])
    if len(worlds) >= statistics.MIN_WORLDS:
        bounds = np.array([statistics.t_interval(column) for column in worlds.T])
        shade = {"color": style["color"], "alpha": 0.16, "lw": 0, "zorder": 1}
        panel.fill_between(x, bounds[:, 1], bounds[:, 2], **shade)


def _after_reset(row):
    return row.get("eval/phase") == "after_reset"


def _axis_labels(panel, axis, reward, runs, *, first):
    """Labels, and above the panel, so never on a curve, which corner is good."""
    starts = [run.values(axis)[0] for run in runs if run.has(axis)]
    since = "" if np.allclose(starts, 0.0, atol=1e-6) else " since the start"
    unit = f"  ({axis.unit})" if axis.unit else ""
    panel.set_xlabel(axis.title + since + unit, fontsize=9)
    if axis.percent:
        panel.xaxis.set_major_formatter(figure_style.PERCENT)
    if first:
        unit = f"  ({reward.unit})" if reward.unit else ""
        panel.set_ylabel(f"{reward.title} gained{unit}", fontsize=9)
    style = {"fontsize": 8, "color": figure_style.MUTED, "style": "italic"}
    panel.text(0.0, 1.015, "↖ better", transform=panel.transAxes, **style)


def _panel_labels(panel, axis):
    title = axis.title + axis.arrow
    panel.set_title(title, loc="left", fontsize=10, fontweight="bold")
    panel.set_ylabel(axis.unit, fontsize=8.5, color=figure_style.MUTED)
    panel.set_xlabel("iteration", fontsize=8.5, color=figure_style.MUTED)
    if axis.percent:
        panel.yaxis.set_major_formatter(figure_style.PERCENT)


def _ticks(panel, steps, color):
    """Ticks at the bottom of a panel: the resets of a method."""
    bottom = {"transform": panel.get_xaxis_transform(), "clip_on": False}
    for step in sorted(steps):
        panel.plot([step, step], [0, 0.045], color=color, lw=1.4, **bottom)


def _series(axis, records, runs):
    """{method: {unit: (steps [N], values [N])}} of an axis, as evaluated or, where it
    was never evaluated, as logged during training."""
    if any(run.has(axis) for run in runs):
        return _evaluated(axis, runs)
    result = {}
    for record in records:
        if axis.key in record and REWARD.key not in record:
            by_unit = result.setdefault(record["method"], {})
            pair = record["step"], record[axis.key]
            by_unit.setdefault(units.of(record), []).append(pair)
    return {
        method: {unit: np.array(rows, float).T for unit, rows in by_unit.items()}
        for method, by_unit in result.items()
    }


def _evaluated(axis, runs):
    result = {}
    for run in (run for run in runs if run.has(axis)):
        steps, values = np.array([row["step"] for row in run.rows]), run.values(axis)
        # A start borrowed from another method is not an evaluation of this one.
        kept = np.array([row["method"] == run.method for row in run.rows])
        kept &= ~np.isnan(values)
        by_unit = result.setdefault(run.method, {})
        by_unit[run.unit] = steps[kept], values[kept]
    return result


def _curve(panel, by_unit, style):
    """Runs thin, their mean thick, a band from 8 worlds on; a single point a marker."""
    many = len(by_unit) > _MANY
    for steps, values in by_unit.values():
        dot = {"marker": style["marker"] if len(steps) == 1 else None, "ms": 3}
        alpha = 0.15 if many else 0.35
        line = {"color": style["color"], "lw": 0.6, "alpha": alpha, "zorder": 2}
        panel.plot(steps, values, **line, **dot)
    steps, table = _aligned(by_unit)
    if not len(steps):
        return
    single = {} if len(steps) == 1 else {"marker": None}
    panel.plot(steps, table.mean(0), **{**style, **single}, lw=1.9, zorder=4)
    _band(panel, steps, table, list(by_unit), style)


def _aligned(by_unit):
    """Runs side by side at the steps they share: steps [N], values [U, N].

    A step that occurs twice (before and after a reset) stays two columns, in order.
    """
    keyed = []
    for steps, values in by_unit.values():
        seen, column = {}, {}
        for step, value in zip(steps, values, strict=True):
            seen[step] = seen.get(step, -1) + 1
            column[step, seen[step]] = value
        keyed.append(column)
    shared = sorted(set.intersection(*map(set, keyed))) if keyed else []
    table = np.array([[column[key] for key in shared] for column in keyed], float)
    return np.array([step for step, _ in shared]), table


def _resets(records):
    """{method: steps at which a run of it was reset}."""
    result = {}
    for record in records:
        if record.get("reset/reset") == 1:
            result.setdefault(record["method"], set()).add(record["step"])
    return result


def _methods(records):
    return list(dict.fromkeys(record["method"] for record in records))


def _units(records):
    """The note on how many units there are and how they are shown."""
    seen = {units.of(record) for record in records}
    worlds = {unit.world for unit in seen}
    if len(worlds) >= statistics.MIN_WORLDS:
        return f"{len(seen)} units in {len(worlds)} worlds; band: 95% t-interval"
    if len(worlds) > 1:
        return f"{len(seen)} units in {len(worlds)} worlds: no interval, no test"
    seeds = f"{len(seen)} seed{'s' * (len(seen) != 1)} of one world"
    return f"{seeds}: shown one by one, no interval, no test"
