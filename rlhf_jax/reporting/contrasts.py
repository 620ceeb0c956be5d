"""Pairs of methods that differ in one part: what the part is worth, seed by seed.

An ablation table. No claim is declared about its rows, so they carry intervals and no
verdict: with ten rows on three axes some interval misses 0 by chance.
"""

from typing import NamedTuple

from rlhf_jax.reporting import markdown, results, wording


class Contrast(NamedTuple):
    """`method` has a part that `other` has not, and is otherwise the same."""

    part: str
    method: str
    other: str


def table(summary, contrasts, axes):
    """Paired differences `method` − `other`, of the pairs that were both run.

    Endpoints: reward, gold, the hypervolume on each axis; of all of them more is
    better, so that positive is in favour of the part. Seeds that only one of the two
    has are left out.

    Args: summary: of `results.summarize`. Returns a list of {"part", "method",
    "other", "differences": {endpoint: spread}}, in the order given.
    """
    rows = []
    for part, method, other in contrasts:
        if not {method, other} <= set(summary["methods"]):
            continue
        one, two = (summary["methods"][name]["per_seed"] for name in (method, other))
        differences = {}
        for name in _columns(axes):
            gaps = _gaps(one.get(name, {}), two.get(name, {}))
            if gaps:
                differences[name] = results.spread(gaps)
        names = {"part": part, "method": method, "other": other}
        rows.append({**names, "differences": differences})
    return rows


def _gaps(one, two):
    return [one[seed] - two[seed] for seed in one if seed in two]


def section(summary, study):
    """The table as paragraphs of a report; nothing where no pair was run."""
    rows = summary.get("contrasts")
    if not rows:
        return
    known = [
        n for n in _columns(study.axes) if any(n in r["differences"] for r in rows)
    ]
    yield "## Ablations: what each part is worth"
    yield (
        "Paired differences by seed between two methods that differ in one part, "
        f"positive in favour of the part; {wording.brackets(summary)}. Nothing was "
        "claimed of them beforehand, so nothing is judged."
    )
    yield markdown.table(
        ["part", "difference", *map(wording.endpoint, known)],
        [
            [
                row["part"],
                f"{study.name(row['method'])} − {study.name(row['other'])}",
                *(
                    markdown.interval(row["differences"].get(n), wording.scale(n))
                    for n in known
                ),
            ]
            for row in rows
        ],
    )


def _columns(axes):
    return ("reward", "gold", *(f"hypervolume/{axis}" for axis in axes))
