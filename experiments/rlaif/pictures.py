"""Win rates against the initial policy, judge by judge, as a picture."""

import numpy as np

from experiments.rlaif import measures
from rlhf_jax.evaluation import statistics, units
from rlhf_jax.reporting import evaluations, figure_style, markdown
from rlhf_jax.reporting.report import PICTURES, Picture

_NAMES = {"gold": "the people", "second": "other people", "ai": "an AI judge"}


def draw(records, path, report):
    """Draws a row a method and a colour a judge; returns the path.

    Small dots are worlds (seeds where there is one world), the large one their mean,
    the bar the 95% t-interval from 8 worlds on.
    """
    runs = [run for run in evaluations.runs(records) if run.looks > 1]
    groups = evaluations.by_method(runs)
    styles = dict(zip(_NAMES, figure_style.styles(), strict=False))
    height = 1.0 + 0.55 * len(groups)
    sheet, ((panel,),) = figure_style.sheet(1, 1, width=9.5, height=height)
    for row, group in enumerate(reversed(list(groups.values()))):
        for place, (judge, style) in enumerate(styles.items()):
            axis = measures.WINS[judge]
            won = {run.unit: run.final(axis) for run in group if run.has(axis)}
            _draw(panel, row + 0.22 * (1 - place), won, axis.scale, style)
    panel.axvline(50.0, color=figure_style.MUTED, lw=1, zorder=1)
    panel.set_yticks(range(len(groups)))
    names = [report.name(method) for method in reversed(list(groups))]
    panel.set_yticklabels(names, fontsize=9)
    panel.set_ylim(-0.6, len(groups) - 0.4)
    panel.set_xlabel("prompts won against the initial policy, a tie a half  (%)")
    keys = [
        figure_style.key(_NAMES[judge], ms=7, mec="white", **_only(style))
        for judge, style in styles.items()
    ]
    worlds = {run.unit.world for run in runs}
    what = markdown.count(len(worlds), "world") if len(worlds) > 1 else "one world"
    return figure_style.finish(sheet, [keys], path, "Who judges that it wins?", what)


def _draw(panel, height, won, scale, style):
    if not won:
        return
    worlds = list(units.worlds(won).values())
    values = scale * np.array(worlds if len(worlds) > 1 else list(won.values()))
    dot = {"ls": "", **_only(style)}
    panel.plot(values, np.full(len(values), height), **dot, ms=3, alpha=0.4, mew=0)
    panel.plot(values.mean(), height, **dot, ms=8, mec="white", zorder=4)
    if len(worlds) >= statistics.MIN_WORLDS:
        _, low, high = statistics.t_interval(values)
        panel.plot([low, high], [height] * 2, color=style["color"], lw=4, alpha=0.35)


def _only(style):
    return {key: style[key] for key in ("color", "marker")}


OF_REPORT = (*PICTURES, Picture("Who wins against SFT", "win_rates.png", draw))
