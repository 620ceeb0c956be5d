"""How plots look: sheets of panels, colours, markers, legends.

Figures are made without pyplot, so no global state changes and any thread may draw.
Colours are Okabe and Ito's, which colour-blind readers can distinguish; every method
also has its own marker.
"""

import io
import pathlib
import re
import textwrap

import numpy as np
import PIL.Image
from matplotlib import figure, lines, ticker
from matplotlib.backends import backend_agg

from rlhf_jax.runtime import files

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

_SHORT = re.compile(
    r"([pid]po|sft|rloo|grpo|dapo|gspo|kto|cpo|orpo|bco|kl|ema|h?ma|rsf|reinforce)\d*"
)
_SPELLED = {"simpo": "SimPO"}
_GRID = {"color": "#E4E4E4", "linewidth": 0.7}
MUTED = "#555555"
STAR = {"marker": "*", "ms": 13, "color": "#1A1A1A", "mec": "white", "mew": 0.9}

PERCENT = ticker.FuncFormatter(lambda value, _: f"{100 * value:g}")


def method_name(method, labels=None):
    """The printed name of a method: "elastic_reset_kl" → "Elastic reset KL"."""
    if method in (labels or {}):
        return labels[method]
    words = method.split("_")
    words[0] = _SPELLED.get(words[0], words[0].capitalize())
    return " ".join(w.upper() if _SHORT.fullmatch(w.lower()) else w for w in words)


def styles():
    """Colour, marker and dashes in turn; only the 73rd method repeats the first."""
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
    """A legend entry that applies to every method, grey unless `color` is given."""
    return lines.Line2D([], [], label=text, **{"color": MUTED, "ls": "", **style})


def _legend(sheet, groups):
    """A legend below the panels: each group starts a row; as many columns as fit."""
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
    """The entries of a legend as [rows, columns], each group padded with blanks."""
    blank = lines.Line2D([], [], ls="", label=" ")
    filled = [g + [blank] * (-len(g) % columns) for g in groups]
    return np.array(sum(filled, []), object).reshape(-1, columns)


def _width(table):
    """Roughly how many inches wide a legend is; a column fits its longest text."""
    longest = [max(len(entry.get_label()) for entry in column) for column in table.T]
    return sum(0.65 + 0.068 * count for count in longest)


def finish(sheet, groups, path, title, note):
    """Adds title, note and legend and writes the file, atomically. Returns the path."""
    sheet.suptitle(title, x=0.012, ha="left", fontsize=12, fontweight="bold")
    small = {"fontsize": 8, "color": MUTED}
    note = textwrap.shorten(note, 140)
    sheet.text(0.988, 0.985, note, ha="right", va="top", **small)
    _legend(sheet, groups)
    path, content = pathlib.Path(path), io.BytesIO()
    kind = path.suffix.lstrip(".") or "png"
    sheet.savefig(content, dpi=150, format=kind, facecolor="white")
    return files.write(path, content.getvalue())


def light(path, *, width=1100):
    """The PNG at `path` with fewer pixels and colours, as bytes.

    For documents that embed their pictures, as notebooks do: about a fifth of the size.
    The palette holds tints of the methods' colours and greys, so methods stay distinct.
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
