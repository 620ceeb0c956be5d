"""Flags that are fields of an algorithm's configuration, where alone they are declared.

A group of flags copies fields with their type, range, default and help. Groups stay
flat, so that `--rl.clip`, the key "rl.clip" of a preset and config.json share one name
for a field, whichever structure it belongs to.
"""

import dataclasses
from typing import Annotated

import docstring_parser
import tyro

from rlhf_jax import ranges

_SOURCE, _NAME = "source", "name"  # in the metadata of a field


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


def _defaults(source):
    """{field: default} of the fields that have one."""
    if dataclasses.is_dataclass(source):
        return {field.name: field.default for field in dataclasses.fields(source)}
    return source._field_defaults


def _help(source):
    """{field: its help text}."""
    return {
        param.arg_name: " ".join((param.description or "").split())
        for param in docstring_parser.parse_from_object(source).params
    }
