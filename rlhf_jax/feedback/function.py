"""Reward functions that users hand in: `fn(prompts, completions, **columns)`.

Plain strings go in, one float a completion comes out. What else comes out is an error
that names the completion and the value, before it reaches any weight.
"""

import importlib
import math
import numbers
import os
import sys

import numpy as np


def load(name):
    """The function that `module:function` names, modules of the current folder too.

    Raises ValueError when there is no such module or function.
    """
    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != module.split(".")[0] and error.name != module:
            raise
        raise ValueError(
            f"--reward {name}: there is no module {module!r} in this folder or among "
            "the installed packages"
        ) from error
    except AttributeError as error:
        raise ValueError(
            f"--reward {name}: module {module!r} has no function {attribute!r}"
        ) from error
    if not callable(found):
        raise ValueError(f"--reward {name}: {attribute!r} is not a function")
    return checked(found, name)


def checked(function, name):
    """`function` with its result checked: [N] floats, all finite, one a completion."""

    def score(prompts, completions, **columns):
        try:
            found = function(prompts, completions, **columns)
        except Exception as error:
            raise ValueError(
                f"the reward {name} raised {type(error).__name__}: {error} "
                f"(on {len(completions)} completions, the first {completions[0]!r})"
            ) from error
        return check(found, completions, name)

    return score


def check(found, completions, name):
    """Raises ValueError unless `found` is one finite number a completion; [N]."""
    try:
        values = list(found)
    except TypeError as error:
        raise ValueError(
            f"the reward {name} returned {type(found).__name__}, not a list of "
            f"{len(completions)} numbers"
        ) from error
    if len(values) != len(completions):
        raise ValueError(
            f"the reward {name} returned {len(values)} values for "
            f"{len(completions)} completions; return one float for each"
        )
    for row, value in enumerate(values):
        if isinstance(value, np.ndarray | np.generic) and np.ndim(value) == 0:
            value = value.item()
        number = isinstance(value, numbers.Real) and not isinstance(value, str)
        if not number or not math.isfinite(value):
            raise ValueError(
                f"the reward {name} returned {value!r} for completion {row}, "
                f"{completions[row]!r}; every reward must be a finite number"
                + (" (it is the only reward)" if value is None else "")
            )
    return np.asarray([float(v) for v in values], np.float32)
