"""The two pictures of a run: the reward–drift front and the training curves."""

import math

import numpy as np

from rlhf_jax.evaluation import axes as axes_
from rlhf_jax.evaluation import pareto, statistics
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
_CROWD = 9  # with more methods, checkpoints and paths are left out
_STAR = {"marker": "*", "ms": 13, "color": "#1A1A1A", "mec": "white", "mew": 0.9}


def front(records, axes, path, *, rewards=(REWARD, GOLD), labels=None, note=None):
    """Draws the reward–drift front, one panel per drift axis; returns the path.

    Dots are checkpoints, faint lines the path of each seed (dotted across a reset), the
    large marker the final policy, the star π₀. The staircase is the mean over seeds of
    the best proxy reward at drift ≤ d, chosen on one half of the prompts and read on
    the other, so it may fall; from 8 seeds on, a band shows the 95% t-interval. A
    second row shows the gold reward where the records hold it, its staircase the gold
    of the same policies: gold selects nothing. With more than 9 methods, checkpoints
    and paths are left out.

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
    for row, reward in zip(panels, rewards, strict=True):
        for panel, axis in zip(row, axes, strict=True):
            for seeds, style in zip(
                methods.values(), figure_style.styles(), strict=False
            ):
                if len(methods) <= _CROWD:
                    _paths(panel, seeds, axis, reward, style)
                _front_of(panel, seeds, axis, reward, style)
            _origin(panel, runs, axis, reward)
            _axis_labels(panel, axis, reward, first=panel is row[0])
            _hint(panel)
    keys = [
        figure_style.key("initial policy π₀", **_STAR),
        figure_style.key("final policy of a seed", marker="o", ms=7, mec="white"),
        *[figure_style.key("checkpoint", marker="o", ms=3)] * (len(methods) <= _CROWD),
        figure_style.key(
            "best proxy at drift ≤ d" + ", and its gold" * (len(rewards) > 1),
            ls="-",
            lw=2,
        ),
    ]
    groups, note = (
        [figure_style.handles(methods, labels), keys],
        note or _seeds(records),
    )
    return figure_style.finish(sheet, groups, path, "Reward against drift", note)


def fronts(trials, axes, path, *, chosen, rewards=(REWARD, GOLD), labels=None, note=""):
    """Draws what every trial of every method reaches, and all of them together.

    Thick: the best proxy reward at drift ≤ d over the checkpoints of all trials of a
    seed, chosen on one half of the prompts and read on the other; thin: the trial that
    was chosen; faint: the others. Means over seeds. A second row shows the gold of the
    same policies. More trials make a better front: give every method as many.

    Args: trials: {method: [list of evaluations.Run, one a seed; a list a trial]};
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
                    _staircase(panel, runs, axis, reward, style, band=False, **line)
                pooled = evaluations.pooled(tried)
                _staircase(panel, pooled, axis, reward, style, lw=2.6)
            _origin(panel, every, axis, reward)
            _axis_labels(panel, axis, reward, first=panel is row[0])
            _hint(panel)
    keys = [
        figure_style.key("initial policy π₀", **_STAR),
        figure_style.key("best of all trials at drift ≤ d", ls="-", lw=2.6),
        figure_style.key("the chosen trial", ls="-", lw=1.1),
        figure_style.key("another trial", ls="-", lw=0.6, alpha=0.5),
    ]
    groups = [figure_style.handles(trials, labels), keys]
    return figure_style.finish(sheet, groups, path, "Front of fronts", note)


