"""The rows of a recipe: from a file, the hub or Python, and some of them held out."""

import os
import pathlib
from collections.abc import Mapping

import numpy as np

from rlhf_jax.data import sources

_TABLES = (".jsonl", ".json", ".csv", ".parquet", ".gz")


def read(dataset, data, *, needed=()):
    """(training rows, held-out rows) as `datasets`, with columns renamed.

    Args: dataset: as for `load`; data: the splits, rows and columns to read, as
    in `cli.options.Data`; needed: columns that both must have, by default those
    of a known kind.
    """
    columns = {**{name: name for name in needed}, **renames(data.columns)} or None
    rows = load(dataset, split=data.split, columns=columns)
    if data.eval_split is None and data.eval_dataset is None:
        return hold_out(rows, data.eval_rows)
    source = dataset if data.eval_dataset is None else data.eval_dataset
    held = load(source, split=data.eval_split or "train", columns=columns)
    return rows, sample(held, data.eval_rows)


def load(source, *, split="train", columns=None):
    """The rows of one split as a `datasets.Dataset`, checked.

    Args: source: a hub name, a folder or a file; or the rows themselves, a
    `datasets.Dataset` or a list of dictionaries, which have no splits; columns: as in
    `sources.load`. Raises ValueError for anything else, and where columns are missing.
    """
    if isinstance(source, str | os.PathLike):
        return sources.load(source, split=split, columns=columns)
    if split != "train":
        raise ValueError(
            f"split {split!r}: rows given in Python have no splits; give the rows of "
            "that split themselves"
        )
    return sources.checked(_dataset(source), columns, "the rows given")


def of_prompts(flag, name):
    """The rows of a file of prompts: of a table with a column prompt, else one for each
    line that is not blank.

    Raises ValueError, naming the flag, where there is no such file.
    """
    import datasets

    path = pathlib.Path(name).expanduser()
    if not path.is_file():
        raise ValueError(f"{flag} {name}: there is no such file")
    if path.suffix in _TABLES:
        return sources.load(path, columns=["prompt"])
    lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    return datasets.Dataset.from_dict({"prompt": lines})


def sample(rows, count):
    """At most `count` rows: a random sample, the same every time."""
    order = np.random.default_rng(0).permutation(len(rows))[:count]
    return rows.select(np.sort(order))


def hold_out(rows, count):
    """(training rows, held-out rows): at most `count` and a tenth are held out.

    They are a random sample, the same every time.
    """
    if len(rows) < 2:
        raise ValueError(
            f"{len(rows)} row(s), of which one would be held out: give more rows, or "
            "--data.eval-dataset or --data.eval-split"
        )
    count = min(count, max(len(rows) // 10, 1))
    order = np.random.default_rng(0).permutation(len(rows))
    return rows.select(np.sort(order[count:])), rows.select(np.sort(order[:count]))


def _dataset(rows):
    """A `datasets.Dataset` or a list of dictionaries as a `datasets.Dataset`."""
    import datasets  # takes two seconds, so only for rows given in Python

    if isinstance(rows, datasets.Dataset):
        return rows
    if not isinstance(rows, list) or not all(isinstance(r, Mapping) for r in rows):
        raise ValueError(
            f"rows of type {type(rows).__name__}: give a path, a hub name, a "
            "datasets.Dataset, or a list of dictionaries"
        )
    return datasets.Dataset.from_list(rows)


def renames(columns):
    """{needed: present} from words such as "prompt=question"."""
    found = {}
    for text in columns:
        needed, equals, present = text.partition("=")
        if not (needed and equals and present):
            raise ValueError(
                f"--data.columns {text}: write needed=yours, as prompt=question"
            )
        found[needed] = present
    return found
