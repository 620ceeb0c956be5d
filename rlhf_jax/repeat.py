"""--config runs/x/config.json: the flags of an earlier run as defaults of this one."""

import dataclasses
import json
import pathlib
import types
import typing

HELP = "--config FILE repeats the run whose config.json it is; other flags change it."
_OWN = ("output", "resume")  # of the earlier run alone


def default(config, words):
    """(the config that is the default now, the words that are left).

    words: a command line; of `--config FILE` in it the last counts. Raises ValueError
    for a file that is no config.json, or one of another experiment.
    """
    left, file, words = [], None, list(words)
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name != "--config":
            left.append(word)
        elif equals or words:
            file = value if equals else words.pop(0)
        else:
            raise ValueError("--config: name the config.json of a run after it")
    return (config if file is None else _built(config, file)), left


def _built(config, file):
    path = pathlib.Path(file)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"--config {file}: there is no such file; name a config.json")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))["config"]
        said = {name: value for name, value in said.items() if name not in _OWN}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--config {file} is no config.json of a run ({type(error).__name__}: "
            f"{error})"
        ) from None
    return _merge(config, said, file, "")


def _merge(config, said, file, prefix):
    """`config` with what a JSON object says in place of its fields."""
    hints = typing.get_type_hints(type(config))
    changes = {}
    for name, value in said.items():
        flag = f"--{prefix}{name}".replace("_", "-")
        if name not in hints:
            raise ValueError(
                f"--config {file} is of another experiment or version: it sets {flag}, "
                "which is no flag here"
            )
        now = getattr(config, name)
        if dataclasses.is_dataclass(now) and isinstance(value, dict):
            changes[name] = _merge(now, value, file, f"{prefix}{name}.")
            continue
        try:
            changes[name] = _as(hints[name], value)
        except TypeError:
            raise ValueError(f"--config {file}: {flag} cannot be {value!r}") from None
    return dataclasses.replace(config, **changes)


def _as(hint, value):
    """A value of JSON as a field's type has it; TypeError where it is none."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for choice in inner:
            try:
                return _as(choice, value)
            except TypeError:
                continue
    elif origin is typing.Literal:
        if value in inner:
            return value
    elif origin is tuple:
        if isinstance(value, list):
            return tuple(_as(inner[0], x) for x in value)
    elif hint is float:  # inf and nan, which are not JSON, are written as text
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if value in ("inf", "-inf", "nan"):
            return float(value)
    elif hint is types.NoneType:
        if value is None:
            return None
    elif type(value) is hint:
        return value
    raise TypeError(hint)
