"""Win rates between policies, and negative controls, for the report."""

import functools
import itertools

import jax

from experiments.rlaif import measures, orderings
from experiments.sentiment import controls
from rlhf_jax.evaluation import axes, policy, units, win_rate
from rlhf_jax.reporting import controls as negative_controls
from rlhf_jax.reporting import markdown, results
from rlhf_jax.reporting.sections import Section
from rlhf_jax.studies import runner
from rlhf_jax.studies.interfaces import Run

COPIES = "rlhf", "rlhf_copy"


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


GOLD_CONTROLS = {"rlaif_random": controls.GOLD_CONTROLS["ppo_random"]}


def _judge_controls(records):
    """(name, what should happen, what happened, passed) of controls that were run."""
    names = [axis.key for axis in measures.WINS.values()]
    copies = negative_controls.of_copies(
        records, *COPIES, names, (*axes.STANDARD, *measures.POLICY),
        "RLHF against its copy",
    )  # fmt: skip
    return [*negative_controls.of_gold(records, GOLD_CONTROLS), *copies]


SECTIONS = (*orderings.SECTIONS, negative_controls.section(_judge_controls))
