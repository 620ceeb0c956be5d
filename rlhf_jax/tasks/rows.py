"""The rows of a recipe: from a file, the hub or Python, and some of them held out."""

import itertools
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data import diagnosis, formats, kinds, origins, sources

_TABLES = (".jsonl", ".json", ".csv", ".parquet", ".gz")
_FLAG = "--data.columns"
_GIVEN = "the rows given"


class Parts(NamedTuple):
    """Rows of a recipe; their columns include those of `origins`."""

    train: Any  # datasets.Dataset
    held: Any  # datasets.Dataset
    about: tuple[str, ...]  # lines about how columns are read


def read(dataset, data, *, needed=()):
    """(training rows, held-out rows) as `datasets`, with columns renamed.

    Args: dataset, data: as for `parts`; needed: the kinds of `kinds.KINDS` that both
    must be of, by default any.
    """
    found = parts(dataset, data, among=needed or tuple(kinds.KINDS))
    return found.train, found.held


def parts(dataset, data, *, among):
    """`Parts` of a data set: training rows, and held-out ones that are not trained on.

    Args: dataset: as for `load`, or `Parts`, which are returned; data: the splits, rows
    and columns to read, as in `cli.options.Data`; among: the kinds of `kinds.KINDS`
    that can be used.
    Raises ValueError, naming file and row, for rows of another kind.
    """
    if isinstance(dataset, Parts):
        return dataset
    if data.streaming:
        raise ValueError(
            "--data.streaming: only supervised fine-tuning reads rows while it trains"
        )
    train, said = _chosen(dataset, data.split, data, among)
    held = separate(dataset, data, among=among)
    if held is None:
        return Parts(*hold_out(train, data.eval_rows), said)
    return Parts(train, held, said)


def separate(dataset, data, *, among):
    """The held-out rows that have a data set or split of their own, None without one.

    Args: as for `parts`.
    """
    if data.eval_split is None and data.eval_dataset is None:
        return None
    source = dataset if data.eval_dataset is None else data.eval_dataset
    held, _ = _chosen(source, data.eval_split or "train", data, among)
    return sample(held, data.eval_rows)


def chunks(dataset, data, *, size, among, skipped=0):
    """Yields the rows of a stream in order, at most `size` at a time, as `parts` has
    them; the first `skipped` ones are left out."""
    where = f"{dataset}, split {data.split!r}" if _is_name(dataset) else _GIVEN
    if _is_name(dataset):
        found, source = sources.stream(dataset, split=data.split)
    else:
        found, source = iter(dataset), _GIVEN
    found = itertools.islice(found, skipped, None)
    start = skipped
    while part := list(itertools.islice(found, size)):
        numbers = range(start, start + len(part))
        table = _dataset(part, start, source)
        yield _of_kind(origins.mark(table, [(source, numbers)]), where, data, among)[0]
        start += len(part)


def is_stream(rows):
    """Whether rows were given as a `datasets.IterableDataset`."""
    return hasattr(rows, "column_names") and not hasattr(rows, "__len__")


def _chosen(source, split, data, among):
    """(rows of one of the kinds, a line if their columns were recognised)."""
    rows = load(source, split=split, columns=(), marked=True)
    where = f"{source}, split {split!r}" if _is_name(source) else _GIVEN
    return _of_kind(rows, where, data, among)


def _of_kind(rows, where, data, among):
    rows = kinds.rename(rows, renames(data.columns), where, flag=_FLAG)
    rows, said = formats.recognised(rows)
    kind = kinds.of(rows, where, among=among, flag=_FLAG)
    kinds.refuse_unreadable(rows, kinds.KINDS[kind])
    return rows, (said,) if said else ()


def load(source, *, split="train", columns=None, marked=False):
    """The rows of one split as a `datasets.Dataset`, checked.

    Args: source: a hub name, a folder or a file; or the rows themselves, a
    `datasets.Dataset` or a list of dictionaries, which have no splits; columns, marked:
    as in `sources.load`. Raises ValueError for anything else, and where columns are
    missing.
    """
    if _is_name(source):
        return sources.load(source, split=split, columns=columns, marked=marked)
    if split != "train":
        raise ValueError(
            f"split {split!r}: rows given in Python have no splits; give the rows of "
            "that split themselves"
        )
    rows = sources.checked(_dataset(source), columns, _GIVEN)
    return origins.mark(rows, [(_GIVEN, range(len(rows)))]) if marked else rows


def _is_name(source):
    return isinstance(source, str | os.PathLike)


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
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{flag} {diagnosis.why([path], error)}") from None
    lines = [line for line in lines if line.strip()]
    if not lines:
        raise ValueError(f"{flag} {name}: only blank lines; give at least one prompt")
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
            f"{origins.words(rows, 0)}: this is the only row, and one would be held "
            "out; give more rows, or --data.eval-dataset or --data.eval-split"
        )
    count = min(count, max(len(rows) // 10, 1))
    order = np.random.default_rng(0).permutation(len(rows))
    return rows.select(np.sort(order[count:])), rows.select(np.sort(order[:count]))


def _dataset(rows, first=0, source=_GIVEN):
    """A `datasets.Dataset` or a list of dictionaries as a `datasets.Dataset`.

    first: the number of the first of them in their source, of `origins`.
    """
    import datasets  # takes two seconds, so only for rows given in Python
    import pyarrow

    if isinstance(rows, datasets.Dataset):
        return rows
    if is_stream(rows):
        raise ValueError(
            "the rows given are a stream, which only supervised fine-tuning reads; "
            "give rows.take(n) as a list"
        )
    if not isinstance(rows, list) or not all(isinstance(r, Mapping) for r in rows):
        raise ValueError(
            f"rows of type {type(rows).__name__}: give a path, a hub name, a "
            "datasets.Dataset, or a list of dictionaries"
        )
    try:
        return datasets.Dataset.from_list(rows)
    except (pyarrow.ArrowException, TypeError, OverflowError, ValueError) as error:
        raise ValueError(_odd(rows, first, source, error)) from None


def _odd(rows, first, source, error):
    """What is wrong with rows that fit into no table: the first of another type."""
    kinds_of = {}
    for i, row in enumerate(rows):
        for name, value in row.items():
            if value is None:
                continue
            before = kinds_of.setdefault(name, type(value))
            if type(value) is not before and {type(value), before} != {int, float}:
                where = origins.at(source, first + i)
                return (
                    f"{where}: {name} is {diagnosis.named(value)}, in rows before it a "
                    f"{before.__name__}; give one type"
                )
    reason = " ".join(str(error).split())[:300]
    return f"{_GIVEN} make no table: {reason}"


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
