"""Reward models by name: what --reward rm:..., worst:..., odin:... ask for.

A spec is FAMILY:name=value,name=value, and every name has a default:

    rm:size=small,pairs=4000,labels=gold      one reward model
    worst:size=medium,members=5               the worst case of an ensemble
    heavy_tailed:scale=1                      the truth plus an error with heavy tails
"""

import dataclasses
from typing import Annotated, Literal

from rlhf_jax import ranges

_MODEL = ("size", "pairs", "labels")
_ONE, _MANY = (*_MODEL, "member"), (*_MODEL, "members")
FIELDS = {
    "rm": _ONE,
    "odin": _ONE,
    "length_penalized": (*_ONE, "weight"),
    "mean": _MANY,
    "worst": _MANY,
    "uncertainty": (*_MANY, "weight"),
    "entropic": (*_MANY, "beta"),
    "warm": _MANY,
    "heavy_tailed": ("scale",),
    "light_tailed": ("scale",),
}
_WEIGHTS = {"length_penalized": 0.1, "uncertainty": 0.5}
_Soft = Annotated[float, ranges.Range(at_least=0, infinite=True)]


@dataclasses.dataclass(frozen=True)
class Spec:
    """One reward of a family; fields that its family does not read have no effect."""

    family: Literal[*FIELDS]
    size: Literal["small", "medium", "large", "trunk"] = "medium"
    """About 5, 30 or 120 thousand weights from scratch, or π₀'s with a new head."""
    pairs: ranges.Count = 1000
    """Preference pairs it learns from: the first ones of those that all share."""
    labels: Literal["people", "gold", "flipped"] = "people"
    """People's, who are noisy; the truth's; the truth's with a share flipped."""
    member: ranges.Natural = 0
    """Another number has another start and another order of the same pairs."""
    members: Annotated[int, ranges.Range(at_least=2)] = 5
    weight: ranges.NonNegative = 0.0
    """λ of the variance, or what a token of length costs in standard deviations."""
    beta: _Soft = 1.0
    """From the worst case, 0, to the mean, inf."""
    scale: ranges.NonNegative = 1.0
    """Of the error, in standard deviations of gold on samples of π₀."""

    def __post_init__(self):
        ranges.check(self)

    def __str__(self):
        values = ((name, getattr(self, name)) for name in FIELDS[self.family])
        return f"{self.family}:" + ",".join(f"{k}={_text(v)}" for k, v in values)


def named(text):
    """Whether a --reward names a family: "rm:...", or "rm" alone."""
    return isinstance(text, str) and text.partition(":")[0] in FIELDS


def parse(text):
    """The `Spec` that a text describes; one that is given as such is returned.

    Raises ValueError for a family, a name or a value that does not exist, which it
    names beside those that do.
    """
    if isinstance(text, Spec):
        return text
    family, _, rest = text.partition(":")
    if family not in FIELDS:
        raise ValueError(
            f"--reward {text}: no family of rewards is called {family!r}; there are "
            f"{', '.join(FIELDS)}"
        )
    found = {"weight": _WEIGHTS.get(family, 0.0)}
    given = set()
    for word in filter(None, rest.split(",")):
        name, _, value = word.partition("=")
        if name not in FIELDS[family] or name in given:
            again = "comes twice" if name in given else f"is not read by {family}"
            raise ValueError(
                f"--reward {text}: {name!r} {again}; give each of "
                f"{', '.join(FIELDS[family])} once, as name=value"
            )
        given.add(name)
        found[name] = _value(text, name, value)
    try:
        return Spec(family, **found)
    except ValueError as error:
        raise ValueError(f"--reward {text}: {error}") from None


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Spec)}


def _value(text, name, value):
    kind = type(_DEFAULTS[name])
    try:
        return kind(value)
    except ValueError:
        number = "a whole number" if kind is int else "a number"
        raise ValueError(f"--reward {text}: {name}={value} is not {number}") from None


def _text(value):
    return f"{value:g}" if isinstance(value, float) else str(value)
