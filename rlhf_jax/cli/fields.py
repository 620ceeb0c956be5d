"""Flags that are fields of an algorithm's configuration, where alone they are declared.

A group of flags copies fields with their type, range, default and help. Groups stay
flat, so that `--rl.clip`, the key "rl.clip" of a preset and config.json share one name
for a field, whichever structure it belongs to.
"""

import dataclasses
import functools
import typing
from typing import Annotated

import docstring_parser
import tyro

from rlhf_jax import ranges

_SOURCE, _NAME = "source", "name"  # in the metadata of a field
_WITHOUT_SOURCE = ("builtins", "types")  # classes that no file declares


def group(taken, **defaults):
    """A frozen dataclass with fields of other classes, for a group of flags to extend.

    Args: taken: {dataclass or NamedTuple: names of its fields, (flag, field) where the
    flag has another name}; defaults: {flag: value} where the default differs.
    """
    made = []
    for source, names in taken.items():
        hints, help_of, known = ranges.hints(source), _help(source), _defaults(source)
        for name in names:
            flag, name = (name, name) if isinstance(name, str) else name
            hint = Annotated[hints[name], tyro.conf.arg(help=help_of.get(name, ""))]
            default = defaults.get(flag, known[name])
            meta = {_SOURCE: source, _NAME: name}
            made.append((flag, hint, dataclasses.field(default=default, metadata=meta)))
    return dataclasses.make_dataclass("Flags", made, frozen=True)


def of(flags, source):
    """{field: value} of the fields that a group of flags took from `source`."""
    return {
        field.metadata[_NAME]: getattr(flags, field.name)
        for field in dataclasses.fields(flags)
        if field.metadata.get(_SOURCE) is source
    }


def help_of(kind):
    """{field: its help text} of a dataclass or NamedTuple, inherited ones included."""
    helped = {}
    for base in reversed(kind.__mro__):
        if base.__module__ not in _WITHOUT_SOURCE:
            helped |= _help(base)
    for name, hint in ranges.hints(kind).items():
        for mark in _marks(hint):
            if getattr(mark, "help", None):
                helped.setdefault(name, mark.help)
    return helped


def old_names(kind):
    """{other name of a field: its name} of a dataclass or NamedTuple."""
    return {
        mark.name: name
        for name, hint in ranges.hints(kind).items()
        for mark in _marks(hint)
        if isinstance(mark, ranges.Was)
    }


def renamed(config, values):
    """{field: value} with every other name of a field of `config` made its name.

    Raises ValueError where a field is given under both names.
    """
    names = old_names(type(config))
    for name in values:
        if names.get(name) in values:
            raise ValueError(
                f"{name} and {names[name]} are two names of one flag; give one of them"
            )
    return {names.get(name, name): value for name, value in values.items()}


def _marks(hint):
    return hint.__metadata__ if typing.get_origin(hint) is Annotated else ()


def _defaults(source):
    """{field: default} of the fields that have one."""
    if dataclasses.is_dataclass(source):
        return {field.name: field.default for field in dataclasses.fields(source)}
    return source._field_defaults


@functools.cache
def _help(source):
    """{field: its help text}, of the fields that a class declares itself."""
    return {
        param.arg_name: " ".join((param.description or "").split())
        for param in docstring_parser.parse_from_object(source).params
    }
