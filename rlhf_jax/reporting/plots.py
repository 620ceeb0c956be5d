"""The two pictures of a run: the reward–drift front and the training curves."""

import math

import numpy as np

from rlhf_jax.evaluation import pareto, statistics
from rlhf_jax.reporting import canvas, results

# A panel shows the first of its metrics that the records hold.
PANELS = (
    ("eval/reward", "objective/scores"),
    ("eval/gold",),
    ("drift/text_nll",),
    ("drift/kl_initial", "objective/kl"),
    ("tax/skills",),
    ("eval/entropy", "objective/entropy"),
)
_CROWD = 9  # so many methods are shown by their final policies and staircases alone
_STAR = {"marker": "*", "ms": 13, "color": "#1A1A1A", "mec": "white", "mew": 0.9}


def front(records, axes, path, *, labels=None, note=None):
    """Draws the reward–drift front, a panel a drift axis; returns the path.

    Dots are checkpoints, faint lines the way of each seed (dotted across a reset), the
    large marker the final policy, the star π₀. The staircase is the mean over seeds of
    the best proxy reward at drift ≤ d, chosen on one half of the prompts and read on
    the other, so that it may fall; a band, the 95% t-interval, from 8 seeds on. A
    second row shows the gold reward where the records hold it, its staircase the gold
    of the same policies: gold selects nothing. Of more than 9 methods checkpoints and
    ways are left out.

    Args:
      records: dictionaries as in metrics.jsonl.
      axes: names of drift axes, two or more: axes can disagree.
      labels: {method: name to print}. note: text under the picture.
    """
    if isinstance(axes, str) or len(axes) < 2:
        raise ValueError(f"a front needs two drift axes or more, got {axes!r}")
    found = results.runs(records)
    gold = any(run.has(results.GOLD) for run in found)
    rewards = [results.REWARD, results.GOLD] if gold else [results.REWARD]
    sheet, panels = canvas.sheet(len(rewards), len(axes), width=3.9, height=3.5)
    methods = results.methods(found)
    for row, reward in zip(panels, rewards, strict=True):
        for panel, axis in zip(row, axes, strict=True):
            for seeds, style in zip(methods.values(), canvas.styles(), strict=False):
                if len(methods) <= _CROWD:
                    _ways(panel, seeds, axis, reward, style)
                _front_of(panel, seeds, axis, reward, style)
            _origin(panel, found, axis, reward)
            _axis_labels(panel, axis, reward, first=panel is row[0])
            _hint(panel)
    keys = [
        canvas.key("initial policy π₀", **_STAR),
        canvas.key("final policy of a seed", marker="o", ms=7, mec="white"),
        *[canvas.key("checkpoint", marker="o", ms=3)] * (len(methods) <= _CROWD),
        canvas.key("best proxy at drift ≤ d" + ", and its gold" * gold, ls="-", lw=2),
    ]
    groups, note = [canvas.handles(methods, labels), keys], note or _seeds(records)
    return canvas.finish(sheet, groups, path, "Reward against drift", note)


def fronts(trials, axes, path, *, chosen, labels=None, note=""):
    """Draws what every trial of every method reaches, and all of them together.

    Thick: the best proxy reward at drift ≤ d over the checkpoints of all trials of a
    seed, chosen on one half of the prompts and read on the other; thin: the trial that
    was chosen; faint: the others. Means over seeds. A second row shows the gold of the
    same policies. A method with more trials would have a better front: give as many.

    Args: trials: {method: [list of results.Run, one a seed; a list a trial]}; chosen:
    {method: number of the trial, or None}. Returns the path.
    """
    every = [run for tried in trials.values() for runs in tried for run in runs]
    gold = any(run.has(results.GOLD) for run in every)
    rewards = [results.REWARD, results.GOLD] if gold else [results.REWARD]
    sheet, panels = canvas.sheet(len(rewards), len(axes), width=3.9, height=3.5)
    for row, reward in zip(panels, rewards, strict=True):
        for panel, axis in zip(row, axes, strict=True):
            for (method, tried), style in zip(
                trials.items(), canvas.styles(), strict=False
            ):
                for i, runs in enumerate(tried):
                    faint = {"lw": 0.6, "alpha": 0.4, "zorder": 2}
                    clear = {"lw": 1.1, "zorder": 4}
                    look = clear if i == chosen.get(method) else faint
                    _staircase(panel, runs, axis, reward, style, band=False, **look)
                pooled = results.pooled(tried)
                _staircase(panel, pooled, axis, reward, style, lw=2.6)
            _origin(panel, every, axis, reward)
            _axis_labels(panel, axis, reward, first=panel is row[0])
            _hint(panel)
    keys = [
        canvas.key("initial policy π₀", **_STAR),
        canvas.key("best of all trials at drift ≤ d", ls="-", lw=2.6),
        canvas.key("the chosen trial", ls="-", lw=1.1),
        canvas.key("another trial", ls="-", lw=0.6, alpha=0.5),
    ]
    groups = [canvas.handles(trials, labels), keys]
    return canvas.finish(sheet, groups, path, "Front of fronts", note)


