"""Keeps a finished run, and writes the numbers of the READMEs."""

import dataclasses
import json
import pathlib

from experiments import results
from experiments.results import quotes
from rlhf_jax import ranges
from rlhf_jax.cli import command
from rlhf_jax.reporting import recorded
from rlhf_jax.runtime import files


@dataclasses.dataclass(frozen=True)
class Config:
    """Without flags, the numbers of the READMEs are written anew."""

    keep: tuple[ranges.Text, ...] = ()
    """Folders of finished runs, kept as one result."""
    name: ranges.Text | None = None
    """Of the file under experiments/results."""
    note: ranges.Text = ""
    """What a reader must know of how it was run."""


def main():
    config = command.parse(Config(), description=results.__doc__)
    command.main(lambda: run(config))


def run(config):
    """Keeps the runs, then writes the READMEs."""
    if bool(config.keep) != bool(config.name):
        raise ValueError("--keep and --name belong together: give both, or neither")
    if config.keep:
        print(_keep(config))
    made = quotes.texts()
    for path in results.READMES:
        before = path.read_text()
        after = results.renewed(before, made)
        if after != before:
            files.write(path, after)
            print(path)


def _keep(config):
    """The path of the file that holds the runs from now on."""
    folders = [pathlib.Path(folder) for folder in config.keep]
    for folder in folders:
        if (
            not (folder / "results.json").exists()
            and not (folder / "tests.json").exists()
        ):
            raise ValueError(f"--keep {folder}: it holds no results.json of a run")
    path = results.FOLDER / f"{config.name}.json"
    if (folders[0] / "tests.json").exists():  # reward models, tested
        results.keep_tests(path, folders, note=config.note)
    elif (folders[0] / "metrics.jsonl").exists():
        recorded.save(path, folders, note=config.note)
    elif "points" in json.loads((folders[0] / "results.json").read_text()):
        results.keep_comparisons(path, folders, note=config.note)  # of two models
    else:  # nothing was trained and measured step by step: worlds, a sweep
        results.keep_report(path, folders, note=config.note)
    return path


if __name__ == "__main__":
    main()
