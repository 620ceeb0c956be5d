"""Files and folders that are written whole or not at all, locked, and checked.

New content is written next to its destination under a name that starts with `PREFIX`,
flushed to disk, and renamed into place. A process that is killed leaves either the old
content or the new, and at most a leftover that `sweep` deletes. A sealed folder has a
manifest, written last, with a digest of every file and of the manifest itself.

`shared_folder` is for a folder that all hosts of a run see: all of them call it, and
the first one creates and renames.
"""

import contextlib
import hashlib
import json
import math
import os
import pathlib
import secrets
import shutil
import time
from concurrent import futures

import filelock
import numpy as np

from rlhf_jax.runtime import processes

PREFIX = ".unfinished-"
MANIFEST = "manifest.json"
LOCK = ".lock"
_POLL = 1.0  # seconds between attempts to take a lock
_PATIENCE = 30  # seconds for a new folder to appear on all hosts, as over NFS


class Damaged(Exception):
    """A sealed folder has changed since it was sealed; the message says where."""


def write(path, data):
    """Writes bytes, or text as UTF-8, to `path`, replacing any file there.

    Missing folders are created. Returns `path`.
    """
    path = pathlib.Path(path)
    data = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync(path.parent)
    return path


def write_json(path, value):
    """Writes `plain(value)` to `path` as indented JSON. Returns `path`."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    return write(path, text + "\n")


def plain(value):
    """A value as JSON can hold it: NaN and infinities become None.

    Dictionaries, lists and tuples are converted item by item; arrays must have one
    element. Raises ValueError for anything else.
    """
    if isinstance(value, dict):
        return {str(k): _plain_item(k, v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf" and array.dtype != "bfloat16":
        raise ValueError(f"not a number: {type(value).__name__} {array.shape}")
    number = array.item()
    return number if isinstance(number, int) or math.isfinite(number) else None


def _plain_item(key, value):
    try:
        return plain(value)
    except ValueError as error:
        raise ValueError(f"{key!r}: {error}; log one number under each name") from error


@contextlib.contextmanager
def folder(path):
    """Yields an empty folder to fill, which becomes `path` when the block succeeds.

    If the block raises, the folder is deleted. Raises OSError if something else exists
    at `path` by then.
    """
    path = pathlib.Path(path)
    temporary = _temporary(path)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        sync(temporary)
        os.rename(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(path.parent)


@contextlib.contextmanager
def shared_folder(path):
    """`folder`, created by the first host for all hosts to fill.

    Raises ValueError on every host if one of them does not see the folder.
    """
    with contextlib.ExitStack() as stack:
        temporary = pathlib.Path(
            processes.broadcast_from_first(
                lambda: str(stack.enter_context(folder(path)))
            )
        )
        _wait_until_visible(temporary)
        yield temporary
        processes.broadcast_from_first(stack.close)


def _wait_until_visible(path):
    """Waits until all hosts see a folder that the first one created.

    Raises ValueError if one still does not: it has a disk of its own, and its part of
    a checkpoint would be lost.
    """
    if processes.count() == 1:
        return
    until = time.monotonic() + _PATIENCE
    while not path.is_dir() and time.monotonic() < until:
        time.sleep(0.1)
    if processes.any_of(not path.is_dir()):
        raise ValueError(
            f"{path.parent} is not the same folder on all {processes.count()} hosts: "
            "choose an --output and a --cache on a disk that they share"
        )


def remove(path):
    """Deletes the folder `path` if it exists; it never stays there in part."""
    path = pathlib.Path(path)
    temporary = _temporary(path)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(path):
    """Deletes what killed writers left in the folder `path`; none may be running."""
    for leftover in pathlib.Path(path).glob(f"{PREFIX}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def sync(path):
    """Flushes every file and folder under `path` to disk."""
    for parent, _, names in os.walk(path, topdown=False):
        for name in names:
            _sync(os.path.join(parent, name))
        _sync(parent)


@contextlib.contextmanager
def lock(path, wait=None):
    """Holds the folder `path`, created if missing, for this process.

    If another process holds it, raises ValueError; with `wait`, calls wait() about once
    a second, which may raise, until the folder is free. The system releases the lock of
    a process that is killed; the file `LOCK` that it leaves behind locks nothing. A
    file system without locks is used without one.
    """
    path = pathlib.Path(path)
    while not (held := _try_to_lock(path)):
        if wait is None:
            raise ValueError(
                f"another process is at work in {path}: wait for it, stop it, or "
                "choose another folder"
            )
        wait()
        time.sleep(_POLL)
    try:
        yield
    finally:
        if held.is_locked:
            # first: no other process can hold it yet
            pathlib.Path(held.lock_file).unlink(missing_ok=True)
            held.release()


@contextlib.contextmanager
def lock_for_all(path):
    """`lock` for all hosts of a run, on whose disk the first one holds the folder.

    Raises ValueError on every host if another run holds it.
    """
    with contextlib.ExitStack() as stack:
        processes.broadcast_from_first(lambda: stack.enter_context(lock(path)))
        yield


def _try_to_lock(path):
    """The lock of the folder `path`, or None if another process holds it."""
    path.mkdir(parents=True, exist_ok=True)
    held = filelock.FileLock(path / LOCK, blocking=False, fallback_to_soft=False)
    try:
        held.acquire()
    except filelock.Timeout:
        return None
    except OSError:  # a file system without locks
        pass
    return held


def is_locked(path):
    """Whether another process holds the folder `path` at this moment."""
    path = pathlib.Path(path)
    if not (path / LOCK).exists():
        return False
    try:
        with lock(path):
            return False
    except ValueError:
        return True


def seal(path, body):
    """Writes the manifest of the finished folder `path`: `body`, JSON, and digests."""
    sync(path)
    body = {**body, "files": digests(path)}
    write(path / MANIFEST, _sealed(body))


def unseal(path):
    """The body of the manifest of `path`; raises Damaged unless every byte matches."""
    try:
        text = (path / MANIFEST).read_text()
        body = json.loads(text)["body"]
        intact = text == _sealed(body)
    except (OSError, ValueError, KeyError, TypeError):
        raise Damaged(f"no readable {MANIFEST}") from None
    if not intact:
        raise Damaged(f"{MANIFEST} was altered")
    actual = digests(path)
    for name, expected in body.pop("files").items():
        if name not in actual:
            raise Damaged(f"{name} is missing")
        if actual[name]["bytes"] != expected["bytes"]:
            raise Damaged(
                f"{name} has {actual[name]['bytes']} bytes, not {expected['bytes']}"
            )
        if actual[name] != expected:
            raise Damaged(f"{name} was altered")
    return body


def _sealed(body):
    sha256 = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({"sha256": sha256, "body": body}, indent=1)


def digests(path):
    """{relative name: {"bytes": size, "sha256": hex}} of every file under `path`."""
    path = pathlib.Path(path)
    names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*"))
    names = [name for name in names if (path / name).is_file()]

    def describe(name):
        with open(path / name, "rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return {"bytes": (path / name).stat().st_size, "sha256": sha256}

    with futures.ThreadPoolExecutor() as pool:  # hashing releases the interpreter lock
        return dict(zip(names, pool.map(describe, names), strict=True))


def _temporary(path):
    return path.parent / f"{PREFIX}{path.name}-{secrets.token_hex(4)}"


def _sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
