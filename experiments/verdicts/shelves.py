"""Kept results, each read once, and what they say of how they were made."""

import functools
from collections.abc import Callable
from typing import NamedTuple

from experiments import results
from experiments.verdicts import studies
from rlhf_jax.reporting import markdown


class Shelf(NamedTuple):
    """The kept results, each read once."""

    kept: Callable  # name -> what `results.load` gives, a report, or None without it
    stated: Callable  # name -> the statements that its records allow, as rows


def create():
    """An empty `Shelf`."""
    kept = functools.cache(_kept)

    @functools.cache
    def stated(name):
        return studies.STUDIES[name].state(kept(name).records)

    return Shelf(kept, stated)


def _kept(name):
    if not (results.FOLDER / f"{name}.json").exists():
        return None
    found = results.report(name)
    return results.load(name) if {"runs", "ends"} & set(found) else found


def about(kept):
    """What made a kept result: commands, commit, date, a note."""
    return kept["about"] if isinstance(kept, dict) else kept.about


def units(kept):
    """How many worlds and seeds, and whether settings were searched for."""
    if isinstance(kept, dict):
        return markdown.count(len(kept["worlds"]), "world")
    swept = all("--tuned" in command for command in kept.about["commands"])
    return f"{markdown.units(results.sizes(kept))}, {'tuned' if swept else 'no sweep'}"
