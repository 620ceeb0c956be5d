"""Flags by the name of what they stand for: an earlier run, or a preset.

`--config runs/x/config.json` takes the flags of a run, `--preset paper` those that an
experiment has under a name. Both are defaults: flags on the command line win, and a
preset over a run.
"""

import dataclasses
import json
import pathlib
import types
import typing
from collections.abc import Mapping
from typing import Any

HELP = "--config FILE repeats the run whose config.json it is; other flags change it."
_OWN = ("output", "resume")  # of the earlier run alone


@dataclasses.dataclass(frozen=True)
class Preset:
    """Flags that belong together: published settings, or a size of a study.

    flags: values by name, as "rl.kl_coef". notes: what a reader must know besides, for
    instance where it differs from what was published, and why.
    """

    summary: str  # one line, for --help
    flags: Mapping[str, Any]
    notes: tuple[str, ...] = ()


def default(config, words, presets=None):
    """(the config that is the default now, the words that are left).

    words: a command line; of `--config FILE` and of `--preset NAME` in it the last
    counts. presets: {name: Preset}; config then has a field `preset`, for the name.
    Raises ValueError for a file that is no config.json, or one of another experiment,
    and for an unknown preset.
    """
    asked = {"--config": None} | ({"--preset": None} if presets else {})
    left, words = [], list(words)
    if not presets and any(word.split("=")[0] == "--preset" for word in words):
        raise ValueError("--preset: there are none here; give its flags one by one")
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        if name not in asked:
            left.append(word)
        elif equals or words:
            asked[name] = value if equals else words.pop(0)
        elif name == "--config":
            raise ValueError("--config: name the config.json of a run after it")
        else:
            raise ValueError(f"--preset: name one after it: {', '.join(presets)}")
    if asked["--config"] is not None:
        config = _built(config, asked["--config"])
    if asked.get("--preset") is not None:
        config = preset(config, asked["--preset"], presets)
    return config, left


def preset(config, name, presets):
    """`config` with the flags of a preset, and its name as the field `preset`."""
    if name not in presets:
        raise ValueError(f"--preset {name}: unknown; choose from {', '.join(presets)}")
    nested = {}
    for flag, value in {**presets[name].flags, "preset": name}.items():
        *groups, last = flag.split(".")
        inner = nested
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = value
    return _merge(config, nested, f"--preset {name}", "")


def changed(config, presets):
    """{flag: (the preset's value, the value in `config`)} where flags won.

    Nothing for a config that no preset of these was asked for.
    """
    if config.preset not in presets:
        return {}
    found = {}
    for flag, value in presets[config.preset].flags.items():
        now = config
        for part in flag.split("."):
            now = getattr(now, part)
        if now != value:
            found[flag] = value, now
    return found


def told(config, presets):
    """Lines about the preset of a config: its summary, what flags changed, its notes.

    None where no preset was asked for.
    """
    if config.preset not in presets:
        return ()
    chosen = presets[config.preset]
    lines = [f"{config.preset}: {chosen.summary}"]
    for flag, (was, now) in changed(config, presets).items():
        name = flag.replace("_", "-")
        lines.append(f"changed: --{name} {_words(now)}, in the preset {_words(was)}")
    return (*lines, *chosen.notes)


def help_of(presets):
    """What --help says of the presets, and of --config."""
    if not presets:
        return HELP
    lines = [f"  {name}: {one.summary}" for name, one in presets.items()]
    about = "--preset NAME sets the flags that have a name together; others change it:"
    return "\n".join([HELP, "", about, *lines])


def _words(value):
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


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
    return _merge(config, said, f"--config {file}", "")


def _merge(config, said, source, prefix):
    """`config` with what nested mappings say in place of its fields."""
    hints = typing.get_type_hints(type(config))
    changes = {}
    for name, value in said.items():
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
    """A value, of JSON or a preset, as a field's type has it; TypeError where none."""
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
