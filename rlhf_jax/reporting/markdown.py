"""Numbers and tables as Markdown."""

import math


def table(header, rows):
    """A table; cells may hold any text."""
    lines = [_line(header), "|" + "---|" * len(header), *map(_line, rows)]
    return "\n".join(lines)


def number(value, scale=1.0):
    """Three digits; "–" where there is nothing, and a word where it is not finite."""
    if value is None:
        return "–"
    value = float(value) * scale
    if math.isnan(value):
        return "not finite"
    if value and abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def interval(spread, scale=1.0, *, absent="not finite"):
    """mean [low, high] of a {"mean", "low", "high"}, and what is missing from it.

    absent: what a seed without a number is.
    """
    if not spread:
        return "–"
    if spread["mean"] is None:
        return absent
    low, high = number(spread["low"], scale), number(spread["high"], scale)
    text = f"{number(spread['mean'], scale)} [{low}, {high}]"
    missing = spread.get("missing")
    return f"{text}, {missing} {absent}" if missing else text


def count(value):
    """An integer with its thousands apart: 1 234 567."""
    return "–" if value is None else f"{round(value):,}".replace(",", " ")


def join(words):
    """ "a", "a and b", "a, b and c"."""
    words = list(words)
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _line(cells):
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text):
    text = " ".join(str(text).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
