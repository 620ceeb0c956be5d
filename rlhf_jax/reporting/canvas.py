"""Sheets of panels, colours, legends and the names of metrics: how pictures look.

Figures are made without pyplot, so nothing global changes and any thread may draw.
Colours are Okabe and Ito's, told apart by colour-blind readers; a method has a marker
of its own besides.
"""

import contextlib
import contextvars
import io
import pathlib
import re
import textwrap

import numpy as np
import PIL.Image
from matplotlib import figure, lines, ticker
from matplotlib.backends import backend_agg

from rlhf_jax.runtime import metrics_log

COLORS = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#7F3C8D",
    "#5F5F5F",
)
MARKERS = "osD^vPX<>"
DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)))  # of the first, second, third 8 methods

# Metric → (title, unit). What is not listed is shown under its own name.
LABELS = {
    "eval/reward": ("Proxy reward", "sd of initial samples"),
    "eval/gold": ("Gold reward", ""),
    "drift/text_nll": ("Human-text NLL", "nats / token"),
    "drift/kl_initial": ("KL from the initial policy", "nats / sample"),
    "tax/skills": ("Skills lost", "points of accuracy"),
    "truth/kl_corpus_policy": ("Corpus mass lost, KL(p*‖π)", "nats / sample"),
    "truth/kl_policy_corpus": ("Off-corpus mass, KL(π‖p*)", "nats / sample"),
    "eval/entropy": ("Entropy", "nats / token"),
    "eval/length": ("Length", "tokens"),
    "objective/scores": ("Proxy reward while training", "sd of initial samples"),
    "objective/kl": ("KL from the reference", "nats / sample"),
    "objective/entropy": ("Entropy while training", "nats / sample"),
}
_SHORT = re.compile(r"(ppo|sft|rloo|grpo|dpo|ipo|kl|ema|ma|hma|rsf|reinforce)\d*")
_GRID = {"color": "#E4E4E4", "linewidth": 0.7}
MUTED = "#555555"

# What a person wants more of, and less of; of the rest, neither.
_MORE = ("eval/reward", "eval/gold", "objective/scores")
_LESS = ("drift/", "tax/", "truth/", "objective/kl")

PERCENT = ticker.FuncFormatter(lambda value, _: f"{100 * value:g}")


_named = contextvars.ContextVar("named", default=None)


@contextlib.contextmanager
def naming(labels):
    """In the block metrics have these {name: (title, unit)} before those of `LABELS`.

    For an experiment in which `eval/reward` is no reward model's, for instance.
    """
    before = _named.set({**(_named.get() or {}), **labels})
    try:
        yield
    finally:
        _named.reset(before)


def label(key):
    """(title, unit) of a metric; a name that is not known titles itself."""
    return {**LABELS, **(_named.get() or {})}.get(key, (key, ""))


def direction(key):
    """An arrow to where the metric is better, "" where that cannot be said."""
    return " ↑" if key.startswith(_MORE) else " ↓" if key.startswith(_LESS) else ""


def method_name(method, labels=None):
    """The printed name of a method: "elastic_reset_kl" → "Elastic reset KL"."""
    if method in (labels or {}):
        return labels[method]
    words = method.split("_")
    words[0] = words[0].capitalize()
    return " ".join(w.upper() if _SHORT.fullmatch(w.lower()) else w for w in words)