def curves(records, path, *, labels=None, panels=PANELS, note=None):
    """Draws the training curves against the iteration; returns the path.

    Thin lines are seeds, the thick one their mean; ticks at the foot mark resets, and
    the line falls where a policy was measured before and after one.
    """
    found = results.runs(records)
    series = _series(records, found)
    chosen = [next((k for k in keys if k in series), None) for keys in panels]
    chosen = [key for key in chosen if key]
    columns = 3 if len(chosen) > 4 else max(1, math.ceil(len(chosen) / 2))
    rows = max(1, math.ceil(len(chosen) / columns))
    sheet, grid = canvas.sheet(rows, columns, width=3.9, height=2.6)
    methods = results.methods(found) or _methods(records)
    resets = _resets(records)
    for panel in grid.flat[len(chosen) :]:
        panel.set_visible(False)
    for panel, key in zip(grid.flat, chosen, strict=False):
        for method, style in zip(methods, canvas.styles(), strict=False):
            _curve(panel, series[key].get(method, {}), style)
            _foot(panel, resets.get(method, ()), style["color"])
        _panel_labels(panel, key)
    keys = [canvas.key("reset", marker="|", ms=8, mew=1.4)] if resets else []
    groups, note = [canvas.handles(methods, labels) + keys], note or _seeds(records)
    return canvas.finish(sheet, groups, path, "Training curves", note)


def _front_of(panel, seeds, axis, reward, style):
    """One method in one panel: final policies, staircase, band."""
    size = 7 if len(seeds) < statistics.MIN_SEEDS else 5
    dots = {"ls": "", "marker": style["marker"], "color": style["color"]}
    for run in seeds:
        last = run.points(axis, reward=reward)[-1:]
        panel.plot(*last.T, **dots, ms=size, mec="white", mew=0.9, zorder=6)
    if max(len(run.rows) for run in seeds) > 2:  # one checkpoint makes no front
        _staircase(panel, seeds, axis, reward, style)


def _ways(panel, seeds, axis, reward, style):
    """The checkpoints of every seed in one panel, and the way between them."""
    color, marker = style["color"], style["marker"]
    small = {"ls": "", "marker": marker, "ms": 2.6, "mew": 0, "alpha": 0.45}
    for run in seeds:
        for piece, across in _pieces(run, axis, reward):
            dashes = (0, (1, 2)) if across else "-"
            panel.plot(*piece.T, color=color, lw=0.6, alpha=0.33, ls=dashes, zorder=2)
        points = run.points(axis, reward=reward)[1:-1]
        panel.plot(*points.T, color=color, **small, zorder=3)


def _staircase(panel, seeds, axis, reward, style, *, band=True, **look):
    """Mean over seeds of the reward that the best proxy within each drift has."""
    look = {"color": style["color"], "ls": style["ls"], "lw": 2, "zorder": 5, **look}
    faces = [face for run in seeds for face in run.faces(axis)]
    if not faces:
        return
    drifts = np.unique(np.concatenate([pareto.front(face)[:, 0] for face in faces]))
    best = np.stack([run.picked(reward, axis, drifts) for run in seeds])
    known = ~np.isnan(best).any(0)
    drifts, best = drifts[known], best[:, known]
    panel.step(drifts, best.mean(0), where="post", **look)
    if band and len(seeds) >= statistics.MIN_SEEDS:
        bounds = [statistics.t_interval(column) for column in best.T]
        low, high = [b.low for b in bounds], [b.high for b in bounds]
        shade = {"color": style["color"], "alpha": 0.16, "lw": 0, "zorder": 1}
        panel.fill_between(drifts, low, high, step="post", **shade)


