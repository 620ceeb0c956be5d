"""The terminal, as everything here prints to it."""

import contextlib
import logging
import os
import sys

import rich.console

_live = []  # consoles that redraw lines of their own


def console(**options):
    """A `rich` console without pictograms: of "worst:a:" it would make one of ":a:".

    options: of `rich.console.Console` besides, such as stderr or quiet.
    """
    return rich.console.Console(emoji=False, **options)


def redraws(console, active):
    """Notes that a console has begun, or ended, to redraw lines at its end."""
    if active and not console.quiet:
        _live.append(console)
    elif console in _live:
        _live.remove(console)


def say(text):
    """Prints a line at once, from any thread: above the live lines, or to stderr."""
    if _live:
        _live[-1].print(text, highlight=False, markup=False, soft_wrap=True)
        return
    with contextlib.suppress(OSError):  # nobody listens
        os.write(2, f"{text}\n".encode())


def restore():
    """Shows the cursor, which live lines hide, before the process ends at once."""
    if _live and sys.stdout.isatty():
        os.write(1, b"\x1b[?25h\n")


def without_word_of_torch():
    """Keeps transformers from saying, as it is imported, that there is no torch, which
    is not needed here."""
    logging.getLogger("transformers").addFilter(_says_more_than_no_torch)


def _says_more_than_no_torch(record):
    return not record.getMessage().startswith("PyTorch was not found")
