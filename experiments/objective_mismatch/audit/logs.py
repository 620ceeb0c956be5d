"""Logs of anybody's trainer as tables: JSON lines, CSV, TRL's state, event files.

The kind is told by the content, not by the name; any of them may be gzipped. A last
line or record that was only half written is left out, and the table says so.
"""

import csv
import io
import json
import pathlib
import zlib

from experiments.objective_mismatch.audit import events
from experiments.objective_mismatch.audit.series import Table

_STATE, _GZIP = "trainer_state.json", b"\x1f\x8b"
_OURS, _COLUMNS = "metrics.jsonl", {"method", "world", "seed", "step"}


def read(path):
    """The tables of a log: one, or of a folder of event files one for each run.

    Raises ValueError, naming file and line, for what is none of these.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise ValueError(f"--log {path}: there is no such file")
    if path.is_dir():
        return _of_folder(path)
    data, notes = _bytes(path)
    if not data.strip():
        raise ValueError(f"--log {path} is empty: there is nothing to audit")
    if events.are_events(data):
        return [events.table([(path, data)], str(path), notes)]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"--log {path} is no text at byte {error.start}, nor an event file: give "
            "JSON lines, CSV, trainer_state.json or TensorBoard's files"
        ) from None
    make = _of_json if text.lstrip()[0] in "{[" else _of_csv
    table = make(text, str(path))
    if path.name == _OURS and table.rows and _COLUMNS <= table.rows[0].keys():
        raise ValueError(
            f"--log {path} is of this package, and may hold several runs: use --run "
            f"{path.parent}"
        )
    return [table._replace(notes=(*notes, *table.notes))]


def _of_folder(folder):
    """TRL's state in a folder or its last checkpoint, else its event files."""
    states = [folder / _STATE, *sorted(folder.glob(f"checkpoint-*/{_STATE}"), key=_age)]
    states = [path for path in states if path.exists()]
    if states:
        return read(states[0])
    tables = events.of_folder(folder, _bytes)
    if tables:
        return tables
    if (folder / _OURS).exists():
        raise ValueError(f"--log {folder} is a run of this package: use --run {folder}")
    raise ValueError(f"--log {folder}: it holds neither {_STATE} nor event files")


def _age(path):
    """Sorts checkpoint-200 before checkpoint-90."""
    number = path.parent.name.partition("-")[2]
    return -int(number) if number.isdigit() else 0


def _bytes(path):
    """(content, notes) of a file, unpacked where it is gzipped."""
    data, parts, notes = path.read_bytes(), [], ()
    if data[:2] != _GZIP:
        return data, notes
    while data[:2] == _GZIP:  # a gzip file may be several, one after the other
        one = zlib.decompressobj(16 + zlib.MAX_WBITS)
        try:
            parts.append(one.decompress(data))
        except zlib.error as error:
            raise ValueError(f"--log {path} is damaged: {error}") from None
        if not one.eof:
            notes = (f"{path.name} was cut off within its compression",)
        data = one.unused_data
    return b"".join(parts), notes


def _of_json(text, source):
    """A table of TRL's state, of one list of objects, or of an object a line."""
    try:
        whole = json.loads(text)
    except ValueError:
        return _of_lines(text, source)
    if isinstance(whole, dict) and "log_history" not in whole:
        return _of_lines(text, source)
    rows = whole["log_history"] if isinstance(whole, dict) else whole
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"--log {source}: log_history must be a list of objects")
    places = [f"entry {i}" for i in range(1, len(rows) + 1)]
    return Table([_flat(row) for row in rows], places, source)


def _of_lines(text, source):
    rows, places, notes = [], [], []
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines) and not text.endswith("\n"):
                notes.append(f"line {number}, the last, is half written: left out")
                break
            raise ValueError(
                f"--log {source}, line {number}, is not JSON: {error}"
            ) from None
        if not isinstance(row, dict):
            raise ValueError(f"--log {source}, line {number}, is no object: {line:.40}")
        rows.append(_flat(row))
        places.append(f"line {number}")
    return Table(rows, places, source, tuple(notes))


def _flat(row, prefix=""):
    """Objects within objects as names with "/": {"reward": {"mean": 1}} has
    "reward/mean"."""
    flat = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}/")
        else:
            flat[prefix + name] = value
    return flat


def _of_csv(text, source):
    """A table of a file with a header; commas, semicolons or tabs between cells."""
    header = text.lstrip().partition("\n")[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text), delimiter=delimiter)
    cells = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    names = [name.strip() for name in cells[0][1]]
    if len(set(names)) < len(names):
        raise ValueError(f"--log {source}: a column stands twice in the header")
    rows, places, notes = [], [], []
    for line, row in cells[1:]:
        if len(row) != len(names):
            if line == cells[-1][0] and not text.endswith("\n"):
                notes.append(f"line {line}, the last, is half written: left out")
                break
            raise ValueError(
                f"--log {source}, line {line}, has {len(row)} cells and the header "
                f"{len(names)}: mend the line"
            )
        rows.append(dict(zip(names, map(str.strip, row), strict=True)))
        places.append(f"line {line}")
    return Table(rows, places, source, tuple(notes))
