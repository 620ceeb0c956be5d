"""The ledger of a labeler's calls: nothing is asked, or paid for, twice.

    book = ledger.open_file("labels.ledger")
    labeler = ledger.through(book, labeler, prices=(0.15, 0.6))

An SQLite file, to which every call is appended. A call is found by its request: the
labeler's `identity`, the prompt, and the labels or the `Decoding`, that is, all that
determines the answer and nothing of this package's code. The first answer to a request
counts for ever; a failure is kept with its reason, and the request is asked again the
next time. Each result is committed as it arrives, so a killed process loses only what
was in flight. Processes on one host may share a ledger (not over a network drive,
where SQLite's write-ahead log does not work).
"""

import contextlib
import dataclasses
import datetime
import hashlib
import json
import math
import pathlib
import sqlite3
from typing import NamedTuple

import numpy as np

from rlhf_jax.feedback import prices as money
from rlhf_jax.feedback.labelers import Failure, Reading, Written

_APPLICATION = 0x524C4146  # "RLAF" in the header of the file: it is a ledger
_VERSION = 1
_PATIENCE = 60.0  # seconds to wait for another process that writes
_LOOKUP = 500  # requests a query; SQLite of old takes at most 999 variables

# What determines an answer, and the answer itself: the same in every run of a job.
_ANSWER = (
    *("request", "prompt_hash", "kind", "labeler", "model", "identity"),
    *("asked", "prompt", "logps", "told", "outside", "text"),
    *("prompt_tokens", "completion_tokens", "cost"),
)
_CALL = (*_ANSWER, "failure", "time")
_NUMBERS = {"prompt_tokens": "INTEGER", "completion_tokens": "INTEGER"}
_NUMBERS |= {"outside": "REAL", "cost": "REAL"}


@dataclasses.dataclass(frozen=True)
class Ledger:
    """A ledger by its file; connections are opened when they are needed."""

    path: pathlib.Path


class Spent(NamedTuple):
    """What was asked of one model, in all runs that wrote to a ledger."""

    calls: int  # with an answer or without
    answers: int
    failures: dict[str, int]  # reason -> how often
    prompt_tokens: int
    completion_tokens: int
    cost: float


