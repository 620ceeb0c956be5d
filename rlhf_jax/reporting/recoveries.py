"""Recovery after resets in two arms of a study, paired by unit and by reset."""

import functools
import math

import numpy as np

from rlhf_jax.evaluation import recovery, units
from rlhf_jax.evaluation.axes import REWARD, SCORES
from rlhf_jax.reporting import markdown, results, sections

RESET = "reset/reset"
SHARE, WINDOW = 0.9, 3
_WORDS = {1: "first", -1: "later", 0: "together", None: "unknown"}


def section(method, other):
    """The comparison as a section of a report, "recovery" in results.json."""
    compute = functools.partial(_compute, method, other)
    return sections.Section("recovery", compute, render)


def compare(records, method, other):
    """How soon two methods with the same resets regain 90% of the proxy before one.

    The number is the restricted mean: iterations spent below the target while it was
    watched, `other` − `method`, which is observed whether or not a run recovered.

    Args: records of metrics.jsonl. Returns None if one of the two was not run, else
    {"method", "other", "reason"}, with "resets" (one entry a reset), "difference" (by
    unit) and "estimate" if they can be compared.
    """
    traces = [_traces(records, name) for name in (method, other)]
    if not all(traces):
        return None
    names = {"method": method, "other": other}
    shared = sorted(set(traces[0]) & set(traces[1]))
    reason = _why_not(*traces, shared)
    if reason:
        return {**names, "reason": reason}
    origins = _origins(records)
    pairs = {}
    for unit in shared:
        arms = [
            recovery.after_resets(
                *trace[unit], origin=origins.get(unit, 0.0), share=SHARE, window=WINDOW
            )
            for trace in traces
        ]
        both = {r.reset for r in arms[0]} & {r.reset for r in arms[1]}
        if both:  # resets before which both arms had gained something
            pairs[unit] = [[r for r in arm if r.reset in both] for arm in arms]
    if not pairs:
        return {**names, "reason": "no reset followed a gain"}
    gaps = {
        unit: recovery.restricted(arms[1]) - recovery.restricted(arms[0])
        for unit, arms in pairs.items()
    }
    return {
        **names,
        "reason": "",
        "share": SHARE,
        "window": WINDOW,
        "resets": _by_reset(pairs),
        "difference": {str(unit): gap for unit, gap in gaps.items()},
        "estimate": results.estimate(gaps),
    }


def _traces(records, method):
    """{unit: (scores [N], iterations that ended with a reset)}."""
    rows = {}
    for record in records:
        if record["method"] == method and SCORES.key in record:
            rows.setdefault(units.of(record), {})[record["step"]] = record
    result = {}
    for unit, by_step in rows.items():
        ordered = [by_step[step] for step in sorted(by_step)]
        scores = np.array([row[SCORES.key] for row in ordered], float)
        resets = [i for i, row in enumerate(ordered) if row.get(RESET) == 1]
        result[unit] = scores, resets
    return result


def _why_not(one, two, shared):
    """Why two arms cannot be compared, "" where they can."""
    if not shared:
        return "no unit has both"
    for unit in shared:
        if one[unit][1] != two[unit][1] or len(one[unit][0]) != len(two[unit][0]):
            return f"unit {unit} was not reset at the same iterations in both"
    broken = [
        str(unit)
        for unit in shared
        if not all(np.isfinite(arm[unit][0]).all() for arm in (one, two))
    ]
    if broken:
        return f"not finite in unit {', '.join(broken)}"
    return "" if any(one[unit][1] for unit in shared) else "there was no reset"


def _origins(records):
    """{unit: the score of π₀}, from which gains are measured, whatever the scale."""
    result = {}
    for record in records:
        start = record.get("eval/phase") == "start"
        if start and math.isfinite(record.get(REWARD.key, math.nan)):
            result.setdefault(units.of(record), float(record[REWARD.key]))
    return result


def _by_reset(pairs):
    """One row a reset: how long both arms took, and which recovered first."""
    rows = []
    for reset in sorted({r.reset for one, _ in pairs.values() for r in one}):
        at = {
            unit: [r for arm in arms for r in arm if r.reset == reset]
            for unit, arms in pairs.items()
        }
        at = {unit: pair for unit, pair in at.items() if pair}
        order = [recovery.earlier(*pair) for pair in at.values()]
        row = {"iteration": reset, "watched": next(iter(at.values()))[0].watched}
        for i, arm in enumerate(("method", "other")):
            row[arm] = {
                "below": results.estimate({u: p[i].steps for u, p in at.items()}),
                "regained": sum(pair[i].regained for pair in at.values()),
                "per_unit": {str(u): p[i].steps for u, p in at.items()},
            }
        counts = {word: order.count(sign) for sign, word in _WORDS.items()}
        rows.append({**row, "units": len(at), **counts})
    return rows


def render(compared, evidence):
    """The result of `compare` as paragraphs of a report; nothing for None."""
    if not compared:
        return
    name, other = (evidence.report.name(compared[key]) for key in ("method", "other"))
    yield "## Recovery after a reset"
    if compared["reason"]:
        yield f"{name} and {other} cannot be compared: {compared['reason']}."
        return
    yield (
        f"Iterations until the mean proxy of a rollout is back at {SHARE:.0%} of its "
        f"gain over π₀ before the reset (the mean of the last {WINDOW} iterations), "
        "while it was watched: until the next reset, or the end. "
        f"{name} and {other} are reset at the same iterations and keep their critic "
        "and their optimiser; before the first reset they are the same run."
    )
    yield markdown.table(
        ["reset after iteration", name, other, "regained", "who was back first"],
        [_row(row, name, other) for row in compared["resets"]],
    )
    yield (
        "Iterations spent below that level, a mean over resets (restricted: seen "
        f"whether or not a run came back): {other} − {name} = "
        f"{markdown.interval(compared['estimate'])}; "
        f"{markdown.brackets(evidence.summary)}."
    )


def _compute(method, other, evidence):
    return compare(evidence.records, method, other)


def _row(row, name, other):
    arms = row["method"], row["other"]
    regained = " and ".join(f"{arm['regained']}" for arm in arms)
    counts = {
        name: "first",
        other: "later",
        "together": "together",
        "unknown": "unknown",
    }
    said = [f"{who} {row[word]}" for who, word in counts.items() if row[word]]
    return [
        f"{row['iteration'] + 1}, watched for {row['watched']}",
        *(markdown.interval(arm["below"]) for arm in arms),
        f"{regained} of {row['units']}",
        ", ".join(said),
    ]
