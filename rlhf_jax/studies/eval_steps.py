"""When to look at a policy, so that every method is looked at as often."""


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


def looks(steps, resets, count):
    """Steps to evaluate at: `count` measurements after the start, whatever the resets.

    A front of more checkpoints is a better front, for nothing. Both sides of each reset
    are measured and count as two; the end counts, and what is left is put, one after
    the other, into the middle of the widest gap.

    Args: resets: 0-based iterations that end with a reset. Returns a frozenset of
    steps (iterations done), 0 among them, which does not count. Raises ValueError
    where `count` is too small for the resets, or more than there are steps.
    """
    if count > steps:
        raise ValueError(f"{count} looks at {steps} steps: at most one a step")
    asked = {reset + 1 for reset in resets if reset < steps}
    used = 2 * len(asked) + (steps not in asked)
    if used > count:
        raise ValueError(
            f"{len(asked)} resets, both sides of each, and the end are {used} looks, "
            f"more than {count}: ask for more looks, or for fewer resets"
        )
    asked |= {0, steps}
    for _ in range(count - used):
        asked.add(_middle_of_widest(sorted(asked)))
    return frozenset(asked)


def check(steps, calendars, count):
    """Raises ValueError, naming the method, where `looks` of one would.

    Args: calendars: {method: the 0-based iterations that end with a reset}; count: of
    `looks`, or 0: methods are not looked at by count.
    """
    if not count:
        return
    for name, resets in calendars.items():
        try:
            looks(steps, resets, count)
        except ValueError as error:
            raise ValueError(f"--looks {count}: {name}: {error}") from None


def _middle_of_widest(steps):
    """The middle of the widest gap, of the first of them; gaps of 1 have none."""
    gaps = zip(steps, steps[1:], strict=False)
    low, high = max(gaps, key=lambda gap: (gap[1] - gap[0], -gap[0]))
    return (low + high) // 2
