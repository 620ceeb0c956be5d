"""Wrong inputs, made of the ranges that fields declare: what lies just outside."""

import math
import random
import types
import typing
from typing import Annotated, Literal

from commands import NAMES, config

from rlhf_jax import ranges
from rlhf_jax.cli import help as help_lib


def bare(hint, marks=()):
    """(type, its marks) without None, and of the members of a tuple."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return bare(inner[0], inner[1:] + marks)
    if origin in (typing.Union, types.UnionType):
        return bare(next(x for x in inner if x is not types.NoneType), marks)
    return bare(inner[0], marks) if origin is tuple else (hint, marks)


def outside(hint):
    """Values just outside of what a field may hold, as Python has them."""
    kind, marks = bare(hint)
    if typing.get_origin(kind) is Literal:
        return ["no-such-choice", f"{typing.get_args(kind)[0]}s"]
    if kind is str:
        return [""] * any(isinstance(mark, ranges.NotEmpty) for mark in marks)
    if kind not in (int, float):
        return []
    marks = [mark for mark in marks if isinstance(mark, ranges.Range)]
    if not marks:
        return ["many"]
    (bounds,) = marks
    step = 1 if kind is int else 1e-6
    wrong = [math.nan, "many"] + [math.inf] * (not bounds.infinite)
    if kind is int:
        wrong.append(1.5)
    if bounds.above is not None:
        wrong += [kind(bounds.above), kind(bounds.above) - step]
    if bounds.at_least is not None:
        wrong.append(bounds.at_least - step)
    if bounds.below is not None:
        wrong += [kind(bounds.below), bounds.below + step]
    if bounds.at_most is not None:
        wrong.append(bounds.at_most + step)
    return wrong


def of_command(name):
    """Command lines that `name` has to refuse, each a list of words."""
    asked = []
    for spelled, flag in help_lib.flags(config(name)).items():
        if flag.name == "preset":  # read before all others
            continue
        if flag.switch:
            asked.append([f"{spelled}=maybe"])
        else:
            asked += [[spelled, str(value)] for value in outside(flag.hint)]
            if typing.get_origin(ranges.plain(flag.hint)) is not tuple:
                asked.append([spelled])
        asked.append([f"{spelled[:-1]}{'yz'[spelled[-1] == 'y']}q", "1"])
    return asked


def hundred():
    """A hundred of all, always the same, as (command, words)."""
    every = [(name, words) for name in NAMES for words in of_command(name)]
    return random.Random(0).sample(every, 100)


def inside(hint):
    """Words that a field takes: the ends of its range, and other ways to write them."""
    kind, marks = bare(hint)
    if typing.get_origin(kind) is Literal:
        return [str(choice) for choice in typing.get_args(kind)]
    if kind is str:
        return ["ü 🙂", "a b/", "- a", "1"]
    if kind not in (int, float):
        return []
    (bounds,) = (mark for mark in marks if isinstance(mark, ranges.Range))
    low = bounds.at_least if bounds.above is None else bounds.above + 1e-6
    high = bounds.at_most if bounds.below is None else bounds.below - 1e-6
    if kind is int:
        return ["1", "+1", "1_000", str(2**31)][: 1 if high is not None else 4] + (
            ["0"] if low == 0 else []
        )
    words = [f"{x:.7g}" for x in (low, high) if x is not None]
    return words + ["inf"] * bounds.infinite + (["1", "1e0"] if high is None else [])


def right(name):
    """Command lines that `name` reads, each a list of words."""
    asked = []
    for spelled, flag in help_lib.flags(config(name)).items():
        if flag.switch:
            asked.append([spelled])
        elif flag.name != "preset":
            fixed = typing.get_args(ranges.plain(flag.hint))
            many = (
                1
                if not fixed
                or typing.get_origin(ranges.plain(flag.hint)) is (Literal)
                or fixed[-1] is Ellipsis
                else len(fixed)
            )
            asked += [[spelled, *[word] * many] for word in inside(flag.hint)]
    return asked
