"""Callbacks by name: `module:function`, or the functions themselves."""

import os
import pkgutil
import sys


def load(given):
    """The functions that --callbacks names, also from the current folder.

    Args: given: a function, a name, or several of them. Raises ValueError for what is
    no function or cannot be imported.
    """
    several = isinstance(given, tuple | list)
    return tuple(map(_load, given if several else (given,)))


def _load(given):
    if callable(given):
        return given
    if not isinstance(given, str) or given.count(":") != 1:
        raise ValueError(
            f"--callbacks {given}: name a function as module:function, for instance "
            "watch:patience for the function `patience` of watch.py"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = pkgutil.resolve_name(given)
    except Exception as error:
        raise ValueError(
            f"--callbacks {given}: {type(error).__name__}: {error}"
        ) from error
    if not callable(function):
        raise ValueError(
            f"--callbacks {given}: is of type {type(function).__name__}; name a "
            "function (step, metrics)"
        )
    return function
