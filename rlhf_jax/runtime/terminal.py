"""The terminal, as everything here prints to it."""

import rich.console


def console(**options):
    """A `rich` console without pictograms: of "worst:a:" it would make one of ":a:".

    options: of `rich.console.Console` besides, such as stderr or quiet.
    """
    return rich.console.Console(emoji=False, **options)
