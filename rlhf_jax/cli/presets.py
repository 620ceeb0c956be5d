"""Flags set together: those of an earlier run or of a named preset.

`--config runs/x/config.json` takes the flags of a run, `--preset paper` those of a
preset. A preset overrides a run, and flags on the command line override both.
"""

import argparse
import dataclasses
import json
import operator
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any

from flax import traverse_util

from rlhf_jax.cli import fields

HELP = "--config FILE repeats the run of a config.json; other flags change it."
_NOT_REPEATED = ("output", "resume")


@dataclasses.dataclass(frozen=True)
class Preset:
    """Flags that belong together: published settings, or a size of a study.

    flags: values by name, such as "rl.kl_coef". notes: sentences for the report, for
    instance where the preset differs from what was published, and why.
    """

    summary: str  # one line, for --help
    flags: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def default(config, words, presets=None):
    """The config that --config and --preset make the default.

    Args:
      config: the default without either.
      words: the command line; the last `--config FILE` and `--preset NAME` in it count.
      presets: {name: Preset}; config then has a field `preset` for the name.
    Returns (config, the words that remain).
    Raises ValueError for an unknown preset, and for a file that is not a config.json of
    this experiment.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name in ("--config", "--preset"):
        parser.add_argument(name, nargs="?", const="")
    asked, remaining = parser.parse_known_args(list(words))
    if asked.preset is not None and not presets:
        raise ValueError("--preset: there are none here; give its flags one by one")
    if asked.config == "":
        raise ValueError("--config: name the config.json of a run after it")
    if asked.preset == "":
        raise ValueError(f"--preset: name one after it: {', '.join(presets)}")
    if asked.config is not None:
        config = _from_run(config, asked.config)
    if asked.preset is not None:
        config = preset(config, asked.preset, presets)
    return config, remaining


def preset(config, name, presets):
    """`config` with the flags of a preset and its name in the field `preset`.

    Raises ValueError for an unknown name or for a flag that the config lacks.
    """
    if name not in presets:
        raise ValueError(f"--preset {name}: unknown; choose from {', '.join(presets)}")
    flags = {**presets[name].flags, "preset": name}
    nested = traverse_util.unflatten_dict(flags, sep=".")
    return _merge(config, nested, f"--preset {name}", "")


def changed(config, presets):
    """{flag: (value in the preset, value in `config`)} where the two differ.

    Empty for a config without a preset.
    """
    if config.preset not in presets:
        return {}
    differences = {}
    for flag, value in presets[config.preset].flags.items():
        now = operator.attrgetter(flag)(config)
        if now != value:
            differences[flag] = value, now
    return differences


def describe(config, presets):
    """Lines on the preset of a config: its summary, the flags changed, its notes.

    Empty for a config without a preset.
    """
    if config.preset not in presets:
        return ()
    chosen = presets[config.preset]
    lines = [f"{config.preset}: {chosen.summary}"]
    for flag, (was, now) in changed(config, presets).items():
        name = flag.replace("_", "-")
        lines.append(f"changed: --{name} {_format(now)}, in the preset {_format(was)}")
    return (*lines, *chosen.notes)


def help_of(presets):
    """What --help says about --config and the presets."""
    if not presets:
        return HELP
    lines = [f"  {name}: {one.summary}" for name, one in presets.items()]
    about = "--preset NAME sets several flags at once; other flags change it:"
    return "\n".join([HELP, "", about, *lines])


def _format(value):
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def _from_run(config, file):
    path = pathlib.Path(file)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"--config {file}: there is no such file; name a config.json")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))["config"]
        saved = {k: v for k, v in saved.items() if k not in _NOT_REPEATED}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--config {file} is no config.json of a run ({type(error).__name__}: "
            f"{error})"
        ) from None
    return _merge(config, saved, f"--config {file}", "")


def _merge(config, values, source, prefix):
    """`config` with the values of nested mappings in place of its fields."""
    hints = typing.get_type_hints(type(config))
    changes = {}
    for name, value in fields.renamed(config, values).items():
        flag = f"--{prefix}{name}".replace("_", "-")
        if name not in hints:
            raise ValueError(
                f"{source} is of another experiment or version: it sets {flag}, "
                "which is no flag here"
            )
        now = getattr(config, name)
        if dataclasses.is_dataclass(now) and isinstance(value, dict):
            changes[name] = _merge(now, value, source, f"{prefix}{name}.")
            continue
        try:
            changes[name] = _as(hints[name], value)
        except TypeError:
            raise ValueError(f"{source}: {flag} cannot be {value!r}") from None
    return dataclasses.replace(config, **changes)


def _as(hint, value):
    """A value from JSON or a preset as a field's type; TypeError if it does not fit."""
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
        if isinstance(value, list | tuple):
            return tuple(_as(inner[0], x) for x in value)
    elif hint is float:  # inf and nan, which JSON lacks, are written as text
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
