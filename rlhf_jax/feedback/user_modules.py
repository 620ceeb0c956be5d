"""A user's module: what it holds by name, and where its errors are, in a line."""

import contextlib
import importlib
import importlib.util
import inspect
import os
import pathlib
import sys
import traceback


def attribute(name):
    """What `module:attribute` names, also in the current folder.

    Raises ValueError, one line, if there is no such thing or the module cannot be
    imported; the line names the file and the line of the error in it.
    """
    module, _, wanted = name.partition(":")
    if not module or not wanted:
        raise ValueError(
            f"--reward {name}: name a function as module:function, for instance "
            "rewards:length for the function `length` of rewards.py"
        )
    if module.endswith(".py") or "/" in module or os.sep in module:
        raise ValueError(f"--reward {name}: {_instead(module, wanted)}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    imported = _imported(name, module)
    if not hasattr(imported, wanted):
        raise ValueError(
            f"--reward {name}: {getattr(imported, '__file__', module)} has no function "
            f"{wanted!r}; define it there as def {wanted}(prompts, completions, "
            "**columns)"
        )
    return getattr(imported, wanted)


def _instead(module, wanted):
    """What to write in place of a path."""
    path = pathlib.PurePath(module.removesuffix(".py"))
    if path.is_absolute() or ".." in path.parts:
        return f"a module is no path; run from {path.parent} with {path.name}:{wanted}"
    return f"a module is no path; did you mean {'.'.join(path.parts)}:{wanted}"


def _imported(name, module):
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        # A missing import of the module itself is its own error.
        if error.name and f"{module}.".startswith(f"{error.name}."):
            raise ValueError(
                f"--reward {name}: there is no module {error.name!r} in this folder or "
                "among the installed packages"
            ) from error
        problem = error
    except (Exception, SystemExit) as error:
        problem = error
    raise ValueError(
        f"--reward {name}: {module}, while it was imported, "
        f"{describe(problem, start=_file_of(module))}"
    ) from problem


def _file_of(module):
    """(file, 1) of a module that cannot be imported."""
    with contextlib.suppress(Exception):
        return importlib.util.find_spec(module).origin, 1
    return module, 1


def describe(error, *, start):
    """ "raised KeyError: 'x' (in rewards.py, line 3)", of what a user's code raised.

    Args: start: (file, line) where that code begins; see `start_of`.
    """
    if isinstance(error, SystemExit):
        what = f"called sys.exit({'' if error.code is None else repr(error.code)})"
    else:
        text = error.msg if isinstance(error, SyntaxError) else error
        what = f"raised {type(error).__name__}: {text}"
    file, line = _location(error, start)
    return f"{what} (in {file}, line {line})"


def _location(error, start):
    """(file, line): the deepest one in the user's file, or else in any."""
    if isinstance(error, SyntaxError) and error.filename:
        return error.filename, error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in frames if not _is_ours(frame.filename)]
    inside = [frame for frame in frames if frame.filename == start[0]]
    if not frames:  # the call itself failed
        return start
    last = (inside or frames)[-1]
    return last.filename, last.lineno


def start_of(function):
    """(file, first line) of a function or of an object that can be called."""
    code = getattr(
        inspect.unwrap(getattr(function, "func", function)), "__code__", None
    )
    if code is None:
        code = getattr(vars(type(function)).get("__call__"), "__code__", None)
    return (code.co_filename, code.co_firstlineno) if code else ("a builtin", 0)


def _is_ours(filename):
    """Whether a frame is of this package or of the import machinery."""
    package = pathlib.Path(__file__).parents[1]
    frozen = filename.startswith("<frozen ") or filename == importlib.__file__
    return frozen or pathlib.Path(filename).is_relative_to(package)
