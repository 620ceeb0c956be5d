"""Which method leads on which drift axis, and when nobody may be said to.

Methods are ranked by the mean area that their fronts cover. One method leads no one,
fronts of unequally many evaluations cover areas that cannot be compared, and a report
whose runs differ in more than the method says why it ranks none (`Report.unranked`).
`summary` is what `results.summarize` returns, `report` a `report.Report`.
"""

from rlhf_jax.reporting import markdown


def headline(summary, report):
    """Who leads on which axis, in half a sentence."""
    if report.unranked:
        return f"nothing is ranked: {report.unranked}"
    if len(summary["methods"]) == 1:
        return _alone(summary, report)
    parts = {}
    for axis, method, _ in _leaders(summary, report):
        parts.setdefault(report.name(method), []).append(axis.title)
    listed = ", ".join(
        f"{name} leads in the mean on {markdown.join(titles)}"
        for name, titles in parts.items()
    )
    if not listed:
        return "no fronts can be ranked"
    return listed + (", so the axes disagree" if len(parts) > 1 else ", on every axis")


def _alone(summary, report):
    """What one method reached, which leads no one."""
    ((name, reached),) = summary["methods"].items()
    reward, _ = report.rewards
    start, end = summary["initial"]["reward"]["mean"], reached["reward"]["mean"]
    if start is None or end is None:
        return f"{report.name(name)} has no final reward"
    ends = f"{markdown.number(start)} to {markdown.number(end)}"
    unit = f" ({reward.unit})" if reward.unit else ""
    return f"{report.name(name)} takes {reward.title.lower()} from {ends}{unit}"


def disagreement(summary, report):
    """Which method leads on each axis, and whether that is the same one."""
    if report.unranked:
        return f"Nothing is ranked: {report.unranked}."
    leaders = _leaders(summary, report)
    if not leaders:
        return "No fronts were measured as often as each other, so none is ranked."
    lines = [
        f"- {axis.title}: {report.name(method)} ({how})"
        for axis, method, how in leaders
    ]
    if len({method for _, method, _ in leaders}) == 1:
        end = "All axes name the same method; that is a ranking of means, not a test."
    else:
        end = "**The axes disagree**: a claim holds for the axis it names, and no more."
    return "\n".join(lines) + "\n\n" + end


def section(summary, report):
    """The paragraphs of a report on who leads where; none for one method."""
    if len(summary["methods"]) > 1:
        yield "## Where the axes disagree"
        yield disagreement(summary, report)


def _leaders(summary, report):
    """[(drift axis, method with the largest mean hypervolume, how large)]; [] where
    fronts are of unequally many evaluations."""
    counts = {m["checkpoints"] for m in summary["methods"].values() if m["hypervolume"]}
    result = []
    if len(counts) > 1:
        return result
    for axis in report.drifts:
        means = {
            method: m["hypervolume"][axis.key]["mean"]
            for method, m in summary["methods"].items()
            if m["hypervolume"].get(axis.key, {}).get("mean") is not None
        }
        if means:
            best = max(means, key=means.get)
            mean = markdown.number(means[best], axis.scale)
            result.append((axis, best, f"hypervolume {mean}"))
    return result
