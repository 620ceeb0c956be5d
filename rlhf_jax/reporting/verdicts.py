"""The verdicts of a report: what was declared beforehand, and what the seeds say."""

from rlhf_jax.evaluation import statistics
from rlhf_jax.reporting import markdown


def paragraphs(summary, findings, report):
    """The findings as tables, one per family of claims; below 8 seeds, no test."""
    yield "## Verdicts"
    if summary["seeds"] < statistics.MIN_SEEDS:
        yield f"{markdown.count(summary['seeds'], 'seed')}: shown as dots, no test."
    if not findings:
        yield "No claim was declared before the run, so none is judged."
        return
    header = ["claim", "endpoint", "smallest effect", "difference", "p", "Holm p"]
    for family in dict.fromkeys(f.claim.family for f in findings):
        members = [f for f in findings if f.claim.family == family]
        if family:
            yield f"### {family}"
        body = [_row(f, report) for f in members]
        yield markdown.table([*header, "verdict"], body)
        yield _jointly(members, report)
    yield (
        "Paired differences by seed, positive in favour of the method named first; "
        "95% t-interval, exact two-sided sign-flip p, and p adjusted over its table. "
        "“Undecided” names the seeds that would decide with a power of 80%."
    )


def sentence(finding, report):
    """ "A is better than B", or "A ≈ B"."""
    sign = "is better than" if finding.claim.kind == "greater" else "≈"
    return f"{report.name(finding.claim.method)} {sign} {report.name(finding.other)}"


def answer(finding, report):
    """The sentence, its verdict and its number: what a report says first."""
    endpoint = report.endpoint(finding.claim.endpoint)
    gap = markdown.interval(finding.verdict._asdict(), endpoint.scale)
    return (
        f"“{sentence(finding, report)}” is {finding.verdict.word} "
        f"({endpoint.title}: {gap})"
    )


def needed(verdict):
    """ " (about 40 seeds would decide)" for what is undecided, else ""."""
    if verdict.word != "undecided":
        return ""
    if verdict.seeds_needed is None:
        return " (more than a million seeds would be needed)"
    return f" (about {verdict.seeds_needed} seeds would decide)"


def _row(f, report):
    """One finding as a row of the table."""
    endpoint = report.endpoint(f.claim.endpoint)
    row = [sentence(f, report), endpoint.title]
    row.append(markdown.number(f.smallest_effect, endpoint.scale))
    if f.verdict is None:
        return [*row, "", "", "", f"none: {f.reason}"]
    if f.verdict.word == "no test":
        gap = markdown.number(f.verdict.mean, endpoint.scale)
        return [*row, gap, "", "", "no test"]
    ps = [markdown.number(f.verdict.p), markdown.number(f.p_holm)]
    gap = markdown.interval(f.verdict._asdict(), endpoint.scale)
    return [*row, gap, *ps, f"**{f.verdict.word}**{needed(f.verdict)}"]


def _jointly(findings, report):
    """A line for each claim that names several others: every comparison at 95%."""
    lines = []
    for claim in dict.fromkeys(f.claim for f in findings):
        parts = [f for f in findings if f.claim == claim]
        if len(parts) > 1 and all(f.verdict for f in parts):
            names = markdown.join(report.name(f.other) for f in parts)
            word = statistics.all_of([f.verdict for f in parts])
            text = sentence(parts[0]._replace(other=""), report).strip()
            title = report.endpoint(claim.endpoint).title
            lines.append(f"- {text} all of {names} ({title}): **{word}**")
    return "\n".join(lines)
