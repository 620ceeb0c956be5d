"""What a report of objective mismatch says besides fronts and claims."""

import functools

import numpy as np

from experiments.objective_mismatch import (
    alarms,
    comparisons,
    curves,
    links,
    measures,
    methods,
    numbers,
)
from experiments.sentiment import controls
from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import controls as negative_controls
from rlhf_jax.reporting import statements
from rlhf_jax.reporting.sections import Section

_COPIES = methods.BASE, methods.REPEATED[methods.BASE]
_COPIED = ("gold", measures.PROXY.key, measures.GOLD.key)
_GOLD = {
    "gold": controls.GOLD_CONTROLS["ppo_gold"],
    "random": controls.GOLD_CONTROLS["ppo_random"],
}
# Of each link, what would break it; the first of them says where.
_BREAKS = {
    "L1": (
        (links.PART, "gold falls after its peak, PPO"),
        (links.PART, "proxy rises after gold's peak, PPO"),
    ),
    "L2": (
        (
            links.RANKING,
            links.worse_than_ceiling("accuracy"),
        ),
    ),
    "L3": (
        (links.EVALUATION, "proxy is higher at the end of PPO than at its start"),
        (links.EVALUATION, "skills are lost by the end of PPO"),
    ),
}


def of_records(records):
    """The sections of a report about all rows of a study, whichever it draws."""
    runs, best = curves.of_records(records), curves.best_of(records)
    models = curves.models(records)
    judged = functools.cache(
        lambda: statements.judge(links.declared(runs, best, models))
    )
    parts = (
        ("links", lambda: _links(judged(), runs), _render_links, "results"),
        ("remedies", lambda: comparisons.remedies(runs), comparisons.render_remedies,
         "results"),
        ("statements", judged, _render_statements, "verdicts"),
        ("along", lambda: numbers.along(runs), numbers.render_along, "verdicts"),
        ("models", lambda: numbers.quality(models), numbers.render_quality, "verdicts"),
        ("ranking", lambda: comparisons.ranked(runs, best, models),
         comparisons.render_ranked, "verdicts"),
        ("best_of", lambda: numbers.best_of(best), numbers.render_best_of, "verdicts"),
        ("fits", lambda: numbers.fits(runs, best), numbers.render_fits, "verdicts"),
        ("correlations", lambda: comparisons.correlations(runs),
         comparisons.render_correlations, "verdicts"),
        ("alarms", lambda: alarms.measure(runs, records), alarms.render, "verdicts"),
    )  # fmt: skip
    made = tuple(
        Section(key, functools.partial(_compute, compute), render, after)
        for key, compute, render, after in parts
    )
    kept = Section("training", lambda evidence: list(alarms.TRAINING), lambda *_: ())
    judge = functools.partial(_judge_controls, records)
    return (*made, kept, negative_controls.section(judge))


def _compute(compute, evidence):
    del evidence
    return compute()


# The three links


def _links(rows, runs):
    """{link: {"word", "at", "statements"}}: does it hold, or break, and where?"""
    known = {(row["family"], row["text"]): row for row in rows}
    found = {}
    for link, asked in _BREAKS.items():
        given = [known[key] for key in asked if key in known]
        if len(given) == len(asked):
            found[link] = {
                "word": _word([row["word"] for row in given]),
                "at": _median_onset(runs),
                "statements": [_said(row) for row in given],
            }
    return found


def _said(row):
    """[what is said, the difference, the verdict] of a statement, in words."""
    line = statements.line(row)
    return [line[0], f"{line[2]} {row['unit']}".rstrip(), line[-1]]


def _word(words):
    """Of the statements that together would break a link."""
    if "no test" in words:
        return "no test"
    if all(word == "reproduced" for word in words):
        return "breaks"
    against = ("not reproduced", "contradicted", "worse, negligibly")
    return "holds" if any(word in against for word in words) else "undecided"


def _median_onset(runs):
    """The median iteration at which gold starts to fall, of runs on the base model
    in which it does; None where it never does."""
    base = curves.of_base(runs).values()
    found = [numbers.onset(curve) for group in base for curve in group]
    found = [step for step in found if step is not None]
    return float(np.median(found)) if found else None


def _render_links(found, evidence):
    del evidence
    yield "## The three links"
    if not found:
        yield "Too few rows were run to ask about a link: run --methods all."
        return
    lines = []
    for link, one in found.items():
        where = ""
        if link == "L1" and one["word"] == "breaks" and one["at"] is not None:
            where = f" at about iteration {one['at']:.0f}"
        said = "; ".join(f"“{x}” {gap}, {word}" for x, gap, word in one["statements"])
        lines.append(f"- {links.LINKS[link]} **{one['word']}**{where}. {said}.")
    yield "\n".join(lines)
    yield (
        "A link breaks where every statement that would break it is reproduced, and "
        "holds where one of them is shown to be smaller than matters."
    )


def _render_statements(rows, evidence):
    del evidence
    if not rows:
        return
    yield "## What was asked of every link"
    yield (
        "Each family is judged as a study of its own; a difference of a world, seeds "
        "averaged, positive in favour of the statement, with its 95% t-interval (90% "
        "for what is to be equal), two-sided sign-flip p and Holm's p over the family."
    )
    yield from statements.render(rows)


# Controls


def _judge_controls(records, shown):
    """(name, what should happen, what happened, passed) of controls that were run."""
    del shown  # the rows that are drawn: controls are not among them
    known = (*axes.STANDARD, *measures.POLICY)
    what = "PPO on one model under two keys"
    copies = negative_controls.of_copies(records, *_COPIES, _COPIED, known, what)
    return [*negative_controls.of_gold(records, _GOLD), *copies]
