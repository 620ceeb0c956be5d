"""The page: how to read a verdict, the words of each paper, a table a paper."""

import collections

from experiments.verdicts import evidence, shelves, studies
from rlhf_jax.evaluation import statistics
from rlhf_jax.reporting import markdown

_MEANINGS = {
    "reproduced": "the 95% interval of the difference lies above 0, and its mean is at "
    "least the smallest effect of interest",
    "≈": "claimed to be equal, and the 90% interval lies within the smallest effect on "
    "both sides",
    "better, negligibly": "the interval lies above 0, and the mean is below the "
    "smallest effect",
    "undecided": "the interval reaches from nothing to more than the smallest effect: "
    "more worlds would be needed, and how many is said",
    "not reproduced": "the interval holds 0, and excludes the smallest effect",
    "worse, negligibly": "the interval lies below 0, by less than the smallest effect "
    "in the mean",
    "contradicted": "the interval lies below 0, by at least the smallest effect in the "
    "mean; of what was claimed to be equal, the 90% interval lies outside the smallest "
    "effect",
    evidence.NO_TEST: f"fewer than {statistics.MIN_WORLDS} worlds: a mean, and the "
    "least and the largest seed",
    evidence.NOT_JUDGED: "measured, but not declared before the run as what decides: "
    "an interval without a verdict",
    evidence.SHOWN: "a contract of the code that holds or fails, not a finding",
    evidence.UNTESTED: "nothing was run, for the reason given",
    evidence.NOT_RUN: "planned, and without a kept result so far",
}
_HEADER = (
    "",
    "claim",
    "evidence",
    "measured by",
    "difference",
    "smallest effect",
    "verdict",
    "units",
    "from, and how to run it again",
)


def text(found, shelf):
    """The page as Markdown.

    Args: found: of `verdicts.collect`; shelf: that it was read from.
    """
    parts = [
        "# Four papers, claim by claim"
        if len(found) > 1
        else f"# {found[0][0].title}, claim by claim",
        "Every item of the papers' checklists, and what the kept results beside this "
        "page say of it. `python -m experiments.verdicts` writes page and picture; no "
        "figure and no verdict is written by hand. All of it is about these "
        "microworlds and these models, which are small: a word is no judgment of a "
        "paper.",
        _reading(),
        counts(found),
        "![Every judged claim](verdicts.png)",
        *(part for paper, items in found for part in _paper(paper, items)),
        *_sources(found, shelf),
    ]
    return "\n\n".join(parts) + "\n"


def counts(found):
    """The words of each paper, counted, as a table."""
    rows = [(paper.title, tally(items)) for paper, items in found]
    shown = [word for word in evidence.WORDS if any(by[word] for _, by in rows)]
    body = [[title, *(by[word] or "" for word in shown)] for title, by in rows]
    return markdown.table(["", *shown], body)


def tally(items):
    """Counter of the words of a paper's rows."""
    return collections.Counter(row.word for _, rows in items for row in rows)


def difference(row):
    """The number of a row with its interval and unit; "" where it has none."""
    if row.mean is None:
        return ""
    numbers = {"mean": row.mean, "low": row.low, "high": row.high}
    ranged = row.low is not None and row.high is not None
    shown = markdown.interval(numbers, row.scale) if ranged else None
    return f"{shown or markdown.number(row.mean, row.scale)} {row.unit}".rstrip()


def verdict(row):
    """The word of a row, and what would decide it."""
    word = f"**{row.word}**" if row.word in evidence.JUDGED else row.word
    if row.p_holm is not None:
        return f"{word}, Holm p {markdown.number(row.p_holm)}{row.needed}"
    return f"{word}{row.needed}"


def _reading():
    lines = [f"- **{word}**: {said};" for word, said in _MEANINGS.items()]
    return "\n".join(
        [
            "**How to read a verdict.** A difference is positive in favour of what the "
            "claim says is better. Worlds are the unit: seeds of a world are averaged "
            "first, methods are paired. The smallest effect of interest was declared "
            "before the run. A word reads a comparison's own interval; Holm's p is of "
            "its family, and a word with one above 5% does not survive the family.",
            "",
            *lines[:-1],
            lines[-1].rstrip(";") + ".",
        ]
    )


def _paper(paper, items):
    yield f"## {paper.title}"
    yield f"{paper.source}. Items marked + are no part of its checklist."
    body = []
    for item, rows in items:
        for i, row in enumerate(rows):
            start = ["", ""] if i else [item.number, item.claim]
            body.append([*start, *_cells(row)])
    yield markdown.table(_HEADER, body)


def _cells(row):
    smallest = markdown.number(row.smallest, row.scale) if row.smallest else ""
    return [
        row.what,
        row.endpoint,
        difference(row),
        smallest,
        verdict(row),
        row.units,
        _source(row),
    ]


def _source(row):
    if not row.source:
        return ""
    if row.word == evidence.SHOWN:
        file = row.source.partition("::")[0]
        return f"[`python -m pytest {row.source}`](../../{file})"
    if row.word == evidence.NOT_RUN:
        return f"{row.source}.json, to come"
    anchor = f"{row.source}.json".replace(".", "")
    return f"[{row.source}.json]({row.source}.json), [command](#{anchor})"


def _sources(found, shelf):
    """The commands and the circumstances of every kept result that was read."""
    names = {
        row.source
        for _, items in found
        for _, rows in items
        for row in rows
        if row.source in studies.STUDIES and row.word != evidence.NOT_RUN
    }
    if names:
        yield "## Commands"
    for name in sorted(names):
        about = shelves.about(shelf.kept(name))
        yield f"### {name}.json"
        said = f": {about['note'].rstrip('.')}" if about.get("note") else ""
        day = about["date"].partition("T")[0]
        yield f"{day}, {about['machine']}, commit {about['commit']}{said}."
        yield "```\n" + "\n".join(about["commands"]) + "\n```"