def curves(records, path, *, labels=None, panels=PANELS, note=None):
    """Draws the training curves against the iteration; returns the path.

    Thin lines are seeds, the thick one their mean; ticks at the bottom mark resets, and
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
        note or _seeds(records),
    )
    return figure_style.finish(sheet, groups, path, "Training curves", note)


def _front_of(panel, seeds, axis, reward, style):
    """One method in one panel: final policies, staircase, band."""
    size = 7 if len(seeds) < statistics.MIN_SEEDS else 5
    dots = {"ls": "", "marker": style["marker"], "color": style["color"]}
    for run in seeds:
        last = run.points(axis, reward=reward)[-1:]
        panel.plot(*last.T, **dots, ms=size, mec="white", mew=0.9, zorder=6)
    if max(len(run.rows) for run in seeds) > 2:  # one checkpoint makes no front
        _staircase(panel, seeds, axis, reward, style)


def _paths(panel, seeds, axis, reward, style):
    """The checkpoints of every seed in one panel, and the path through them."""
    color, marker = style["color"], style["marker"]
    small = {"ls": "", "marker": marker, "ms": 2.6, "mew": 0, "alpha": 0.45}
    for run in seeds:
        for piece, across in _pieces(run, axis, reward):
            dashes = (0, (1, 2)) if across else "-"
            panel.plot(*piece.T, color=color, lw=0.6, alpha=0.33, ls=dashes, zorder=2)
        points = run.points(axis, reward=reward)[1:-1]
        panel.plot(*points.T, color=color, **small, zorder=3)


def _staircase(panel, seeds, axis, reward, style, *, band=True, **line):
    """Mean over seeds of the reward that the best proxy within each drift has."""
    line = {"color": style["color"], "ls": style["ls"], "lw": 2, "zorder": 5, **line}
    halves = [points for run in seeds for points in run.points_by_half(axis)]
    if not halves:
        return
    drifts = np.unique(np.concatenate([pareto.front(half)[:, 0] for half in halves]))
    best = np.stack([run.picked(reward, axis, drifts) for run in seeds])
    known = ~np.isnan(best).any(0)
    drifts, best = drifts[known], best[:, known]
    panel.step(drifts, best.mean(0), where="post", **line)
    if band and len(seeds) >= statistics.MIN_SEEDS:
        bounds = [statistics.t_interval(column) for column in best.T]
        low, high = [b.low for b in bounds], [b.high for b in bounds]
        shade = {"color": style["color"], "alpha": 0.16, "lw": 0, "zorder": 1}
        panel.fill_between(drifts, low, high, step="post", **shade)


def _pieces(run, axis, reward):
    """The path of a run, cut at resets: (points, whether it is the jump of a reset)."""
    points = np.stack([run.values(axis), run.values(reward)], axis=-1)
    after = [i for i, row in enumerate(run.rows) if _after_reset(row) and i > 0]
    edges = [0, *after, len(points)]
    for begin, end in zip(edges, edges[1:], strict=False):
        yield points[begin:end], False
        if end < len(points):
            yield points[end - 1 : end + 1], True


def _after_reset(row):
    return row.get("eval/phase") == "after_reset"


def _origin(panel, runs, axis, reward):
    """π₀: the mean over runs of their start."""
    starts = np.array([[run.values(axis)[0], run.values(reward)[0]] for run in runs])
    starts = starts[~np.isnan(starts).any(-1)]
    if len(starts):
        panel.plot(*starts.mean(0), ls="", zorder=7, **_STAR)


def _axis_labels(panel, axis, reward, *, first):
    panel.set_xlabel(axis.label, fontsize=9)
    if axis.percent:
        panel.xaxis.set_major_formatter(figure_style.PERCENT)
    if first:
        panel.set_ylabel(reward.label, fontsize=9)


def _hint(panel):
    """Which corner is good, above the panel and so never on a curve."""
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
    """{method: {seed: (steps [N], values [N])}} of an axis, as evaluated or, where it
    was never evaluated, as logged during training."""
    if any(run.has(axis) for run in runs):
        return _evaluated(axis, runs)
    result = {}
    for record in records:
        if axis.key in record and REWARD.key not in record:
            by_seed = result.setdefault(record["method"], {})
            pair = record["step"], record[axis.key]
            by_seed.setdefault(record["seed"], []).append(pair)
    return {
        method: {seed: np.array(rows, float).T for seed, rows in by_seed.items()}
        for method, by_seed in result.items()
    }


def _evaluated(axis, runs):
    result = {}
    for run in (run for run in runs if run.has(axis)):
        steps, values = np.array([row["step"] for row in run.rows]), run.values(axis)
        # A start borrowed from another method is not an evaluation of this one.
        kept = np.array([row["method"] == run.method for row in run.rows])
        kept &= ~np.isnan(values)
        by_seed = result.setdefault(run.method, {})
        by_seed[run.seed] = steps[kept], values[kept]
    return result


def _curve(panel, by_seed, style):
    """Seeds thin, their mean thick, a band from 8 seeds on; a single point a marker."""
    many = len(by_seed) >= statistics.MIN_SEEDS
    for steps, values in by_seed.values():
        dot = {"marker": style["marker"] if len(steps) == 1 else None, "ms": 3}
        alpha = 0.15 if many else 0.35
        line = {"color": style["color"], "lw": 0.6, "alpha": alpha, "zorder": 2}
        panel.plot(steps, values, **line, **dot)
    steps, table = _aligned(by_seed)
    if not len(steps):
        return
    single = {} if len(steps) == 1 else {"marker": None}
    panel.plot(steps, table.mean(0), **{**style, **single}, lw=1.9, zorder=4)
    if many:
        bounds = np.array([statistics.t_interval(column) for column in table.T])
        shade = {"color": style["color"], "alpha": 0.16, "lw": 0, "zorder": 1}
        panel.fill_between(steps, bounds[:, 1], bounds[:, 2], **shade)


def _aligned(by_seed):
    """Seeds side by side at the steps they share: steps [N], values [S, N].

    A step that occurs twice (before and after a reset) stays two columns, in order.
    """
    keyed = []
    for steps, values in by_seed.values():
        seen, column = {}, {}
        for step, value in zip(steps, values, strict=True):
            seen[step] = seen.get(step, -1) + 1
            column[step, seen[step]] = value
        keyed.append(column)
    shared = sorted(set.intersection(*map(set, keyed))) if keyed else []
    table = np.array([[column[key] for key in shared] for column in keyed], float)
    return np.array([step for step, _ in shared]), table


def _resets(records):
    """{method: steps at which a seed of it was reset}."""
    result = {}
    for record in records:
        if record.get("reset/reset") == 1:
            result.setdefault(record["method"], set()).add(record["step"])
    return result


def _methods(records):
    return list(dict.fromkeys(record["method"] for record in records))


def _seeds(records):
    """The note on how many seeds there are and how they are shown."""
    seeds = len({record["seed"] for record in records})
    if seeds >= statistics.MIN_SEEDS:
        return f"{seeds} seeds; band: 95% t-interval over seeds"
    return f"{seeds} seed{'s' * (seeds != 1)}: shown one by one, no interval, no test"