def styles():
    """Colour, marker and dashes in turn; 72 methods before two look alike."""
    # 8 colours and 9 markers share no factor, so all 72 pairs come up.
    for i in range(len(COLORS) * len(MARKERS)):
        yield {
            "color": COLORS[i % len(COLORS)],
            "marker": MARKERS[i % len(MARKERS)],
            "ls": DASHES[i // len(COLORS) % len(DASHES)],
        }


def sheet(rows, columns, *, width, height):
    """A figure of panels, each `width` × `height` inches. Returns (figure, panels)."""
    sheet = figure.Figure(figsize=(width * columns, height * rows + 0.9), dpi=150)
    backend_agg.FigureCanvasAgg(sheet)
    sheet.set_layout_engine("constrained", w_pad=0.09, h_pad=0.09)
    panels = sheet.subplots(rows, columns, squeeze=False)
    for panel in panels.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color("#9A9A9A")
        panel.tick_params(labelsize=8, color="#9A9A9A", length=3)
        panel.grid(True, **_GRID)
        panel.set_axisbelow(True)
    return sheet, panels


def handles(methods, labels):
    """The legend's entries of the methods, in their colours and markers."""
    return [
        lines.Line2D([], [], **style, lw=2, ms=6, mec="white", label=name)
        for name, style in zip(
            (method_name(method, labels) for method in methods), styles(), strict=False
        )
    ]


def key(text, **style):
    """A legend's entry in grey (or `color`), which stands for every method's."""
    return lines.Line2D([], [], label=text, **{"color": MUTED, "ls": "", **style})


def _legend(sheet, groups):
    """Below the panels, each group on rows of its own, as wide as there is room for."""
    columns = max(1, *(len(group) for group in groups))
    while columns > 1 and _width(_rows(groups, columns)) > sheet.get_figwidth():
        columns -= 1
    table = _rows(groups, columns)
    sheet.legend(
        handles=list(table.T.flat),
        loc="outside lower center",
        fontsize=8.5,
        ncols=columns,
        frameon=False,
        handlelength=2.2,
    )


def _rows(groups, columns):
    """The entries of a legend, [rows, columns], blanks where a group ends."""
    blank = lines.Line2D([], [], ls="", label=" ")
    filled = [g + [blank] * (-len(g) % columns) for g in groups]
    return np.array(sum(filled, []), object).reshape(-1, columns)


def _width(table):
    """About how many inches a legend takes: each column as wide as its longest text."""
    longest = [max(len(entry.get_label()) for entry in column) for column in table.T]
    return sum(0.65 + 0.068 * count for count in longest)


def finish(sheet, groups, path, title, note):
    """Title, note, legend; the file is written whole or not at all."""
    sheet.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold")
    small = {"fontsize": 8, "color": MUTED}
    note = textwrap.shorten(note, 140)
    sheet.text(0.988, 0.985, note, ha="right", va="top", **small)
    _legend(sheet, groups)
    path, content = pathlib.Path(path), io.BytesIO()
    kind = path.suffix.lstrip(".") or "png"
    sheet.savefig(content, dpi=150, format=kind, facecolor="white")
    return metrics_log.write_text(path, content.getvalue())


def light(path, *, width=1100):
    """A PNG of fewer pixels and colours than the one at `path`, as bytes.

    For pages that carry their pictures inside, as notebooks do: about a fifth of the
    size. Its colours are those of the methods, lighter and lighter, and greys, so that
    no two methods come to look alike.
    """
    image = PIL.Image.open(path).convert("RGB")
    height = round(image.height * width / image.width)
    image = image.resize((width, height), PIL.Image.Resampling.LANCZOS)
    palette = PIL.Image.new("P", (1, 1))
    palette.putpalette(_tints())
    small = image.quantize(palette=palette, dither=PIL.Image.Dither.NONE)
    content = io.BytesIO()
    small.save(content, format="png", optimize=True)
    return content.getvalue()


def _tints():
    """Red, green, blue, 0 to 255, of every colour in 8 strengths and of 17 greys."""
    hues = [[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in COLORS]
    tints = [
        [round(255 + strength * (channel - 255)) for channel in hue]
        for hue in hues
        for strength in (1.0, 0.85, 0.7, 0.55, 0.42, 0.3, 0.2, 0.1)
    ]
    greys = [[min(16 * level, 255)] * 3 for level in range(17)]
    return [channel for color in (*tints, *greys) for channel in color]
