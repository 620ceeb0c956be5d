"""Coordinate search: one parameter after the other, each on a grid that can grow.

`follow` is a function of what was measured so far. It says which settings a search
wants measured next, or what it chose and why: whoever runs trials asks again after each
one, and several processes that ask get the same answers.

A parameter is searched at the setting that was best before it. The value with the
largest mean over units is chosen. While it is an edge of the grid, or no more than one
standard error better than an edge (of the paired differences, over units), the grid
grows on that side by its own ratio.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np

LIMIT = 4  # values that a grid may grow by on one side
_SAME = 1e-5  # relative distance of two values that are one


class Scale(NamedTuple):
    """Where the values of a grid are evenly spaced."""

    to: Callable[[float], float]
    back: Callable[[float], float]


RATIO = Scale(math.log, math.exp)
ODDS = Scale(lambda x: math.log(x / (1 - x)), lambda y: 1 / (1 + math.exp(-y)))
WHOLE = Scale(math.log, lambda y: round(math.exp(y)))


class Line(NamedTuple):
    """A parameter and the values that it is searched over."""

    field: str
    grid: tuple[float, ...]  # ascending; a single value never grows
    scale: Scale = RATIO
    low: float = 0.0  # how far it may grow
    high: float = math.inf


class Extension(NamedTuple):
    """A value that a grid grew by, or would have."""

    side: Literal["low", "high"]
    why: Literal["edge", "tie"]
    value: float | None  # None: it may not grow any further


class Step(NamedTuple):
    """A line as far as it was searched."""

    field: str
    settings: tuple[Any, ...]  # one a value, ascending
    extensions: tuple[Extension, ...] = ()
    missing: tuple[Any, ...] = ()  # of the settings: to be measured
    chosen: Any = None  # None: not yet, or every setting failed


class Path(NamedTuple):
    """A search as far as it got."""

    steps: tuple[Step, ...]
    ahead: tuple[Line, ...]  # not begun

    @property
    def wanted(self):
        """The settings to be measured next; () when the search is over."""
        return self.steps[-1].missing

    @property
    def chosen(self):
        """The setting that was chosen; None before, and where every one failed."""
        return None if self.ahead else self.steps[-1].chosen

    @property
    def compared(self):
        """Every setting that the search looked at, in that order, each once."""
        return tuple(dict.fromkeys(s for step in self.steps for s in step.settings))


def follow(start, lines, found, *, limit=LIMIT):
    """The `Path` of a search over what was found so far.

    Args: start: a setting, a dataclass with the fields of the lines; lines: sequence of
    `Line`, at least one; found(setting): its values, one a unit and always in one
    order, () if it failed, None while it is not measured; limit: values that a grid may
    grow by on one side.
    """
    setting, steps = start, []
    for line in lines:
        # What was best so far was measured: its value is one of the next grid's.
        own = (getattr(setting, line.field),) if steps else ()
        step = _along(line, _merged(line, own), setting, found, limit)
        steps.append(step)
        if step.chosen is None:
            break
        setting = step.chosen
    return Path(tuple(steps), tuple(lines[len(steps) :]))


def choose(outcomes, own=None):
    """The index of the largest mean; None if every one failed.

    Of equals it is `own`, the index of what is in force, else the first. outcomes:
    sequence of values, one a unit; () or NaN is a failure.
    """
    means = [float(np.mean(x)) if x else -math.inf for x in outcomes]
    means = [-math.inf if math.isnan(mean) else mean for mean in means]
    best = max(means, default=-math.inf)
    if best == -math.inf:
        return None
    return own if own is not None and means[own] == best else means.index(best)


def mean_and_error(values):
    """(mean, its standard error s/√n) over units; the error of a single unit is 0."""
    values = np.asarray(values, float)
    error = values.std(ddof=1) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return float(values.mean()), float(error)


def _along(line, grid, setting, found, limit):
    """The `Step` of a line, searched at a setting."""
    extensions = []
    while True:
        settings = tuple(_with(setting, line.field, value) for value in grid)
        step = Step(line.field, settings, tuple(extensions))
        outcomes = [found(setting) for setting in settings]
        missing = [s for s, x in zip(settings, outcomes, strict=True) if x is None]
        if missing:
            return step._replace(missing=tuple(missing))
        own = settings.index(setting) if setting in settings else None
        best = choose(outcomes, own)
        if best is None:
            return step
        reasons = _reasons(outcomes, best) if len(line.grid) > 1 else {}
        asked = [
            Extension(side, why, _beyond(line, grid, side, extensions, limit))
            for side, why in reasons.items()
        ]
        grown = [one for one in asked if one.value is not None]
        extensions += grown or asked
        if not grown:
            return step._replace(extensions=tuple(extensions), chosen=settings[best])
        grid = sorted([*grid, *(one.value for one in grown)])


def _with(setting, field, value):
    return dataclasses.replace(setting, **{field: value})


def _merged(line, own):
    """The grid of a line with a value that stands for those next to it."""
    own = [value for value in own if line.low <= value <= line.high]
    others = [
        value
        for value in line.grid
        if not any(math.isclose(value, x, rel_tol=_SAME) for x in own)
    ]
    return sorted([*others, *own])


def _reasons(outcomes, best):
    """{side: why a grid should grow there}."""
    reasons = {}
    for side, edge in (("low", 0), ("high", len(outcomes) - 1)):
        if edge == best:
            reasons[side] = "edge"
        elif outcomes[edge]:
            less, error = mean_and_error(np.subtract(outcomes[best], outcomes[edge]))
            if less <= error:
                reasons[side] = "tie"
    return reasons


def _beyond(line, grid, side, extensions, limit):
    """The next value on a side of a grid; None where it may not grow any further."""
    if sum(one.side == side for one in extensions) >= limit:
        return None
    to, back = line.scale
    edge, sign = (grid[0], -1) if side == "low" else (grid[-1], 1)
    spacing = (to(line.grid[-1]) - to(line.grid[0])) / (len(line.grid) - 1)
    value = back(to(edge) + sign * spacing)
    if isinstance(value, int):
        value = min(value, edge - 1) if side == "low" else max(value, edge + 1)
    value = min(max(tidy(value), line.low), line.high)
    return value if sign * (value - edge) > 0 else None


def tidy(value):
    """A number of six digits, so that a setting is the same on every machine."""
    return value if isinstance(value, int) else float(f"{value:.6g}")
