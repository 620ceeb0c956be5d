"""Recovery after resets in two arms of a study, paired by seed."""

import functools
import math

import numpy as np

from rlhf_jax.evaluation import recovery, statistics
from rlhf_jax.evaluation.axes import REWARD, SCORES
from rlhf_jax.reporting import markdown, sections, verdicts

RESET = "reset/reset"
SHARE, WINDOW = 0.9, 3
SMALLEST = 1.0  # iterations: the smallest difference of interest


def section(method, other):
    """The comparison as a section of a report, "recovery" in results.json."""
    compute = functools.partial(_compute, method, other)
    return sections.Section("recovery", compute, render)


def compare(records, method, other, *, smallest=SMALLEST):
    """How soon two methods with the same resets regain 90% of the proxy before one.

    Paired by seed and by reset. The verdict is on the restricted mean: iterations spent
    below the target while it was watched, `other` − `method`, which is observed whether
    or not a run recovered. Which times were censored is reported next to it.

    Args: records of metrics.jsonl; smallest: iterations, declared before the run.
    Returns None if one of the two was not run, else {"method", "other", "reason"}, with
    "seeds", "resets" (one entry per reset), "difference" and "verdict" if they can be
    compared.
    """
    traces = [_traces(records, name) for name in (method, other)]
    if not all(traces):
        return None
    names = {"method": method, "other": other}
    seeds = sorted(set(traces[0]) & set(traces[1]))
    reason = _why_not(*traces, seeds)
    if reason:
        return {**names, "reason": reason}
    arms = [
        {seed: _recoveries(records, t[seed], seed) for seed in seeds} for t in traces
    ]
    pairs = {seed: _shared(*(arm[seed] for arm in arms)) for seed in seeds}
    seeds = [seed for seed in seeds if pairs[seed][0]]
    if not seeds:
        return {**names, "reason": "no reset followed a gain"}
    gaps = [
        recovery.restricted(pairs[seed][1]) - recovery.restricted(pairs[seed][0])
        for seed in seeds
    ]
    return {
        **names,
        "reason": "",
        "share": SHARE,
        "window": WINDOW,
        "seeds": seeds,
        "resets": _by_reset({seed: pairs[seed] for seed in seeds}, method, other),
        "difference": {str(s): gap for s, gap in zip(seeds, gaps, strict=True)},
        "smallest_effect": smallest,
        "verdict": statistics.verdict(gaps, smallest)._asdict(),
    }


def _traces(records, method):
    """{seed: (scores [N], iterations that ended with a reset)}."""
    rows = {}
    for record in records:
        if record["method"] == method and SCORES.key in record:
            rows.setdefault(record["seed"], {})[record["step"]] = record
    result = {}
    for seed, by_step in rows.items():
        ordered = [by_step[step] for step in sorted(by_step)]
        scores = np.array([row[SCORES.key] for row in ordered], float)
        resets = [i for i, row in enumerate(ordered) if row.get(RESET) == 1]
        result[seed] = scores, resets
    return result


def _why_not(one, two, seeds):
    """Why two arms cannot be compared, "" where they can."""
    if not seeds:
        return "no seed has both"
    for seed in seeds:
        if one[seed][1] != two[seed][1] or len(one[seed][0]) != len(two[seed][0]):
            return f"seed {seed} was not reset at the same iterations in both"
    broken = [
        str(seed)
        for seed in seeds
        if not all(np.isfinite(arm[seed][0]).all() for arm in (one, two))
    ]
    if broken:
        return f"not finite in seed {', '.join(broken)}"
    return "" if any(one[seed][1] for seed in seeds) else "there was no reset"


def _recoveries(records, trace, seed):
    return recovery.after_resets(
        *trace, origin=_origin(records, seed), share=SHARE, window=WINDOW
    )


def _origin(records, seed):
    """The score of π₀, from which gains are measured, whatever the scale."""
    for record in records:
        start = record["seed"] == seed and record.get("eval/phase") == "start"
        if start and math.isfinite(record.get(REWARD.key, math.nan)):
            return float(record[REWARD.key])
    return 0.0


def _shared(one, other):
    """The recoveries after those resets at which both arms had a gain to recover."""
    both = {r.reset for r in one} & {r.reset for r in other}
    return tuple([r for r in arm if r.reset in both] for arm in (one, other))


def _by_reset(pairs, method, other):
    """One row per reset: the times of both arms by seed, and which recovered first."""
    rows = []
    for reset in sorted({r.reset for one, _ in pairs.values() for r in one}):
        row = {"iteration": reset, method: {}, other: {}}
        counts = {1: 0, -1: 0, 0: 0, None: 0}
        for seed, arms in pairs.items():
            pair = [r for arm in arms for r in arm if r.reset == reset]
            if not pair:
                continue
            for name, r in zip((method, other), pair, strict=True):
                row[name][str(seed)] = {"steps": r.steps, "regained": r.regained}
            counts[recovery.earlier(*pair)] += 1
            row["watched"] = pair[0].watched
        words = {1: "first", -1: "later", 0: "together", None: "unknown"}
        rows.append({**row, **{words[k]: n for k, n in counts.items()}})
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
        f"gain over π₀ before the reset (the mean of the last {WINDOW} iterations). "
        f"{name} and {other} are reset at the same iterations and keep their critic "
        "and their optimiser; before the first reset they are the same run. “not in n” "
        "is censored: the next reset, or the end, came first."
    )
    yield markdown.table(
        ["reset after iteration", name, other, "who was back first"],
        [_row(row, compared, name, other) for row in compared["resets"]],
    )
    yield _judged(compared, name, other)


def _compute(method, other, evidence):
    return compare(evidence.records, method, other)


def _row(row, compared, name, other):
    watched = row["watched"]
    times = [
        ", ".join(_time(t, watched) for t in row[compared[key]].values())
        for key in ("method", "other")
    ]
    counts = {name: "first", other: "later", "together": "together"}
    said = [f"{who} {row[word]}" for who, word in counts.items() if row[word]]
    said += [f"unknown {row['unknown']}"] * bool(row["unknown"])
    return [row["iteration"] + 1, *times, ", ".join(said)]


def _time(time, watched):
    return str(time["steps"]) if time["regained"] else f"not in {watched}"


def _judged(compared, name, other):
    """The verdict on the restricted mean, in words."""
    verdict = statistics.Verdict(**compared["verdict"])
    if verdict.word == "no test":
        gap = markdown.number(verdict.mean)
        end = f"{markdown.count(verdict.seeds, 'seed')}, no test"
    else:
        gap = markdown.interval(verdict._asdict())
        end = f"p {markdown.number(verdict.p)}: **{verdict.word}**"
        end += verdicts.needed(verdict)
    return (
        f"Iterations spent below that level while watched (a restricted mean, seen "
        f"whether or not a run came back): {other} − {name} = {gap}; smallest effect "
        f"of interest {compared['smallest_effect']:g}; {end}."
    )