def open_file(path):
    """The ledger at `path`, made if there is none.

    Raises ValueError if the file is no ledger, is damaged, or of a later version.
    """
    ledger = Ledger(pathlib.Path(path))
    ledger.path.parent.mkdir(parents=True, exist_ok=True)
    with connected(ledger) as connection:
        (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if state != "ok":
            raise sqlite3.DatabaseError(state)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")
        _create(connection)
        connection.execute("COMMIT")
    return ledger


def _create(connection):
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application == 0 and not tables:
        columns = ", ".join(f"{name} {_NUMBERS.get(name, 'TEXT')}" for name in _CALL)
        connection.execute(f"CREATE TABLE calls (id INTEGER PRIMARY KEY, {columns})")
        connection.execute("CREATE INDEX requests ON calls (request)")
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {_VERSION}")
    elif application != _APPLICATION:
        raise sqlite3.DatabaseError("it is the database of another program")
    elif version != _VERSION:
        raise sqlite3.DatabaseError(f"it has version {version}, not {_VERSION}")


@contextlib.contextmanager
def connected(ledger):
    """A connection in autocommit; what SQLite cannot read is one clear ValueError."""
    try:
        opened = sqlite3.connect(
            ledger.path, _PATIENCE, isolation_level=None, check_same_thread=False
        )
        with contextlib.closing(opened) as connection:
            # Safe against a killed process; a power cut may lose the last commits.
            connection.execute("PRAGMA synchronous = NORMAL")
            yield connection
    except sqlite3.Error as error:
        raise ValueError(
            f"{ledger.path} cannot be used as a ledger: {error}. Name another file, or "
            "move this one away"
        ) from error


# What is asked, and its name.


def request(identity, kind, prompt, asked):
    """The SHA-256, in hexadecimal digits, by which an answer is found.

    Args: identity: `Labeler.identity`; kind: "read" or "write"; asked: the labels, or
    the fields of the `Decoding`. Raises TypeError for what JSON cannot hold.
    """
    what = {"kind": kind, "prompt": prompt, "asked": asked}
    return _digest(_json(what | {"identity": dict(identity)}))


def _json(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _digest(text):
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _asked(what):
    """("read", labels) or ("write", fields of a Decoding), as JSON holds them."""
    if dataclasses.is_dataclass(what):
        return "write", dataclasses.asdict(what)
    return "read", list(what)


def through(ledger, labeler, *, prices=None):
    """A labeler that answers what `ledger` has, and asks `labeler` for the rest only.

    Identical prompts of one batch are asked once; their answers are the same object.
    Two processes that ask the same at the same moment both pay, both calls are kept,
    and both get the answer that was written first.

    Args: prices: money per million (prompt, completion) tokens; see `prices.Prices`.
    """

    def read(prompts, labels):
        labels = tuple(labels)
        return _answers(
            ledger, labeler, prompts, labels, prices, lambda x: labeler.read(x, labels)
        )

    def write(prompts, decoding):
        return _answers(
            ledger, labeler, prompts, decoding, prices,
            lambda x: labeler.write(x, decoding),
        )  # fmt: skip

    return dataclasses.replace(labeler, read=read, write=write)


def missing(ledger, labeler, prompts, asked):
    """The prompts, each once, that `through` would have to ask the labeler itself.

    Args: asked: the labels, or a `Decoding`.
    """
    kind, what = _asked(asked)
    names = {request(labeler.identity, kind, p, what): p for p in prompts}
    with connected(ledger) as connection:
        known = {name for name, _ in _recorded(connection, kind, names)}
    return [prompt for name, prompt in names.items() if name not in known]


def _answers(ledger, labeler, prompts, asked, prices, ask):
    """Yields (index, result): first what is recorded, then what is new."""
    kind, what = _asked(asked)
    places = {}
    for index, prompt in enumerate(prompts):
        name = request(labeler.identity, kind, prompt, what)
        places.setdefault(name, []).append(index)
    with connected(ledger) as connection:
        new = set(places)
        for name, result in _recorded(connection, kind, places):
            new.discard(name)
            yield from ((index, result) for index in places[name])
        names = [name for name in places if name in new]
        texts = [prompts[places[name][0]] for name in names]
        if not texts:
            return
        for index, result in ask(texts):
            name = names[index]
            call = _call(labeler, kind, what, texts[index], name, result, prices)
            result = _append(connection, kind, call, result)
            yield from ((place, result) for place in places[name])


# Rows of the file.


def _recorded(connection, kind, names):
    """Yields (request, its first answer) for those of `names` that have one."""
    names = list(names)
    for start in range(0, len(names), _LOOKUP):
        part = names[start : start + _LOOKUP]
        found = connection.execute(
            f"SELECT {', '.join(_CALL)}, min(id) FROM calls WHERE failure IS NULL AND "
            f"request IN ({', '.join('?' * len(part))}) GROUP BY request",
            part,
        ).fetchall()
        for row in found:
            call = dict(zip(_CALL, row, strict=False))
            yield call["request"], _result(kind, call)


def _append(connection, kind, call, result):
    """Writes a call; returns the answer to its request that was written first."""
    columns, marks = ", ".join(_CALL), ", ".join("?" * len(_CALL))
    connection.execute(
        f"INSERT INTO calls ({columns}) VALUES ({marks})", [call[x] for x in _CALL]
    )
    if isinstance(result, Failure):
        return result
    ((_, first),) = _recorded(connection, kind, [call["request"]])
    return first


def _call(labeler, kind, what, prompt, name, result, prices):
    """A row of the file."""
    call = dict.fromkeys(_CALL)
    call |= {
        "request": name,
        "prompt_hash": _digest(prompt),
        "kind": kind,
        "labeler": labeler.name,
        "model": str(labeler.identity.get("model", labeler.name)),
        "identity": _json(dict(labeler.identity)),
        "asked": _json(what),
        "prompt": json.dumps(prompt),  # a lone surrogate, too, can be stored
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds"),
    }
    if isinstance(result, Failure):
        return call | {"failure": result.reason}
    tokens = int(result.prompt_tokens), int(result.completion_tokens)
    call |= {"prompt_tokens": tokens[0], "completion_tokens": tokens[1]}
    call |= {"cost": money.cost(prices, *tokens)}
    if isinstance(result, Written):
        return call | {"text": json.dumps(result.text)}
    return call | {
        "logps": _json([float(x) if np.isfinite(x) else None for x in result.logps]),
        "told": _json([bool(x) for x in result.told]),
        "outside": None if math.isnan(result.outside) else float(result.outside),
    }


def _result(kind, call):
    tokens = call["prompt_tokens"], call["completion_tokens"]
    if kind == "write":
        return Written(json.loads(call["text"]), *tokens)
    logps = [-math.inf if x is None else x for x in json.loads(call["logps"])]
    outside = math.nan if call["outside"] is None else call["outside"]
    told = np.array(json.loads(call["told"]), bool)
    return Reading(np.array(logps, np.float64), told, outside, *tokens)


# What a ledger says.


def summary(ledger):
    """{model: Spent} of all calls, failed and repeated ones too, models by name."""
    with connected(ledger) as connection:
        sums = connection.execute(
            "SELECT model, count(*), count(*) - count(failure), "
            "total(prompt_tokens), total(completion_tokens), total(cost) "
            "FROM calls GROUP BY model ORDER BY model"
        ).fetchall()
        reasons = connection.execute(
            "SELECT model, failure, count(*) FROM calls WHERE failure IS NOT NULL "
            "GROUP BY model, failure ORDER BY count(*) DESC, failure"
        ).fetchall()
    failures = {}
    for model, reason, count in reasons:
        failures.setdefault(model, {})[reason] = count
    return {
        model: Spent(calls, answers, failures.get(model, {}), int(read), int(new), paid)
        for model, calls, answers, read, new, paid in sums
    }


def records(ledger, *, calls=False):
    """The answers as dictionaries, one a request, in the order of their requests' hash.

    The same answers give the same records, whatever order they came in and however
    often the job was killed: their times and failures are left out. With `calls=True`:
    every call in the order of arrival, failures and times too.
    """
    columns = ", ".join(_CALL if calls else _ANSWER)
    query = f"SELECT {columns}, min(id) FROM calls WHERE failure IS NULL "
    query += "GROUP BY request ORDER BY request"
    if calls:
        query = f"SELECT {columns} FROM calls ORDER BY id"
    with connected(ledger) as connection:
        rows = connection.execute(query).fetchall()
    parsed = ("identity", "asked", "prompt", "logps", "told", "text")
    return [
        {
            name: json.loads(value) if name in parsed and value is not None else value
            for name, value in zip(_CALL if calls else _ANSWER, row, strict=False)
        }
        for row in rows
    ]


def export(ledger, path, *, calls=False):
    """Writes `records` to a file, whole or not at all: `.jsonl` or `.parquet`.

    In Parquet the labeler's identity and what was asked are JSON texts. Returns `path`.
    """
    from rlhf_jax.runtime import files  # with jax, which no labeler needs

    path = pathlib.Path(path)
    if path.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"{path}: a ledger is exported to .jsonl or .parquet")
    rows = records(ledger, calls=calls)
    if path.suffix == ".jsonl":
        return files.write(path, "".join(json.dumps(row) + "\n" for row in rows))
    return files.write(path, _parquet(rows, _CALL if calls else _ANSWER))


def _parquet(rows, columns):
    """The bytes of a Parquet file."""
    import io

    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"TEXT": pa.string(), "INTEGER": pa.int64(), "REAL": pa.float64()}
    types = {name: kinds[_NUMBERS.get(name, "TEXT")] for name in columns}
    types |= {"logps": pa.list_(pa.float64()), "told": pa.list_(pa.bool_())}
    rows = [row | {x: _json(row[x]) for x in ("identity", "asked")} for row in rows]
    buffer = io.BytesIO()
    table = pa.Table.from_pylist(rows, pa.schema(list(types.items())))
    parquet.write_table(table, buffer)
    return buffer.getvalue()
