"""The picture of the comparisons: a dot a unit, so that no mean hides one."""

import numpy as np

from rlhf_jax.evaluation import statistics, units
from rlhf_jax.reporting import figure_style, markdown, verdicts

_COLOR = figure_style.COLORS[0]


def differences(findings, path, report):
    """Draws the paired differences of primary findings; returns the path, or None.

    A row a comparison: small dots are units, large ones the means of worlds where there
    are several, the bar is the 95% t-interval (90% for ≈) from 8 worlds on, the shaded
    band what is too small to matter. To the right of 0 is in favour of the method named
    first. None where nothing was compared.

    Args: findings: sequence of claims.Finding; report: `report.Report`.
    """
    shown = [f for f in findings if f.verdict is not None and not f.claim.secondary]
    if not shown:
        return None
    height = 1.1 + 0.42 * len(shown)
    sheet, ((panel,),) = figure_style.sheet(1, 1, width=9.5, height=height)
    for row, finding in enumerate(shown):
        _draw(panel, len(shown) - 1 - row, finding, report)
    panel.axvline(0.0, color=figure_style.MUTED, lw=1, zorder=1)
    panel.set_yticks(range(len(shown)))
    labels = [verdicts.sentence(f, report) for f in reversed(shown)]
    panel.set_yticklabels(labels, fontsize=8.5)
    panel.set_ylim(-0.6, len(shown) - 0.4)
    names = dict.fromkeys(verdicts.title(f, report) for f in shown)
    panel.set_xlabel("difference: " + "; ".join(names), fontsize=8.5)
    dot = {"marker": "o", "color": _COLOR}
    several = len({unit.world for f in shown for unit in f.pairs}) > 1
    keys = [figure_style.key("a unit", ms=3, alpha=0.5, **dot)]
    keys += [figure_style.key("mean of a world", ms=5.5, **dot)] * several
    tested = any(f.verdict.word != "no test" for f in shown)
    keys += [figure_style.key("95% interval", ls="-", lw=3, alpha=0.5)] * tested
    keys.append(figure_style.key("too small to matter", marker="s", ms=9, alpha=0.25))
    count = markdown.count(max(f.verdict.worlds for f in shown), "world")
    note = f"{count}; right of 0: the method named first is better"
    return figure_style.finish(sheet, [keys], path, "Paired differences", note)


def _draw(panel, height, finding, report):
    endpoint = report.endpoint(finding.claim.endpoint)
    sign = -endpoint.scale if endpoint.less_is_better else endpoint.scale
    gaps = {unit: sign * gap for unit, gap in finding.differences.items()}
    limit = abs(endpoint.scale) * finding.smallest_effect
    panel.fill_between(
        [-limit, limit], height - 0.36, height + 0.36,
        color=figure_style.MUTED, alpha=0.14, lw=0, zorder=0,
    )  # fmt: skip
    jitter = np.linspace(-0.16, 0.16, len(gaps)) if len(gaps) > 1 else np.zeros(1)
    dot = {"ls": "", "marker": "o", "color": _COLOR, "mew": 0}
    panel.plot(list(gaps.values()), height + jitter, **dot, ms=3, alpha=0.45)
    worlds = list(units.worlds(gaps).values())
    if len(worlds) > 1:
        panel.plot(worlds, np.full(len(worlds), height), **dot, ms=5, alpha=0.9)
    if len(worlds) >= statistics.MIN_WORLDS:
        verdict, scale = finding.verdict, endpoint.scale
        ends = [scale * verdict.low, scale * verdict.high]
        panel.plot(ends, [height, height], color=_COLOR, lw=5, alpha=0.3, zorder=2)
        word = f"  {verdict.word}"
        at = max(*ends, *gaps.values())
        panel.annotate(word, (at, height), fontsize=8, va="center", zorder=5)
