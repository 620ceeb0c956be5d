"""Units of a study: a world, and a seed within it.

Seeds of one world share the initial policy, prompts, held-out texts and questions, so
they are not independent. Intervals and tests are over worlds: the seeds of a world are
averaged first, and the intraclass correlation says how much they had in common.
"""

from typing import NamedTuple

import numpy as np


class Unit(NamedTuple):
    """What a study is repeated over."""

    world: int
    seed: int

    def __str__(self):
        """As in files: "3/0"."""
        return f"{self.world}/{self.seed}"


def of(record):
    """The unit of a record of metrics.jsonl or samples.jsonl."""
    return Unit(record.get("world", 0), record["seed"])


def parse(text):
    """The unit that `str` wrote."""
    return Unit(*map(int, text.split("/")))


def worlds(values):
    """{world: the mean over its seeds} of {unit: number}, worlds ascending."""
    by_world = {}
    for unit, value in sorted(values.items()):
        by_world.setdefault(unit.world, []).append(value)
    return {world: float(np.mean(seeds)) for world, seeds in by_world.items()}


def intraclass(values):
    """The intraclass correlation of {unit: number}: how alike seeds of a world are.

        ICC(1) = (MSB − MSW) / (MSB + (k₀ − 1)·MSW)

    with the mean squares between and within worlds of a one-way analysis of variance
    and k₀ the mean number of seeds a world, corrected for unequal numbers (Donner 1986,
    International Statistical Review 54). 0: seeds are independent; 1: a second seed
    says nothing new. NaN with fewer than two worlds, or one seed in each.
    """
    groups = {}
    for unit, value in values.items():
        groups.setdefault(unit.world, []).append(float(value))
    groups = [np.array(seeds) for seeds in groups.values()]
    n, k = sum(map(len, groups)), len(groups)
    if k < 2 or n == k:
        return float("nan")
    grand = np.concatenate(groups).mean()
    between = sum(len(g) * (g.mean() - grand) ** 2 for g in groups) / (k - 1)
    within = sum(((g - g.mean()) ** 2).sum() for g in groups) / (n - k)
    size = (n - sum(len(g) ** 2 for g in groups) / n) / (k - 1)
    total = between + (size - 1) * within
    return float((between - within) / total) if total > 0 else float("nan")
