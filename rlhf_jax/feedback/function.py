"""Reward functions that users hand in: `fn(prompts, completions, **columns)`.

Plain strings go in, one float a completion comes out. What else comes out is an error
that names the completion and the value, before it reaches any weight.
"""

import importlib
import inspect
import math
import os
import sys
import traceback
from collections.abc import Mapping

import numpy as np

_LARGEST = float(np.finfo(np.float32).max)


def load(name):
    """The function that `module:function` names, modules of the current folder too.

    Raises ValueError when there is no such module or function; what a module raises
    while it is imported, it raises here.
    """
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(
            f"--reward {name}: name a function as module:function, for instance "
            "rewards:length for the function `length` of rewards.py"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # What the module itself wants to import is its own affair.
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"--reward {name}: there is no module {error.name!r} in this folder or "
            "among the installed packages"
        ) from error
    function = getattr(found, attribute, None)
    if function is None:
        raise ValueError(
            f"--reward {name}: {found.__file__} has no function {attribute!r}; define "
            f"it there as def {attribute}(prompts, completions, **columns)"
        )
    if not callable(function):
        raise ValueError(
            f"--reward {name}: {attribute!r} is not a function but of type "
            f"{type(function).__name__}"
        )
    return checked(function, name)


def checked(function, name):
    """`function` with its result checked: [N] float32, all finite, one a completion."""

    def score(prompts, completions, **columns):
        try:
            found = _call(function, prompts, completions, columns)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            raise ValueError(
                f"the reward {name} raised {type(error).__name__}: {error} (in "
                f"{place.filename}, line {place.lineno}), given {len(completions)} "
                f"completions {list(completions[:1])}... and columns {sorted(columns)}"
            ) from error
        return check(found, completions, name)

    return score


def _call(function, prompts, completions, columns):
    """By name, as TRL does, where one parameter is `completions`; else by place."""
    try:
        known = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin
        known = {}
    if "completions" not in known:
        return function(prompts, completions, **columns)
    anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
    asked = {"prompts": prompts} if anything or "prompts" in known else {}
    return function(completions=completions, **asked, **columns)


def check(found, completions, name):
    """`found` as [N] float32, when it is one finite number a completion.

    Raises ValueError, which names the completion and the value, when it is not.
    """
    wanted = f"a list of {len(completions)} numbers"
    if isinstance(found, str | bytes | Mapping):
        kind = type(found).__name__
        raise ValueError(f"the reward {name} returned {kind}, not {wanted}")
    try:
        values = list(found)
    except TypeError as error:
        kind = type(found).__name__
        raise ValueError(f"the reward {name} returned {kind}, not {wanted}") from error
    if len(values) != len(completions):
        raise ValueError(
            f"the reward {name} returned {len(values)} values for "
            f"{len(completions)} completions; return one float for each"
        )
    numbers = [_number(value) for value in values]
    for row, number in enumerate(numbers):
        if not math.isfinite(number):
            raise ValueError(
                f"the reward {name} returned {values[row]!r} for completion {row}, "
                f"{completions[row]!r}; every reward must be a finite number"
                + (" (it is the only reward)" if values[row] is None else "")
            )
    return np.asarray(numbers, np.float32)


def _number(value):
    """A Python, numpy, JAX or torch number that float32 can hold; NaN for all else."""
    if getattr(value, "ndim", 0) or isinstance(value, str | bytes):
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if abs(number) <= _LARGEST else math.nan
