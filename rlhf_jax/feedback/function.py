"""User-defined reward functions: `fn(prompts, completions, **columns)`.

They take plain strings, or messages, and return one float per completion, `None` where
they do not apply. As in TRL they may be coroutines, and get `completion_ids`, the token
ids of each completion, if they name that parameter or take `**columns`. Anything else
raises an error that names the completion and the value, before it can affect any
weight.
"""

import asyncio
import contextlib
import functools
import inspect
import math
import threading
from collections.abc import Mapping

import numpy as np

from rlhf_jax.feedback import user_modules
from rlhf_jax.runtime import deadline

IDS = "completion_ids"
_LARGEST = float(np.finfo(np.float32).max)
_TRL_ONLY = ("trainer_state", "log_extra", "log_metric", "environments")


def load(name, **how):
    """The function named by `module:function`, also from the current folder.

    Args: how: of `checked`. Raises ValueError if there is no such module or function,
    or where the module cannot be imported, naming its file and line.
    """
    return checked(user_modules.attribute(name), name, **how)


def checked(function, name, *, optional=False, timeout=0.0):
    """`function` with a checked result: [N] float32, one number per completion.

    Args: optional: None is allowed, and becomes NaN; timeout: seconds that a call may
    take, 0 for no limit; see `deadline.within` for what it cannot interrupt.
    Raises ValueError for what cannot be a reward function.
    """
    _check_callable(function, name)
    start = user_modules.start_of(function)

    def score(prompts, completions, **columns):
        ask = functools.partial(_call, function, prompts, completions, columns)
        try:
            values = deadline.within(timeout, ask)
        except deadline.Expired:
            raise ValueError(
                f"the reward {name} took longer than {timeout:g} s (--reward-timeout) "
                f"for {len(completions)} completions; allow more, or make it faster"
            ) from None
        except (Exception, SystemExit) as error:
            seen = sorted(k for k in columns if k != IDS)
            raise ValueError(
                f"the reward {name} {user_modules.describe(error, start=start)}, given "
                f"{len(completions)} completions {list(completions[:1])}... and "
                f"columns {seen}"
            ) from error
        return check(values, completions, name, optional=optional)

    return score


def _check_callable(function, name):
    """Raises ValueError for what cannot be called with prompts and completions."""
    if inspect.isclass(function):
        raise ValueError(
            f"--reward {name}: {function.__name__} is a class; name an instance of it "
            "that can be called, or a function"
        )
    if not callable(function):
        raise ValueError(
            f"--reward {name}: {name.rpartition(':')[2]!r} is not a function but of "
            f"type {type(function).__name__}"
        )
    known = _parameters(function)
    missing = [
        k for k in _TRL_ONLY if k in known and known[k].default is known[k].empty
    ]
    if missing:
        raise ValueError(
            f"--reward {name}: it asks for {', '.join(missing)}, which only TRL gives; "
            f"give the parameter a default ({missing[0]}=None)"
        )
    if known and "completions" not in known:
        with contextlib.suppress(TypeError):
            inspect.signature(function).bind_partial((), ())
            return
        raise ValueError(
            f"--reward {name}: it takes {inspect.signature(function)}; a reward is "
            "called with (prompts, completions, **columns)"
        )


def _parameters(function):
    """{name: parameter} of a function; {} of a builtin that does not say."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}


def _call(function, prompts, completions, columns):
    """Calls by name, as TRL does, if a parameter is `completions`; else by position."""
    known = _parameters(function)
    anything = any(p.kind is p.VAR_KEYWORD for p in known.values())
    columns = {k: v for k, v in columns.items() if k != IDS or anything or k in known}
    if "completions" in known:
        asked = {"prompts": prompts} if anything or "prompts" in known else {}
        values = function(completions=completions, **asked, **columns)
    else:
        values = function(prompts, completions, **columns)
    if inspect.iscoroutine(values):
        values = _awaited(values)
    return list(values) if inspect.isgenerator(values) else values


def _awaited(coroutine):
    """What a coroutine returns, also where an event loop runs already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    done = []
    thread = threading.Thread(target=lambda: done.append(asyncio.run(coroutine)))
    thread.start()
    thread.join()
    return done[0]


def check(rewards, completions, name, *, optional=False):
    """The rewards as [N] float32, NaN for None.

    Raises ValueError, naming the completion and the value, unless they are one finite
    number per completion, or, where that is `optional`, None.
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
        left_out = optional and values[row] is None
        if not left_out and not math.isfinite(number):
            raise ValueError(
                f"the reward {name} returned {values[row]!r} for completion {row}, "
                f"{completions[row]!r}; every reward must be a finite number"
                + _about_none(values[row], optional)
            )
    return np.asarray(numbers, np.float32)


def _about_none(value, optional):
    """What to do about a value that is not finite."""
    if optional:
        return ", or None where it does not apply"
    return " (it is the only reward)" if value is None else ""


def _number(value):
    """A Python, numpy, JAX or torch number as a float; NaN if not a float32."""
    if getattr(value, "ndim", 0) or isinstance(value, str | bytes):
        return math.nan
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return number if abs(number) <= _LARGEST else math.nan
