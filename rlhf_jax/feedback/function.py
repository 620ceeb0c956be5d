"""User-defined reward functions: `fn(prompts, completions, **columns)`.

They take plain strings and return one float per completion. Anything else raises an
error that names the completion and the value, before it can affect any weight.
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
    """The function named by `module:function`, also from the current folder.

    Raises ValueError if there is no such module or function. Errors raised while the
    module is imported are passed on.
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
        imported = importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A missing import of the module itself is its own error.
        if not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"--reward {name}: there is no module {error.name!r} in this folder or "
            "among the installed packages"
        ) from error
    function = getattr(imported, attribute, None)
    if function is None:
        raise ValueError(
            f"--reward {name}: {imported.__file__} has no function {attribute!r}; "
            f"define it there as def {attribute}(prompts, completions, **columns)"
        )
    if not callable(function):
        raise ValueError(
            f"--reward {name}: {attribute!r} is not a function but of type "
            f"{type(function).__name__}"
        )
    return checked(function, name)


def checked(function, name):
    """`function` with a checked result: [N] float32, finite, one per completion."""

    def score(prompts, completions, **columns):
        try:
            values = _call(function, prompts, completions, columns)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            raise ValueError(
                f"the reward {name} raised {type(error).__name__}: {error} (in "
                f"{frame.filename}, line {frame.lineno}), given {len(completions)} "
                f"completions {list(completions[:1])}... and columns {sorted(columns)}"
            ) from error
        return check(values, completions, name)

    return score


def _call(function, prompts, completions, columns):
    """Calls by name, as TRL does, if a parameter is `completions`; else by position."""
    try:
        known = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a builtin
        known = {}
    if "completions" not in known:
        return function(prompts, completions, **columns)
    anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
    asked = {"prompts": prompts} if anything or "prompts" in known else {}
    return function(completions=completions, **asked, **columns)


def check(rewards, completions, name):
    """The rewards as [N] float32.

    Raises ValueError, naming the completion and the value, unless they are one finite
    number per completion.
    """
    wanted = f"a list of {len(completions)} numbers"
    try:
        values = None if isinstance(rewards, str | bytes | Mapping) else list(rewards)
    except TypeError:
        values = None
    if values is None:
        kind = type(rewards).__name__
        raise ValueError(f"the reward {name} returned {kind}, not {wanted}")
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
    """A Python, numpy, JAX or torch number as a float; NaN if not a float32."""
    if getattr(value, "ndim", 0) or isinstance(value, str | bytes):
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if abs(number) <= _LARGEST else math.nan
