"""The verdicts of a report: what was declared beforehand, and what the worlds say."""

from rlhf_jax.evaluation import statistics
from rlhf_jax.reporting import markdown

_ALONE = "†"  # a pair of which one has a single look


def paragraphs(summary, findings, report):
    """The findings as tables: the primary ones judged, family by family, then the
    secondary ones with their intervals alone. Below 8 worlds nothing is tested."""
    yield "## Verdicts"
    if summary["worlds"] < statistics.MIN_WORLDS:
        yield f"{markdown.units(summary)}: shown as dots, no test."
    if not findings:
        yield "No claim was declared before the run, so none is judged."
        return
    primary = [f for f in findings if not f.claim.secondary]
    if any(f.verdict for f in primary):
        yield "![Paired differences](differences.png)"
    yield from _primary(primary, report)
    yield from _secondary([f for f in findings if f.claim.secondary], report)
    yield (
        "Paired differences, seeds averaged within worlds, positive in favour of the "
        "method named first; 95% t-interval (90% for ≈), two-sided sign-flip p, and p "
        "adjusted over its table. ICC: the intraclass correlation of seeds of a world. "
        "“Undecided” names the worlds that would decide with a power of "
        f"{statistics.POWER:.0%}, were the effect {statistics.TRUE_EFFECT} times the "
        "smallest of interest."
    )


def sentence(finding, report):
    """ "A is better than B", or "A ≈ B"."""
    sign = "is better than" if finding.claim.kind == "greater" else "≈"
    return f"{report.name(finding.claim.method)} {sign} {report.name(finding.other)}"


def title(finding, report):
    """The printed name of a finding's endpoint, as it was read."""
    endpoint = report.endpoint(finding.claim.endpoint)
    if finding.at:
        what = "gold" if endpoint.reading == "gold_at" else "reward"
        return (
            f"{what} at the drift of {report.name(finding.at)}, {endpoint.axis.title}"
        )
    return endpoint.title


def answer(finding, report):
    """The sentence, its verdict and its number: what a report says first."""
    endpoint = report.endpoint(finding.claim.endpoint)
    gap = markdown.interval(finding.verdict._asdict(), endpoint.scale)
    return (
        f"“{sentence(finding, report)}” is judged {finding.verdict.word} "
        f"({title(finding, report)}: {gap})"
    )


def needed(verdict):
    """ " (about 40 worlds would decide)" for what is undecided, else ""."""
    if verdict.word != "undecided":
        return ""
    if verdict.needed is None:
        return " (more than a million worlds would be needed)"
    return f" (about {verdict.needed} worlds would decide)"


def _primary(findings, report):
    header = ["claim", "endpoint", "smallest effect", "difference", "p", "Holm p"]
    for family in dict.fromkeys(f.claim.family for f in findings):
        members = [f for f in findings if f.claim.family == family]
        if family:
            yield f"### {family}"
        body = [_row(f, report) for f in members]
        yield markdown.table([*header, "ICC", "verdict"], body)
        yield _jointly(members, report)


def _secondary(findings, report):
    if not findings:
        return
    yield "### Secondary endpoints"
    yield "Differences with their intervals, a row a pair; nothing is judged."
    for reading in dict.fromkeys(_reading(f, report) for f in findings):
        yield _pairs([f for f in findings if _reading(f, report) == reading], report)
    if any(f.at for f in findings):
        yield f"{_ALONE} Both read at the drift of the one that has a single look."


def _reading(finding, report):
    return report.endpoint(finding.claim.endpoint).reading


def _pairs(findings, report):
    """A table: pairs of methods × endpoints of one reading."""
    names = list(dict.fromkeys(f.claim.endpoint for f in findings))
    cells = {}
    for f in findings:
        pair = f"{report.name(f.claim.method)} − {report.name(f.other)}"
        text = _difference(f, report) if f.verdict else f"none: {f.reason}"
        cells.setdefault(pair, {})[f.claim.endpoint] = text + _ALONE * bool(f.at)
    return markdown.table(
        ["pair", *(report.endpoint(name).title for name in names)],
        [[pair, *(row.get(n, "") for n in names)] for pair, row in cells.items()],
    )


def _row(f, report):
    """One finding as a row of the table."""
    endpoint = report.endpoint(f.claim.endpoint)
    row = [sentence(f, report), title(f, report)]
    row.append(markdown.number(f.smallest_effect, endpoint.scale))
    if f.verdict is None:
        return [*row, "", "", "", "", f"none: {f.reason}"]
    if f.verdict.word == "no test":
        return [*row, _difference(f, report), "", "", "", "no test"]
    ps = [markdown.number(f.verdict.p), markdown.number(f.p_holm)]
    word = f"**{f.verdict.word}**{needed(f.verdict)}"
    return [*row, _difference(f, report), *ps, _intraclass(f), word]


def _difference(f, report):
    """The mean difference, its interval where it has one, and the units it lacks."""
    scale = report.endpoint(f.claim.endpoint).scale
    text = markdown.number(f.verdict.mean, scale)
    if f.verdict.word != "no test":
        text = markdown.interval(f.verdict._asdict(), scale)
    return text + (f"; {markdown.count(len(f.void), 'unit')} void" if f.void else "")


def _intraclass(f):
    value = f.intraclass
    return "–" if value != value else markdown.number(value)


def _jointly(findings, report):
    """A line for each claim that names several others: every comparison at 95%."""
    lines = []
    for claim in dict.fromkeys(f.claim for f in findings):
        parts = [f for f in findings if f.claim == claim]
        if len(parts) > 1 and all(f.verdict for f in parts):
            names = markdown.join(report.name(f.other) for f in parts)
            word = statistics.all_of([f.verdict for f in parts])
            text = sentence(parts[0]._replace(other=""), report).strip()
            lines.append(f"- {text} all of {names}: **{word}**")
    return "\n".join(lines)
