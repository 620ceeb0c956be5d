"""Where a row stands in its file, whatever was held out or sampled since.

Two columns remember it: the files that a row is from, and its number among their rows.
A line of a file is looked up only when a message needs it.
"""

import csv
import gzip
import json
import pathlib

import numpy as np

SOURCE, ROW = COLUMNS = ("rlhf_jax.source", "rlhf_jax.row")


def mark(rows, parts):
    """The data set with the columns `COLUMNS`.

    Args: parts: (source, numbers) of the parts that it was joined from, in order.
    source: the text path of a file, several one a line, or a name of something else;
    numbers: range of the part's rows among all rows of its source.
    """
    import datasets

    names = list(dict.fromkeys(source for source, _ in parts))
    counts = [len(numbers) for _, numbers in parts]
    which = np.repeat([names.index(source) for source, _ in parts], counts)
    labels = datasets.ClassLabel(names=names)
    rows = rows.add_column(SOURCE, which, feature=labels)
    return rows.add_column(
        ROW, np.concatenate([np.arange(n.start, n.stop) for _, n in parts])
    )


def unmark(rows):
    """The data set without those columns."""
    return rows.select_columns(visible(rows))


def visible(rows):
    """The names of the other columns."""
    return [name for name in rows.column_names if name not in COLUMNS]


def words(rows, index):
    """Where row `index` of a data set stands: "train.jsonl, line 18" of a file, the
    number of the row where lines say nothing."""
    if ROW not in rows.column_names:
        return _numbered("", index)
    row = rows.select_columns(list(COLUMNS))[index]
    return at(rows.features[SOURCE].int2str(row[SOURCE]), row[ROW])


def at(source, number):
    """The same of a row by its source and number, both as for `mark`."""
    files = [pathlib.Path(line) for line in source.split("\n")]
    if not all(file.is_file() for file in files):
        return _numbered(source, number)
    for file in files:
        if len(files) == 1 and file.suffix == ".parquet":
            break
        lines = _lines(file)
        if number < len(lines):
            line = lines[number]
            return _numbered(file, number) if line is None else f"{file}, line {line}"
        number -= len(lines)
    return _numbered(files[0], number)


def open_binary(file):
    """A file open for reading bytes, unpacked if its name says that it is packed."""
    return gzip.open(file) if file.suffix == ".gz" else open(file, "rb")


def _numbered(source, number):
    return f"{source}{', ' if source else ''}row {number} (counted from 0)"


def _lines(file):
    """The line that each row of a file begins on, None for rows without lines."""
    kinds = file.suffixes[-2:]
    if ".parquet" in kinds:
        from pyarrow import parquet

        return [None] * parquet.read_metadata(file).num_rows
    with open_binary(file) as opened:
        if ".csv" in kinds:
            return _csv_lines(line.decode("utf-8", "replace") for line in opened)
        lines = [number for number, line in enumerate(opened, 1) if line.strip()]
        opened.seek(0)
        if opened.read(64).lstrip().startswith(b"["):
            opened.seek(0)
            return [None] * len(json.load(opened))
    return lines


def _csv_lines(lines):
    reader, starts, start = csv.reader(lines), [], 1
    for row in reader:
        if row:
            starts.append(start)
        start = reader.line_num + 1
    return starts[1:]
