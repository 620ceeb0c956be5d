"""Help as a person reads it, and one line for words that cannot be read.

A configuration lists under `essential` the flags that --help shows; --help-all shows
every flag. A configuration without that list shows every flag under both.
"""

import difflib
import re
import shutil
import textwrap
import typing
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from rlhf_jax import ranges
from rlhf_jax.cli import fields, trl

_SHORT, _ALL = ("-h", "--help"), "--help-all"
_WIDEST = 88  # columns of a line of help, however wide the terminal is
_LEFT = 30  # of them for a flag and its default


class Flag(NamedTuple):
    """One flag of a command."""

    hint: Any
    default: Any
    help: str
    name: str  # without the dashes in front

    @property
    def switch(self):
        """Whether it takes no value."""
        choices = typing.get_args(self.hint)
        return ranges.plain(self.hint) is bool and type(None) not in choices


def flags(config):
    """{"--name": `Flag`} of a configuration, the "no" of switches too."""
    made = {}
    for path, structure in ranges.structures(config):
        helped = fields.help_of(type(structure))
        for name, hint in ranges.hints(structure).items():
            value = getattr(structure, name)
            if ranges.is_structure(value) or _positional(hint):
                continue
            flag = Flag(hint, value, helped.get(name, ""), _spelled(path + name))
            made[f"--{flag.name}"] = flag
            if flag.switch:
                made[f"--{_spelled(path)}no-{_spelled(name)}"] = flag
    return made


def renamed(config, words):
    """Words of a command line in which flags have the name that fields have now."""
    names = {
        f"--{_spelled(path + old)}": f"--{_spelled(path + name)}"
        for path, structure in ranges.structures(config)
        for old, name in fields.old_names(type(structure)).items()
    }
    parted = (word.partition("=") for word in words)
    return ["".join((names.get(_spelled(x), x), *rest)) for x, *rest in parted]


def asked(config, words):
    """Which help a command line asks for: "short", "all" or None."""
    if _ALL in words:
        return "all"
    if any(word in _SHORT for word in words):
        return "short" if getattr(config, "essential", ()) else "all"
    return None


def short(config, *, program, description, presets=None):
    """The text of --help: what it does, how it is called, the flags that matter."""
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    known = flags(config)
    count = len({flag.name for flag in known.values()})
    parts = [f"usage: {program} [FLAGS]", *_essence(description, width)]
    parts.append(
        "\n".join(
            _line(known[f"--{_spelled(name)}"], width) for name in config.essential
        )
    )
    rest = f"--help-all shows all {count} flags and more about this command."
    if presets:
        rest += f" --preset NAME sets several at once: {', '.join(presets)}."
    rest += " --config FILE repeats the run of a config.json."
    return "\n\n".join([*parts, textwrap.fill(rest, width)])


def refusal(config, words):
    """The first fault of a command line in one line; None where none is seen."""
    known, at = flags(config), 0
    free = any(map(_positional, ranges.hints(config).values()))
    while at < len(words):
        name, equals, value = words[at].partition("=")
        at += 1
        if not _dashed(words[at - 1]):
            if free:
                continue
            return f"{name}: a flag must stand before it, as in --name {name}"
        flag = known.get(_spelled(name))
        if flag is None:
            return unknown(name, known)
        given = [value] * bool(equals)
        while words[at:] and not (equals or _dashed(words[at])):
            if flag.switch and free:
                break
            given.append(words[at])
            at += 1
            if typing.get_origin(ranges.plain(flag.hint)) is not tuple:
                break
        wanted = _refused(flag, given)
        if wanted is not None:
            return f"{' '.join([name, *(x or repr(x) for x in given)])}: {wanted}"
    return None


def unknown(name, known):
    """What is said of a flag that there is not. known: the names that there are."""
    asked, elsewhere = name.lstrip("-"), trl.ours(name.lstrip("-"))
    said = f"{name}: there is no such flag; "
    for ours in elsewhere:
        if f"--{ours}" in known:
            return f"{said}TRL's {asked} is --{ours} here"
    near = difflib.get_close_matches(_spelled(name), known, n=1)
    if near and not elsewhere:
        return f"{said}did you mean {near[0]}"
    return f"{said}--help-all shows those that there are"


def _refused(flag, given):
    """What is wrong with the words after a flag, None if nothing is."""
    if flag.switch:
        if given:
            return "it takes no value; put no- before its last part to switch it off"
        return None
    many = typing.get_origin(ranges.plain(flag.hint)) is tuple
    if not (given or many):
        return "a value must follow it"
    wanted = ranges.wanted_of_words(flag.hint, given)
    return None if wanted is None else f"must be {wanted}"


def _spelled(path):
    return path.replace("_", "-")


def _dashed(word):
    """Whether a word is a flag, not a value as -1 and "- a" are."""
    return (
        re.fullmatch(r"-(?!\d|\.\d|inf$|nan$)\S+", word.partition("=")[0]) is not None
    )


def _positional(hint):
    return typing.get_origin(hint) is Annotated and tyro.conf.Positional in (
        hint.__metadata__
    )


def _essence(description, width):
    """The first paragraph of a docstring, and the commands in it."""
    first, *rest = description.strip().split("\n\n")
    commands = [text for text in rest if text.startswith(" ") and "python -m" in text]
    shown = [textwrap.indent(textwrap.dedent(x), "  ").rstrip() for x in commands]
    return [textwrap.fill(" ".join(first.split()), width), *shown]


def _line(flag, width):
    """A flag with its default and its help, in one line."""
    said = f"  --{flag.name}"
    if not flag.switch:
        room = max(_LEFT - len(said) - 3, 1)
        default = _default(flag.default)
        said += f" {default if len(default) <= room else default[: room - 1] + '…'}"
    choices = typing.get_args(ranges.plain(flag.hint))
    text = " ".join(flag.help.split())
    if typing.get_origin(ranges.plain(flag.hint)) is Literal:
        text = f"{', '.join(map(str, choices[:-1]))} or {choices[-1]}."
    elif flag.switch and flag.default:
        text = f"{text} On by default."
    room = width - max(_LEFT, len(said) + 2)
    return f"{said:<{_LEFT - 2}}  {_cut(text, room)}"


def _default(value):
    """A default as it is typed; dots where there is none."""
    if isinstance(value, tuple | list):
        return " ".join(map(str, value[:2])) + " …" * (len(value) > 2) or "…"
    if value is None or value == "":
        return "…"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cut(text, room):
    """The first sentence of a text, shortened to a line."""
    first = text.split(". ")[0]
    first = first if first.endswith(".") or first == text else f"{first}."
    if len(first) <= room:
        return first
    clause = first.split(";")[0]
    if len(clause) < room:
        return f"{clause}."
    return textwrap.shorten(first, room, placeholder=" …")
