"""Numbers, tables and counted nouns as Markdown."""

import math


def table(header, rows):
    """A Markdown table; texts are escaped."""
    lines = [_line(header), "|" + "---|" * len(header), *map(_line, rows)]
    return "\n".join(lines)


def number(value, scale=1.0):
    """Three digits; "–" for None and "not finite" for NaN."""
    if value is None:
        return "–"
    value = float(value) * scale
    if math.isnan(value):
        return "not finite"
    if value and abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def interval(estimate, scale=1.0):
    """mean [low, high], and how many units diverged.

    estimate: {"mean", "low", "high"}, perhaps "missing", or None.
    """
    if not estimate:
        return "–"
    if estimate["mean"] is None:
        return "not finite"
    low, high = number(estimate["low"], scale), number(estimate["high"], scale)
    text = f"{number(estimate['mean'], scale)} [{low}, {high}]"
    missing = estimate.get("missing")
    return f"{text}, {missing} not finite" if missing else text


def brackets(summary):
    """What the brackets of `interval` hold; summary: of `results.summarize`."""
    if summary["interval"] == "t95":
        return "95% t-interval over worlds in brackets"
    unit = "world" if summary["worlds"] > 1 else "seed"
    return f"least and largest {unit} in brackets, no interval"


def units(summary):
    """ "3 seeds of one world", "15 worlds × 2 seeds" of `results.summarize`."""
    worlds, seeds = summary["worlds"], summary["seeds"]
    if worlds == 1:
        return f"{count(seeds, 'seed')} of one world"
    return f"{count(worlds, 'world')} × {count(seeds, 'seed')}"


def integer(value):
    """An integer with thousands separated by spaces: 1 234 567."""
    return "–" if value is None else f"{round(value):,}".replace(",", " ")


def count(n, noun):
    """ "1 seed", "3 seeds"."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def join(words):
    """ "a", "a and b", "a, b and c"."""
    words = list(words)
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _line(texts):
    return "| " + " | ".join(_escaped(text) for text in texts) + " |"


def _escaped(text):
    text = " ".join(str(text).split())
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
