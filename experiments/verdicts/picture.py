"""The picture: every judged comparison, in smallest effects of interest."""

import textwrap
from typing import NamedTuple

from experiments.verdicts import evidence
from rlhf_jax.reporting import figure_style, markdown

_REACH = -4.5, 6.5  # smallest effects; what is beyond stands at the edge, in figures
_NAMES = 8.2  # the room of names, in the same unit
_LETTERS = {"paper": 40, "claim": 110, "comparison": 66}
_INCHES = 0.245  # a line
_DIFFER = ("reproduced", "better, negligibly", "worse, negligibly", "contradicted")


class Look(NamedTuple):
    """Colour and marker of a word."""

    color: str
    marker: str


LOOKS = dict(
    zip(
        evidence.JUDGED,
        (
            Look("#009E73", "o"),
            Look("#0072B2", "D"),
            Look("#56B4E9", "^"),
            Look("#E69F00", "s"),
            Look("#7A7A7A", "X"),
            Look("#CC79A7", "v"),
            Look("#D55E00", "P"),
        ),
        strict=True,
    )
)


class Line(NamedTuple):
    """A line of a column: a paper's title, a claim, or a comparison with its row."""

    kind: str  # "paper", "claim", "comparison", "gap"
    text: str = ""
    row: evidence.Row | None = None


def draw(found, path):
    """Draws a line a judged comparison, under the claim it is about; returns the path.

    The marker is the mean difference divided by the smallest effect of interest, the
    bar its interval; 1 is just large enough to matter, 0 no difference. Colour and
    marker are the verdict; hollow is what does not survive Holm's correction.

    found: of `verdicts.collect`.
    """
    columns = _columns([_lines(paper, items) for paper, items in found])
    most = max(map(len, columns))
    sheet, panels = figure_style.sheet(
        1, len(columns), width=9.4, height=0.6 + _INCHES * most
    )
    for panel, lines in zip(panels.flat, columns, strict=True):
        _panel(panel, lines, most)
    judged = sum(line.row is not None for lines in columns for line in lines)
    note = f"{markdown.count(judged, 'comparison')}; right of 0 speaks for the claim"
    title = "What small worlds say of the papers' claims"
    return figure_style.finish(sheet, _keys(), path, title, note)


def _lines(paper, items):
    """The lines of a paper; a claim of which nothing was judged has none."""
    lines = [Line("paper", paper.title)]
    for item, rows in items:
        judged = [row for row in rows if row.word in LOOKS]
        if judged:
            lines.append(Line("claim", f"{item.number}. {item.claim}"))
            lines += [Line("comparison", _named(row), row) for row in judged]
    if len(lines) == 1:
        lines.append(Line("claim", "not run yet"))
    return [*lines, Line("gap")]


def _named(row):
    """The comparison, and of studies that were run twice how."""
    tuned = row.units.rpartition(", ")[2]
    return (
        f"{row.what}, {tuned}" if row.source.startswith("elastic_reset") else row.what
    )


def _columns(papers):
    """One or two columns of whole papers, in order, as equally long as may be."""
    if len(papers) == 1:
        return [papers[0]]

    def longest(cut):
        return max(sum(map(len, part)) for part in (papers[:cut], papers[cut:]))

    cut = min(range(1, len(papers)), key=longest)
    return [sum(papers[:cut], []), sum(papers[cut:], [])]


def _keys():
    dot = {"ms": 8, "mec": "white"}
    words = [
        figure_style.key(word, color=look.color, marker=look.marker, **dot)
        for word, look in LOOKS.items()
    ]
    hollow = {"marker": "o", "ms": 7, "mfc": "white"}
    return [
        words,
        [
            figure_style.key("too small to matter", marker="s", ms=9, alpha=0.25),
            figure_style.key("interval", ls="-", lw=4.5, alpha=0.35),
            figure_style.key("Holm p above 5%", **hollow),
        ],
    ]


def _panel(panel, lines, most):
    """A column: names to the left of the smallest difference, within the panel, so that
    claims can run across both."""
    (left, right), middle = _REACH, -sum(_REACH) / 2
    panel.set_xlim(left - _NAMES, right)
    panel.set_ylim(-most + 0.5, 0.5)
    place = 1 - (right + middle) / (right - left + _NAMES)
    panel.set_xlabel("difference / smallest effect of interest", fontsize=8.5, x=place)
    panel.axvspan(-1, 1, color=figure_style.MUTED, alpha=0.1, lw=0, zorder=0)
    panel.axvline(0.0, color=figure_style.MUTED, lw=1, zorder=1)
    panel.set_xticks(range(-4, 7, 2))
    panel.set_yticks([])
    panel.spines["left"].set_visible(False)
    panel.spines["bottom"].set_bounds(*_REACH)
    for i, line in enumerate(lines):
        if line.row is None:
            _heading(panel, -i, line)
        else:
            _draw(panel, -i, line.row)
            panel.text(
                left - 0.2, -i, _shortened(line), ha="right", va="center", fontsize=8,
                color="#333333",
            )  # fmt: skip


def _shortened(line):
    return textwrap.shorten(line.text, _LETTERS[line.kind], placeholder=" …")


def _heading(panel, height, line):
    """A title or a claim, on white so that neither band nor grid crosses it."""
    style = {
        "paper": {"fontsize": 11.5, "fontweight": "bold", "color": "#111111"},
        "claim": {"fontsize": 7.8, "style": "italic", "color": "#444444"},
    }
    if line.kind in style:
        panel.text(
            _REACH[0] - _NAMES, height, _shortened(line), va="center", zorder=6,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
            **style[line.kind],
        )  # fmt: skip


def _draw(panel, height, row):
    look, (left, right) = LOOKS[row.word], _REACH
    mean, low, high = (x / row.smallest for x in (row.mean, row.low, row.high))
    panel.plot(
        [max(low, left), min(high, right)], [height, height],
        color=look.color, lw=4.5, alpha=0.35, solid_capstyle="butt", zorder=2,
    )  # fmt: skip
    hollow = row.word in _DIFFER and row.p_holm is not None and row.p_holm > 0.05
    filled = {"mfc": "white", "mec": look.color, "mew": 1.6} if hollow else {}
    inside = left < mean < right
    at = min(max(mean, left + 0.15), right - 0.15)
    marker = look.marker if inside else ("<" if mean < left else ">")
    panel.plot(
        at, height, **{"color": look.color, "mec": "white", "mew": 0.8, **filled},
        ls="", marker=marker, ms=7.5, zorder=4,
    )  # fmt: skip
    if not inside:
        side, toward = (-8, "right") if mean > right else (8, "left")
        panel.annotate(
            f"{mean:.0f}", (at, height), (side, 0), textcoords="offset points",
            ha=toward, va="center", fontsize=8, color=look.color,
        )  # fmt: skip
