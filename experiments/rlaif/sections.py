"""Win rates between policies, and negative controls, for the report."""

import functools
import itertools

import jax
import numpy as np

from experiments.rlaif import measures, orderings
from rlhf_jax.evaluation import axes, policy, units, win_rate
from rlhf_jax.evaluation.axes import GOLD
from rlhf_jax.reporting import claims, evaluations, markdown, results
from rlhf_jax.reporting import controls as negative_controls
from rlhf_jax.reporting.claims import Claim
from rlhf_jax.reporting.sections import Section
from rlhf_jax.studies import runner
from rlhf_jax.studies.interfaces import Run

COPIES = "rlhf", "rlhf_copy"
_ENOUGH = 0.9  # of the units


def matches(done):
    """Every final policy against every other one: rows for results.json.

    Both answer a unit's evaluation prompts, with the same keys; `win/<judge>` is the
    share of prompts that `method` wins, a tie counting ½.

    Args: done: `experiment.Done`.
    """
    rows = []
    for unit in done.study.units:
        task = done.study.task_of(Run("", unit))
        drawn = _answers(done, task, unit)
        for one, other in itertools.combinations(drawn, 2):
            won = {
                measures.WINS[name].key: float(
                    win_rate.verdicts(judge(drawn[one], drawn[other])).mean()
                )
                for name, judge in task.judges.items()
            }
            rows.append({"method": one, "other": other, "unit": str(unit), **won})
    return rows


def of_matches(rows):
    """The win-rate matrix as a section, "matches" in results.json."""
    return Section("matches", lambda evidence: rows, _render_matches, after="results")


def _answers(done, task, unit):
    """{method: the rollout of its final policy}."""
    draw = policy.compile_draw(task.model, done.layout, task.sampling)
    inputs = policy.prompt_rows(task.eval_prompts, jax.random.key(0))
    final = functools.partial(
        runner.policy, done.study, done.folder, done.layout, console=done.console
    )
    return {name: draw(final(Run(name, unit)), inputs) for name in done.study.methods}


def _render_matches(rows, evidence):
    names = list(dict.fromkeys(x for r in rows for x in (r["method"], r["other"])))
    if len(names) < 2:
        return
    yield "## Who wins against whom"
    yield (
        "Share of prompts that the row's policy wins against the column's, in percent, "
        f"a tie counting half; {markdown.brackets(evidence.summary)}."
    )
    for axis in measures.WINS.values():
        verdict = axis.title.rpartition(", ")[2]
        yield f"{verdict[0].upper()}{verdict[1:]}:"
        yield _matrix(rows, names, axis, evidence.report)


def _matrix(rows, names, axis, report):
    won = {}
    for row in rows:
        unit, value = units.parse(row["unit"]), row[axis.key]
        won.setdefault((row["method"], row["other"]), {})[unit] = value
        won.setdefault((row["other"], row["method"]), {})[unit] = 1 - value
    body = [
        [
            report.name(one),
            *(
                markdown.interval(results.estimate(won[one, other]), axis.scale)
                if (one, other) in won
                else ""
                for other in names
            ),
        ]
        for one in names
    ]
    return markdown.table(["", *map(report.name, names)], body)


# Controls


def _judge_controls(records):
    """(name, what should happen, what happened, passed) of controls that were run."""
    return [*_random(records), *_copies(records)]


def _random(records):
    found = {}
    for record in records:
        if record["method"] == "rlaif_random" and GOLD.key in record:
            found.setdefault(units.of(record), []).append(record[GOLD.key])
    if found:
        held = sum(golds[-1] <= golds[0] + 0.05 for golds in found.values())
        start, last = np.mean([(golds[0], golds[-1]) for golds in found.values()], 0)
        what = f"in {held} of {len(found)} runs; in the mean {start:.3f} → {last:.3f}"
        passed = held >= _ENOUGH * len(found)
        yield "random reward model", "gold does not rise", what, passed


def _copies(records):
    """RLHF against its copy under another key: no verdict may come out."""
    found = claims.judge(
        [Claim(COPIES[0], COPIES[1:], axis.key) for axis in measures.WINS.values()],
        evaluations.runs(records),
        axes=(*axes.STANDARD, *measures.POLICY),
    )
    for finding in found:
        verdict = finding.verdict
        if verdict is None or verdict.word == "no test":
            continue
        fine = verdict.word in ("undecided", "not reproduced", "≈")
        gap = markdown.interval(verdict._asdict(), 100.0)
        text = f"RLHF against its copy, {finding.claim.endpoint}"
        yield text, "no verdict", f"{verdict.word}, {gap}", fine


SECTIONS = (*orderings.SECTIONS, negative_controls.section(_judge_controls))
