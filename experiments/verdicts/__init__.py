"""The four papers on one page: every claim of their checklists, and what is known.

    python -m experiments.verdicts                    # the page, the picture, a summary
    python -m experiments.verdicts --paper rlaif      # one paper's claims, to read here

Nothing is trained: difference, interval and verdict are read from the kept results in
experiments/results. The page, verdicts.md, and the picture, verdicts.png, stand beside
them.
"""

import dataclasses
import pathlib
from typing import Literal

from experiments import results
from experiments.verdicts import (
    alignment_tax,
    console,
    elastic_reset,
    evidence,
    objective_mismatch,
    page,
    picture,
    rlaif,
    shelves,
)
from rlhf_jax import ranges
from rlhf_jax.cli import command
from rlhf_jax.runtime import files, terminal

PAPERS = {
    "elastic_reset": elastic_reset.PAPER,
    "alignment_tax": alignment_tax.PAPER,
    "rlaif": rlaif.PAPER,
    "objective_mismatch": objective_mismatch.PAPER,
}
PAGE, PICTURE = "verdicts.md", "verdicts.png"


@dataclasses.dataclass(frozen=True)
class Config:
    """Without flags, the page and the picture of all four are written anew."""

    paper: Literal[tuple(PAPERS)] | None = None
    """Its claims are printed one by one. Files are then written to --output alone."""
    output: ranges.Text | None = None
    """A folder for the page and the picture; by default experiments/results."""


def collect(shelf, names=tuple(PAPERS)):
    """[(paper, [(item, its rows)])]: what the kept results say of every claim.

    Args: shelf: a `shelves.Shelf`; names: of papers, as in PAPERS.
    """
    return [
        (
            PAPERS[name],
            [(item, evidence.rows(item, shelf)) for item in PAPERS[name].items],
        )
        for name in names
    ]


def write(folder, found, shelf):
    """Writes verdicts.md and verdicts.png; returns their paths.

    Args: found: of `collect`; shelf: that it was read from.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = picture.draw(found, folder / PICTURE)
    return [files.write(folder / PAGE, page.text(found, shelf)), drawn]


def run(config):
    """Prints the summary, and writes what was asked for; returns the paths."""
    names = tuple(PAPERS) if config.paper is None else (config.paper,)
    shelf, screen = shelves.create(), terminal.console()
    found = collect(shelf, names)
    for paper, items in found if config.paper else ():
        console.claims(screen, paper, items)
    console.counts(screen, found)
    if config.paper and config.output is None:
        return []
    paths = write(config.output or results.FOLDER, found, shelf)
    for path in paths:
        screen.print(str(path), soft_wrap=True)
    return paths


def main():
    """The command."""
    config = command.parse(Config(), description=__doc__)
    command.main(lambda: run(config))