def _pieces(run, axis, reward):
    """The way of a run, cut at resets: [(points, is it the jump of a reset?)]."""
    points = np.stack([run.values(axis), run.values(reward)], axis=-1)
    after = [i for i, row in enumerate(run.rows) if _after_reset(row) and i > 0]
    edges = [0, *after, len(points)]
    for begin, end in zip(edges, edges[1:], strict=False):
        yield points[begin:end], False
        if end < len(points):
            yield points[end - 1 : end + 1], True


def _after_reset(row):
    return row.get("eval/phase") == "after_reset"


def _origin(panel, found, axis, reward):
    """π₀: the mean over runs of their start."""
    starts = np.array([[run.values(axis)[0], run.values(reward)[0]] for run in found])
    starts = starts[~np.isnan(starts).any(-1)]
    if len(starts):
        panel.plot(*starts.mean(0), ls="", zorder=7, **_STAR)


def _axis_labels(panel, axis, reward, *, first):
    title, unit = canvas.label(axis)
    panel.set_xlabel(f"{title}  ({unit})" if unit else title, fontsize=9)
    if results.is_tax(axis):
        panel.xaxis.set_major_formatter(canvas.PERCENT)
    if first:
        title, unit = canvas.label(reward)
        panel.set_ylabel(f"{title}  ({unit})" if unit else title, fontsize=9)


def _hint(panel):
    """Which corner is good, above the panel and so never on a curve."""
    style = {"fontsize": 8, "color": canvas.MUTED, "style": "italic"}
    panel.text(0.0, 1.015, "↖ better", transform=panel.transAxes, **style)


def _panel_labels(panel, key):
    title, unit = canvas.label(key)
    title += canvas.direction(key)
    panel.set_title(title, loc="left", fontsize=10, fontweight="bold")
    panel.set_ylabel(unit, fontsize=8.5, color=canvas.MUTED)
    panel.set_xlabel("iteration", fontsize=8.5, color=canvas.MUTED)
    if results.is_tax(key):
        panel.yaxis.set_major_formatter(canvas.PERCENT)


def _foot(panel, steps, color):
    """Ticks at the foot of a panel: the resets of a method."""
    place = {"transform": panel.get_xaxis_transform(), "clip_on": False}
    for step in sorted(steps):
        panel.plot([step, step], [0, 0.045], color=color, lw=1.4, **place)


def _series(records, found):
    """{metric: {method: {seed: (steps [N], values [N])}}} of what PANELS can show."""
    series = {}
    for run in found:
        steps = np.array([row["step"] for row in run.rows])
        # A start borrowed from another method is no evaluation of this one.
        own = np.array([row["method"] == run.method for row in run.rows])
        for key in {k for row in run.rows for k in row if "/" in k}:
            if isinstance(next(r[key] for r in run.rows if key in r), str):
                continue
            values = run.values(key)
            kept = own & ~np.isnan(values)
            pairs = (steps[kept], values[kept])
            series.setdefault(key, {}).setdefault(run.method, {})[run.seed] = pairs
    gathered = {}
    for record in records:
        for key in {k for k in record if k.startswith("objective/")}:
            place = gathered.setdefault(key, {}).setdefault(record["method"], {})
            place.setdefault(record["seed"], []).append((record["step"], record[key]))
    for key, by_method in gathered.items():
        series[key] = {
            method: {seed: np.array(rows, float).T for seed, rows in by_seed.items()}
            for method, by_seed in by_method.items()
        }
    return series


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

    A step met twice (before and after a reset) stays two columns, in order.
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
    """The note on what is shown of how many seeds."""
    seeds = len({record["seed"] for record in records})
    if seeds >= statistics.MIN_SEEDS:
        return f"{seeds} seeds; band: 95% t-interval over seeds"
    return f"{seeds} seed{'s' * (seeds != 1)}: shown one by one, no interval, no test"
