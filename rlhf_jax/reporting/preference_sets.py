"""A reward model's preference sets in its report: tables, and reliability.png.

`found` is {"temperature": T, "sets": {name: what `preference_sets.measure` returns}},
the set on which T was fitted first.
"""

import numpy as np

from rlhf_jax.evaluation import statistics
from rlhf_jax.reporting import figure_style, markdown

PICTURE = "reliability.png"
_WIDTH, _HEIGHT = 3.6, 3.1  # inches of a panel
_BEFORE = {"color": figure_style.COLORS[0], "marker": "o"}
_AFTER = {"color": figure_style.COLORS[1], "marker": "s"}


def section(found):
    """Paragraphs of report.md."""
    sets, first = found["sets"], next(iter(found["sets"]))
    temperature = markdown.number(found["temperature"])
    return (
        "## On preference sets",
        _quality(sets),
        "Accuracy: pairs whose chosen answer scores higher, a tie counts as wrong; 95% "
        "score interval in brackets. Length alone prefers the longer answer. NLL in "
        f"nats a pair; ECE in equally full bins; behind the arrow, scores are divided "
        f"by T = {temperature}, which was fitted on {first} and on nothing else.",
        f"![Reliability]({PICTURE})",
        "### By length",
        _lengths(sets),
        "Accuracy where the chosen answer is shorter, as long, or longer than the "
        "rejected one, in characters; correlations of scores with lengths over all "
        "answers, and of their differences over pairs.",
        _quarters(sets),
        "Accuracy in quarters of the pairs, by the length of the chosen answer minus "
        "that of the rejected one.",
    )


def lines(found):
    """A line a set, for the console."""
    for name, one in found["sets"].items():
        scaled = (one["scaled"] or {}).get("ece")
        ece = " → ".join(map(markdown.number, (one["ece"], scaled)))
        accuracy = markdown.interval(one["accuracy"])
        alone = markdown.number(one["length"]["accuracy_of_length"]["mean"])
        yield (
            f"{name:<24} accuracy {accuracy} of {one['pairs']}, length alone {alone}, "
            f"ECE {ece}"
        )


def _quality(sets):
    rows = []
    for name, one in sets.items():
        scaled = one["scaled"] or {}
        changes = [
            f"{markdown.number(one[key])} → {markdown.number(scaled.get(key))}"
            for key in ("nll", "brier", "ece")
        ]
        shares = one["accuracy"], one["length"]["accuracy_of_length"]
        rows.append([name, one["pairs"], *map(markdown.interval, shares), *changes])
    header = ["set", "pairs", "accuracy", "length alone", "NLL", "Brier", "ECE"]
    return markdown.table(header, rows)


def _lengths(sets):
    rows = []
    for name, one in sets.items():
        about = one["length"]
        correlations = about["correlation"], about["correlation_of_differences"]
        strata = map(stratum, about["by_sign"])
        rows.append([name, *strata, *map(markdown.number, correlations)])
    header = ["set", "chosen shorter", "as long", "chosen longer"]
    return markdown.table([*header, "r(score, length)", "r(Δ, difference)"], rows)


def _quarters(sets):
    rows = [
        [name, *map(stratum, one["length"]["by_quantile"])]
        for name, one in sets.items()
    ]
    return markdown.table(["set", "shortest", "second", "third", "longest"], rows)


def stratum(one):
    """An `accuracy` with its interval and its pairs, of `by_sign` or `by_quantile`."""
    accuracy = markdown.interval(one["accuracy"])
    return f"{accuracy} of {one['pairs']}" if one["pairs"] else "–"


def draw(found, path, title, note=""):
    """Writes reliability diagrams, a panel a set. Returns the path."""
    sets = found["sets"]
    columns = min(3, len(sets))
    sheet, grid = figure_style.sheet(
        -(-len(sets) // columns), columns, width=_WIDTH, height=_HEIGHT
    )
    for panel in grid.flat[len(sets) :]:
        panel.set_visible(False)
    for panel, (name, one) in zip(grid.flat, sets.items(), strict=False):
        _panel(panel, name, one)
    keys = [
        figure_style.key("as it is", ls="-", **_BEFORE),
        figure_style.key("divided by T", ls="-", **_AFTER),
    ]
    keys.append(figure_style.key("sure as often as right", ls=(0, (4, 3))))
    return figure_style.finish(sheet, [keys], path, title, note)


def _panel(panel, name, one):
    """Accuracy against confidence, with score intervals of each bin."""
    panel.plot([0.5, 1], [0.5, 1], color=figure_style.MUTED, lw=1, ls=(0, (4, 3)))
    errors = f"{one['pairs']} pairs, ECE {markdown.number(one['ece'])}"
    _bins(panel, one["reliability"], _BEFORE, shift=-0.002)
    if one["scaled"]:
        _bins(panel, one["scaled"]["reliability"], _AFTER, shift=0.002)
        errors += f" → {markdown.number(one['scaled']['ece'])}"
    panel.set_title(name, loc="left", fontsize=10, fontweight="bold")
    panel.text(0.505, 0.03, errors, fontsize=8.5, color=figure_style.MUTED)
    panel.set(xlim=(0.49, 1.01), ylim=(0, 1.02))
    small = {"fontsize": 8.5, "color": figure_style.MUTED}
    panel.set_xlabel("confidence in the better-scored answer", **small)
    panel.set_ylabel("how often it is the chosen one", **small)


def _bins(panel, reliability, style, *, shift):
    """One curve; shifted a little, so that two intervals do not cover each other."""
    names = ("confidence", "accuracy", "count")
    confidence, accuracy, count = (np.asarray(reliability[n], float) for n in names)
    intervals = [statistics.wilson(*pair) for pair in zip(accuracy, count, strict=True)]
    low, high = np.array([(i.low, i.high) for i in intervals]).T
    panel.errorbar(
        confidence + shift, accuracy,
        yerr=np.maximum([accuracy - low, high - accuracy], 0),
        color=style["color"], marker=style["marker"], ms=5, mec="white", lw=1.4,
        elinewidth=0.9, capsize=0,
    )  # fmt: skip
