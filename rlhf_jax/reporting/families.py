"""Families of settings, each read as one front.

A mitigation of the alignment tax has a knob: a weight, a strength, a ratio. Its
settings lie between the initial policy and the aligned one, and are read as the looks
of one run that leaves the first for the second: what reward at which loss, whatever the
knob says. So everything that compares runs compares families.
"""

from typing import NamedTuple

from rlhf_jax.evaluation import units
from rlhf_jax.evaluation.axes import REWARD
from rlhf_jax.reporting import evaluations
from rlhf_jax.reporting.sections import Section


class Family(NamedTuple):
    """A knob: methods in the order in which they move away from the initial policy.

    Of a single member the knob is when to stop: its looks are those of its run.
    """

    label: str
    members: tuple[str, ...]


def records(rows, families):
    """Records of metrics.jsonl in which every family is a method.

    The initial policy is the start; look k is the last evaluation of member k. A family
    has a unit if all of its members were run there. A single member is read as it ran.

    Args: rows: records; families: {name: Family}.
    """
    starts, ends, alone = {}, {}, {}
    for row in rows:
        if REWARD.key in row:
            unit = units.of(row)
            if evaluations.is_start(row):
                starts.setdefault(unit, row)
            ends[row["method"], unit] = row
            alone.setdefault(row["method"], []).append(row)
    found = []
    for name, family in families.items():
        if len(family.members) == 1:
            found += [{**row, "method": name} for row in alone.get(*family.members, [])]
            continue
        for unit in starts:
            looks = [ends.get((member, unit)) for member in family.members]
            if None not in looks:
                found += _run(name, [starts[unit], *looks])
    return found


def section(families):
    """The members of families as "families" of results.json; nothing on the page."""
    members = {name: list(family.members) for name, family in families.items()}
    return Section("families", lambda evidence: members, lambda *_: ())


def _run(name, looks):
    """The looks as records of one run without resets."""
    last = len(looks) - 1
    phases = ["start", *["train"] * (last - 1), "final"]
    return [
        {**look, "method": name, "step": step, "eval/phase": phases[step]}
        for step, look in enumerate(looks)
    ]
