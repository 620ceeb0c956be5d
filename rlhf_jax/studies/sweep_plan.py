"""What a sweep searches, found out from its flags before anything is made."""

from typing import NamedTuple

from rlhf_jax.studies import coordinate_search, eval_steps, search
from rlhf_jax.studies.values import Values


class Search(NamedTuple):
    """How a method is searched."""

    first: Values  # as the flags have it
    lines: tuple[coordinate_search.Line, ...]


def plan(config, table, names, schedule):
    """{method: its `Search`}, in the table's order; what only is measured has none.

    Args: config: with the flags of the study, and `space`; table: {name:
    interfaces.Method}, with the settings that flags give a method alone; names: of the
    methods, in the table's order; schedule: `interfaces.Schedule` of a trial. Raises
    ValueError, naming the flag, for what cannot be swept.
    """
    searches = {}
    for name in names:
        _check_method(name, table, searches)
        first = search.current(name, table, config)
        trained = table[table[name].derived_from or name]
        lines = search.lines(
            name,
            first,
            config.space,
            shortest=_shortest(trained, schedule, config.num_evals),
            longest=schedule.steps - 1,
        )
        calendar = {name: trained.resets(schedule)}
        eval_steps.check(config.steps, calendar, config.num_evals)
        searches[name] = Search(first, lines)
    return searches


def _check_method(name, table, before):
    """Raises ValueError for a method that has nothing to tune."""
    method = table[name]
    if method.twin in before and method.train == table[method.twin].train:
        raise ValueError(
            f"--methods {name}: it is {method.twin}, unless --override tells them "
            "apart; leave it out"
        )
    if method.follows is not None:
        raise ValueError(
            f"--methods {name}: it is run as {method.follows} is tuned; leave it out"
        )
    if method.train is None and method.source is None:
        raise ValueError(f"--methods {name}: has nothing to tune; leave it out")


def _shortest(method, schedule, count):
    """The least interval whose resets leave a method as many evaluations as others."""
    if not (method.is_reset and "every" in method.tunes):
        return 1
    for every in range(1, schedule.steps):
        try:
            eval_steps.spaced(
                schedule.steps, method.resets(schedule, every=every), count
            )
        except ValueError:
            continue
        return every
    return schedule.steps


def check(config, axes):
    """Raises ValueError for flags that no sweep can be made with.

    Args: config: with the flags `axis` and `tuned`; axes: those that can choose.
    """
    if config.tuned is not None:
        raise ValueError("--tuned: a sweep finds it; leave it out")
    keys = [axis.key for axis in axes]
    if config.axis not in keys:
        raise ValueError(f"--axis {config.axis}: choose from {', '.join(keys)}")


def check_folder(folder, *, resume):
    """Raises ValueError if another sweep lies in the folder."""
    if (folder / "trials").exists() and not resume:
        raise ValueError(
            f"{folder} holds a sweep already: pass --resume to continue it, or another "
            "--output"
        )
