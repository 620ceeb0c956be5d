"""What a field of a configuration may hold, declared on the field and checked once.

    clip: Annotated[float, Range(above=0)] = 0.2
    schedule: Literal["constant", "linear", "cosine"] = "constant"

`check` walks a configuration, dataclasses and NamedTuples inside one another, and names
the first field that is out of its range. What two fields say together is declared by a
method of the structure that holds them both:

    def conflicts(self):
        if self.transitions and self.minibatch_of == "rows":
            yield ("transitions", "minibatch_of"), "only tokens can be left out"
"""

import contextlib
import dataclasses
import functools
import math
import numbers
import operator
import types
import typing
from typing import Annotated, Literal


@dataclasses.dataclass(frozen=True)
class Range:
    """Bounds of a number. NaN is never inside, infinity only where it is allowed."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    infinite: bool = False  # for what is switched off by "inf"

    def holds(self, value):
        """Whether a number is inside."""
        return (
            not math.isnan(value)
            and (self.infinite or not math.isinf(value))
            and (self.above is None or value > self.above)
            and (self.at_least is None or value >= self.at_least)
            and (self.below is None or value < self.below)
            and (self.at_most is None or value <= self.at_most)
        )

    def words(self):
        """The bounds as they follow "must be a number"."""
        bounds = (
            ("above", self.above),
            ("of at least", self.at_least),
            ("below", self.below),
            ("of at most", self.at_most),
        )
        said = [f"{word} {bound:g}" for word, bound in bounds if bound is not None]
        return " and ".join(said) + ", or inf" * self.infinite


class NotEmpty:
    """Marks a text that must hold something."""


@dataclasses.dataclass(frozen=True)
class Was:
    """Marks a field that goes by another name too, which it had or has elsewhere."""

    name: str


Count = Annotated[int, Range(at_least=1)]
Natural = Annotated[int, Range(at_least=0)]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(at_least=0)]
Share = Annotated[float, Range(at_least=0, at_most=1)]
Finite = Annotated[float, Range()]
Limit = Annotated[float, Range(above=0, infinite=True)]  # inf: no limit
Text = Annotated[str, NotEmpty()]


def check(config, *, flags=False):
    """Raises ValueError at the first field out of its range, then at a contradiction.

    Args: config: a dataclass or NamedTuple, others inside it included. flags: fields
    are named as on the command line, `--rl.clip nan`, otherwise `clip=nan`.
    Arrays and traced values are not looked into.
    """
    spell = _as_flag if flags else _as_argument
    for path, hint, value in fields(config):
        words = wanted(hint, value)
        if words is not None:
            raise ValueError(f"{spell(path, value)}: must be {words}")
    for path, structure in structures(config):
        for names, reason in getattr(structure, "conflicts", tuple)():
            values = [(name, operator.attrgetter(name)(structure)) for name in names]
            said = " and ".join(spell(f"{path}{name}", x) for name, x in values)
            raise ValueError(f"{said}: {reason}")


def check_value(name, value, hint):
    """Raises ValueError where an argument `name` is not what `hint` says."""
    words = wanted(hint, value)
    if words is not None:
        raise ValueError(f"{_as_argument(name, value)}: must be {words}")


def wanted_of_words(hint, words):
    """What words after a flag must be to fit `hint`, None where they fit."""
    if words == ["None"] and wanted(hint, None) is None:
        return None
    bare = plain(hint)
    if typing.get_origin(bare) is not tuple:
        return wanted(hint, _parsed(bare, *words))
    inner = typing.get_args(bare)
    if inner[-1] is not Ellipsis and len(words) != len(inner):
        return f"{len(inner)} values"
    return wanted(hint, tuple(_parsed(plain(inner[0]), word) for word in words))


def plain(hint):
    """A type without ranges, and without None as an alternative; of one or several
    values the type of several."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return plain(inner[0])
    if origin in (typing.Union, types.UnionType):
        bare = [plain(x) for x in inner if x is not types.NoneType]
        return next((x for x in bare if typing.get_origin(x) is tuple), bare[0])
    return hint


