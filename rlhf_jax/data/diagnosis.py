"""Why a file of rows cannot be read, in words that say where and what to do."""

import gzip
import json
import zlib

from rlhf_jax.data import origins

_SHOWN = 60  # characters of a line that a message quotes


def why(files, error):
    """A line about the first thing wrong with files that `datasets` could not read.

    Args: files: paths; error: what `datasets` raised, which is quoted where nothing is
    recognised.
    """
    for file in files:
        try:
            if said := _wrong(file):
                return said
        except (EOFError, zlib.error):
            return f"{file}: the file is packed and breaks off; copy it again"
        except gzip.BadGzipFile:
            return f"{file}: no gzip file, though its name says so; leave .gz out"
    cause = error.__cause__ or error
    reason = " ".join(str(cause).split())[:300]
    return f"{files[0]} cannot be read: {reason or type(cause).__name__}"


def _wrong(file):
    """What is wrong with a file, None where nothing is seen."""
    kinds = file.suffixes[-2:]
    if ".parquet" in kinds:
        return None
    blank = True
    with origins.open_binary(file) as opened:
        whole = ".json" in kinds or opened.read(64).lstrip().startswith(b"[")
        opened.seek(0)
        for number, line in enumerate(opened, 1):
            blank = blank and not line.strip()
            where = f"{file}, line {number}"
            said = _undecodable(line)
            if said is None and ".jsonl" in kinds and not whole and line.strip():
                said = _no_row(line.decode("utf-8-sig"))
            if said is not None:
                return f"{where}: {said}"
        if blank:
            return f"{file}: only blank lines; give it at least one row"
        if whole:
            opened.seek(0)
            return _no_rows(file, opened.read().decode("utf-8-sig"))
    return None


def _undecodable(line):
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        return (
            f"byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8; save "
            "the file as UTF-8, it may be Latin-1 or UTF-16"
        )
    return None


def _no_row(text):
    """What is wrong with a line of JSONL."""
    try:
        row = json.loads(text, object_pairs_hook=_once)
        json.dumps(row, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        return f"not JSON, {error.msg} (column {error.colno}): {text.strip()[:_SHOWN]}"
    except UnicodeEncodeError:
        return "half of a surrogate pair (\\ud800 to \\udfff); remove it"
    except ValueError as error:
        return str(error)
    if not isinstance(row, dict):
        return (
            f'{named(row)}, not a row; write one object a line, as in {{"text": "..."}}'
        )
    return None


def _no_rows(file, text):
    """What is wrong with a JSON file, which may also have one object a line."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        whole = (
            f"{file}, line {error.lineno}: not JSON, {error.msg} (column {error.colno})"
        )
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip() and (said := _no_row(line)):
                return whole if number == 1 else f"{file}, line {number}: {said}"
        return None
    for number, row in enumerate(found if isinstance(found, list) else ()):
        if not isinstance(row, dict):
            return f"{file}, row {number} (counted from 0): {named(row)}, not an object"
    return None


def named(value):
    """What a value is, in words, and its beginning: 'a list, ["a", "b"]'."""
    kinds = (
        (type(None), "null"), (bool, "a truth value"), (int, "a number"),
        (float, "a number"), (str, "a text"), (list, "a list"), (dict, "an object"),
    )  # fmt: skip
    kind = next((words for k, words in kinds if isinstance(value, k)), None)
    kind = f"a {type(value).__name__}" if kind is None else kind
    if value is None:
        return kind
    shown = json.dumps(value, ensure_ascii=False, default=str)
    return f"{kind}, {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'}"


def _once(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} twice in an object; leave one out")
    return found
