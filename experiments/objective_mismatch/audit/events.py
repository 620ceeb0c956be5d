"""TensorBoard's event files as tables, without TensorBoard.

A file is a sequence of TFRecords: length (uint64), masked CRC-32C of the length, that
many bytes of a protocol buffer `Event`, masked CRC-32C of these bytes; little-endian.
"""

import importlib
import struct

import numpy as np

from experiments.objective_mismatch.audit.series import Table
from rlhf_jax.reporting import markdown

_HEADER, _FOOTER = 12, 4  # bytes around the message
_DTYPES = {1: "<f4", 2: "<f8", 3: "<i4", 9: "<i8"}  # TensorFlow's numbers for types


def are_events(data):
    """Whether bytes begin as an event file does."""
    return len(data) >= _HEADER and _intact(data[:_HEADER])


def of_folder(folder, read):
    """A table for each folder below `folder`, and itself, that holds event files.

    read: path → (bytes, notes). Files of one folder are one run that was continued.
    """
    found = {}
    for path in sorted(folder.rglob("*tfevents*")):
        found.setdefault(path.parent, []).append(path)
    tables = []
    for parent, paths in found.items():
        contents = [(path, *read(path)) for path in paths]
        notes = sum((note for *_, note in contents), ())
        files = [(path, data) for path, data, _ in contents]
        tables.append(table(files, str(parent), notes))
    return tables


def table(files, source, notes=()):
    """The scalars of event files, (path, bytes) each: a row for each of them.

    A file that starts at step s, as a resumed run's does, replaces what earlier files
    have from s on. Raises ValueError, naming file and byte, where one is damaged.
    """
    schema = importlib.import_module("tensorboardX.proto.event_pb2")  # 2 s: only here
    notes, rows = list(notes), []
    for path, data in files:
        messages, rest = _messages(path, data)
        if rest:
            notes.append(
                f"{path.name} ends within a record: its last "
                f"{markdown.count(rest, 'byte')} left out"
            )
        for message in messages:
            event = schema.Event.FromString(message)
            if event.session_log.status == schema.SessionLog.START:
                rows = [row for row in rows if row["step"] < event.step]
            for value in event.summary.value:
                number = _scalar(value)
                if number is not None:
                    rows.append({"step": event.step, value.tag: number})
    places = [f"step {row['step']}" for row in rows]
    return Table(rows, places, source, tuple(notes))


def _messages(path, data):
    """(the messages of a file, how many bytes of a cut last record were left over)."""
    found, at = [], 0
    while at + _HEADER <= len(data):
        header = data[at : at + _HEADER]
        if not _intact(header):
            raise ValueError(
                f"--log {path} is damaged at byte {at}: the length of a record does "
                "not match its checksum; copy the file again"
            )
        (length,) = struct.unpack_from("<Q", header)
        end = at + _HEADER + length + _FOOTER
        if end > len(data):
            break
        found.append(data[at + _HEADER : end - _FOOTER])
        at = end
    return found, len(data) - at


def _intact(header):
    """Whether a record's length has the checksum that follows it."""
    writer = importlib.import_module("tensorboardX.record_writer")
    return struct.unpack_from("<I", header, 8)[0] == writer.masked_crc32c(header[:8])


def _scalar(value):
    """The number of a summary value, None where it is a picture or a histogram.

    Newer writers have a tensor of one element in place of `simple_value`.
    """
    kind = value.WhichOneof("value")
    if kind == "simple_value":
        return value.simple_value
    tensor = value.tensor
    if kind != "tensor" or tensor.dtype not in _DTYPES:
        return None
    if tensor.tensor_content:
        numbers = np.frombuffer(tensor.tensor_content, _DTYPES[tensor.dtype])
    else:
        fields = ("float_val", "double_val", "int_val", "int64_val")
        numbers = [x for field in fields for x in getattr(tensor, field)]
    return float(numbers[0]) if len(numbers) == 1 else None
