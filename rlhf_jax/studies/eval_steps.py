"""When runs are reset and evaluated, so that every method is measured as often."""

import math

from rlhf_jax import elastic_reset


def at_intervals(schedule, every=None):
    """The calendar of a method that is reset: the 0-based iterations that end with one.

    every: iterations between resets, in place of the schedule's.
    """
    every = schedule.reset_every if every is None else every
    first = schedule.reset_first
    return elastic_reset.calendar(schedule.steps, every, at_zero=first)


def at_multiples(schedule):
    """The calendar of a method that is reset after every `reset_every`-th update."""
    every = schedule.reset_every
    return tuple(range(every - 1, schedule.steps, every)) if every else ()


def alike(steps, every, *, reset_every=0, reset_first=False):
    """`Schedule.evaluations` of a study that measures every method alike: at the same
    steps, and as often.

    Both sides of a reset are measured; a method with fewer resets than another is
    measured in the middle of the widest gaps besides.

    Args: as of `regular`; reset_every, reset_first: the study's resets, around which
    all are measured whether or not a method of it is reset.
    """
    shared = elastic_reset.calendar(steps, reset_every, at_zero=reset_first)

    def evaluations(resets, every_method):
        calendars = [set(calendar) for calendar in every_method]
        asked = set(regular(steps, set(shared).union(*calendars), every))
        for _ in range(max(map(len, calendars), default=0) - len(set(resets))):
            asked.add(_middle_of_widest(sorted(asked)))
        return frozenset(asked)

    return evaluations


def by_count(steps, count):
    """`Schedule.evaluations` of a study that measures every method `count` times."""
    return lambda resets, every_method: spaced(steps, resets, count)


def at_every(steps, every):
    """`Schedule.evaluations` of a single run: every so many steps, 0 for never.

    The start, both sides of its resets, and the end are measured besides.
    """
    between = range(0, steps, every) if every else (0,)

    def evaluations(resets, every_method):
        del every_method
        return frozenset({*between, *(reset + 1 for reset in resets), steps})

    return evaluations


def at_epochs(steps, epoch):
    """`Schedule.evaluations` of a single run: after every pass over its rows.

    The start, both sides of its resets, and the end are measured besides. Args: epoch:
    as of `epochs`.
    """
    between = {0, *epochs(steps, epoch), steps}

    def evaluations(resets, every_method):
        del every_method
        return frozenset({*between, *(reset + 1 for reset in resets)})

    return evaluations


def epochs(steps, epoch):
    """The steps, up to the last, in which a pass over the rows is completed: ⌈k·epoch⌉.

    Args: epoch: steps that a pass takes, a `fractions.Fraction` or whole number.
    """
    passes = range(1, steps // epoch + 1)
    return frozenset(math.ceil(k * epoch) for k in passes) - {0}


def regular(steps, resets, every):
    """Steps to evaluate every method at alike: `every` so many, and where it matters.

    That is both sides of each reset, and a half, a quarter and an eighth of the way to
    the first regular one: most drift is early, and a method without checkpoints there
    would have no front at low drift.

    Args: resets: 0-based iterations that end with a reset; every: 0 for never. Returns
    a frozenset of steps (iterations done), the start and the end among them.
    """
    between = range(0, steps + 1, every) if every else ()
    early = (every // 8, every // 4, every // 2)
    asked = {0, *between, *early, *(reset + 1 for reset in resets), steps}
    return frozenset(step for step in asked if step <= steps)


def spaced(steps, resets, count):
    """Steps to evaluate at: `count` measurements after the start, whatever the resets.

    A front of more checkpoints is a better front, for nothing. Both sides of each reset
    are measured and count as two; the end counts, and what is left is put, one after
    the other, into the middle of the widest gap.

    Args: resets: 0-based iterations that end with a reset. Returns a frozenset of
    steps (iterations done), 0 among them, which does not count. Raises ValueError
    where `count` is too small for the resets, or more than there are steps.
    """
    if count > steps:
        raise ValueError(f"{count} evaluations of {steps} steps: at most one a step")
    asked = {reset + 1 for reset in resets if reset < steps}
    used = 2 * len(asked) + (steps not in asked)
    if used > count:
        raise ValueError(
            f"{len(asked)} resets, both sides of each, and the end are {used} "
            f"evaluations, more than {count}: ask for more, or for fewer resets"
        )
    asked |= {0, steps}
    for _ in range(count - used):
        asked.add(_middle_of_widest(sorted(asked)))
    return frozenset(asked)


def check_resets(schedule, rows, count):
    """Raises ValueError where the resets of a method never come, or are too many.

    Args: rows: {method: its row}; count: of evaluations, as in `check`.
    """
    calendars = {name: row.resets(schedule) for name, row in rows.items()}
    for name, row in rows.items():
        never = row.is_reset and not calendars[name]
        if never or ("every" in row.tunes and not schedule.reset_every):
            raise ValueError(
                f"--rl.reset-every {schedule.reset_every} and --steps "
                f"{schedule.steps}: no reset of {name} would ever come"
            )
    often = {k: resets for k, resets in calendars.items() if not rows[k].at_end}
    check(schedule.steps, often, count)


def check(steps, calendars, count):
    """Raises ValueError, naming the method, where `spaced` of one would.

    Args: calendars: {method: the 0-based iterations that end with a reset}; count: of
    evaluations, or 0: methods are not measured by count.
    """
    if not count:
        return
    for name, resets in calendars.items():
        try:
            spaced(steps, resets, count)
        except ValueError as error:
            raise ValueError(f"--num-evals {count}: {name}: {error}") from None


def _middle_of_widest(steps):
    """The middle of the widest gap, of the first of them; gaps of 1 have none."""
    gaps = zip(steps, steps[1:], strict=False)
    low, high = max(gaps, key=lambda gap: (gap[1] - gap[0], -gap[0]))
    return (low + high) // 2