def _parsed(bare, word):
    """A word as the value of a type; the word itself where it is none."""
    if bare in (int, float):
        with contextlib.suppress(ValueError):
            return bare(word)
    if typing.get_origin(bare) is Literal:
        return next((x for x in typing.get_args(bare) if str(x) == word), word)
    return word


def hints(structure):
    """{field: annotation} of a dataclass or NamedTuple, with its ranges."""
    kind = structure if isinstance(structure, type) else type(structure)
    return _hints(kind)


@functools.cache
def _hints(kind):
    known = typing.get_type_hints(kind, include_extras=True)
    if dataclasses.is_dataclass(kind):
        return {field.name: known[field.name] for field in dataclasses.fields(kind)}
    return {name: known[name] for name in kind._fields}


def is_structure(value):
    """Whether a value is a dataclass or a NamedTuple, with fields of its own."""
    if isinstance(value, type):
        return False
    return dataclasses.is_dataclass(value) or (
        isinstance(value, tuple) and hasattr(value, "_field_defaults")
    )


def structures(config, path=""):
    """(path, structure) of a configuration and of every one inside it."""
    yield path, config
    for name in hints(config):
        value = getattr(config, name)
        if is_structure(value):
            yield from structures(value, f"{path}{name}.")


def fields(config):
    """(path, annotation, value) of every field that is no structure itself."""
    for path, structure in structures(config):
        for name, hint in hints(structure).items():
            value = getattr(structure, name)
            if not is_structure(value):
                yield f"{path}{name}", hint, value


def wanted(hint, value, marks=()):
    """What `hint` wants in words, None where `value` is that."""
    if hasattr(value, "dtype") and not isinstance(value, numbers.Number):
        return None  # an array, or traced
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return wanted(inner[0], value, inner[1:])
    if origin in (typing.Union, types.UnionType):
        return _wanted_of_any(inner, value, marks)
    if origin is Literal:
        return None if value in inner else f"one of {', '.join(map(str, inner))}"
    if origin is tuple and inner:
        if not isinstance(value, tuple | list):
            return "a list"
        said = (wanted(inner[0], element, marks) for element in value)
        return next((words for words in said if words is not None), None)
    if hint is bool:
        return None if isinstance(value, bool) else "true or false"
    if hint in (int, float):
        return _wanted_number(hint, value, marks)
    if hint is str:
        return _wanted_text(value, marks)
    return None


def _wanted_of_any(choices, value, marks):
    """The same of a union: one of its choices must hold."""
    if value is None and types.NoneType in choices:
        return None
    choices = [choice for choice in choices if choice is not types.NoneType]
    said = [wanted(choice, value, marks) for choice in choices]
    return None if None in said else " or ".join(said)


def _wanted_number(hint, value, marks):
    bounds = next((mark for mark in marks if isinstance(mark, Range)), Range())
    kind = numbers.Integral if hint is int else numbers.Real
    number = isinstance(value, kind) and not isinstance(value, bool)
    if number and bounds.holds(value):
        return None
    name = "number"
    if hint is int:
        name = "whole number"
    elif number and math.isinf(value) and not bounds.infinite:
        name = "finite number"
    return f"a {name} {bounds.words()}".rstrip()


def _wanted_text(value, marks):
    if not isinstance(value, str):
        return "a text"
    filled = any(isinstance(mark, NotEmpty) for mark in marks)
    return "a text that is not empty" if filled and not value else None


def _as_flag(path, value):
    name = path.replace("_", "-")
    if isinstance(value, bool):
        group, dot, last = name.rpartition(".")
        return f"--{name}" if value else f"--{group}{dot}no-{last}"
    if isinstance(value, tuple | list):
        value = " ".join(map(str, value))
    return f"--{name} {value if value != '' else repr(value)}"


def _as_argument(path, value):
    return f"{path}={value!r}"
