"""Texts that READMEs make of an instruct model before and after alignments."""

from experiments import results
from experiments.alignment_tax.two_models import page
from rlhf_jax.reporting import markdown

NAME = "smollm2_tax"


def texts():
    """{name: text}: what every alignment lost, and what averages scored."""
    kept = results.report(NAME)["comparisons"]
    return {f"{NAME}.lost": lost(kept), f"{NAME}.averages": averages(kept)}


def lost(kept):
    """Scores before and what changed. kept: {alignment: its results.json}."""
    first = next(iter(kept.values()))
    rows = []
    for suite, row in first["lost"].items():
        changes = [page.difference(one["lost"][suite]) for one in kept.values()]
        asked = f"{suite} ({first['facts'][suite]})"
        rows.append([asked, f"{100 * row['before']:.1f}", *changes])
    both = [page.interval(one["together"], 100) for one in kept.values()]
    start = 100 * first["points"][0]["together"]
    rows.append(["all questions", f"{start:.1f}", *both])
    text = [page.interval(one["text"]) for one in kept.values()]
    rows.append(["NLL of WikiText", markdown.number(first["text"]["before"]), *text])
    paid = [_reward(one["reward"]) for one in kept.values()]
    rows.append(["reward", "", *paid])
    drift = [markdown.number(one["kl"]) for one in kept.values()]
    rows.append(["KL, nats a sample", "", *drift])
    header = ["suite (questions, chance)", "before", *kept]
    note = (
        "Scores in percent; changes with 95% intervals, paired bootstrap over "
        "questions, texts and prompts."
    )
    return f"{markdown.table(header, rows)}\n\n{note}"


def averages(kept):
    """The two ends and every model between them: scores, reward and drift."""
    rows = [
        [
            alignment,
            point["label"],
            f"{100 * point['together']:.1f}",
            *(markdown.number(point[key]) for key in ("reward", "text_nll", "kl")),
        ]
        for alignment, one in kept.items()
        for point in one["points"]
    ]
    header = ["alignment", "model", "all questions", "reward", "NLL of WikiText", "KL"]
    return markdown.table(header, rows)


def _reward(row):
    if row is None:
        return "–"
    ends = " → ".join(markdown.number(row[end]) for end in ("before", "after"))
    return f"{ends}, {page.interval(row)}"
