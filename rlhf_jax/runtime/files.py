"""Files and folders that appear whole or not at all, and notice when they are damaged.

What is being written stands beside its destination under a name that begins with
`PREFIX`, reaches the disk, and then takes its name in one rename: a process that is
killed leaves the old content or the new, and at most a left-over for `sweep`. A sealed
folder holds, written last, a manifest with the digest of every file and of itself.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import secrets
import shutil
from concurrent import futures

PREFIX = ".unfinished-"
MANIFEST = "manifest.json"


class Damaged(Exception):
    """A sealed folder is not what its writer left; the text says where."""


def write(path, data):
    """Puts bytes, or text as UTF-8, at `path`, replacing the file that stands there."""
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


@contextlib.contextmanager
def folder(path):
    """A folder to fill that becomes `path` when the block ends well, else vanishes.

    Raises OSError when something else stands at `path` by then.
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
def alone(path):
    """Keeps the folder `path`, made when missing, for this process during the block.

    Raises ValueError when another process has it; one that was killed has it no more.
    """
    path = pathlib.Path(path)
    path.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # a file system without locks does without
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"another process is at work in {path}: wait for it, stop it, or "
                    "choose another folder"
                ) from None
        yield
    finally:
        os.close(descriptor)


def taken(path):
    """Whether another process keeps the folder `path` for itself just now."""
    path = pathlib.Path(path)
    if not path.is_dir():
        return False
    try:
        with alone(path):
            return False
    except ValueError:
        return True


def remove(path):
    """Deletes the folder `path`, if there is one; it never stands there in part."""
    path = pathlib.Path(path)
    temporary = _temporary(path)
    with contextlib.suppress(FileNotFoundError):
        os.rename(path, temporary)
        shutil.rmtree(temporary, ignore_errors=True)


def sweep(path):
    """Deletes what killed writers left in the folder `path`; no writer may be alive."""
    for leftover in pathlib.Path(path).glob(f"{PREFIX}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink(missing_ok=True)


def sync(path):
    """Waits until every file and folder under `path` is on the disk."""
    for parent, _, names in os.walk(path, topdown=False):
        for name in names:
            _sync(os.path.join(parent, name))
        _sync(parent)


def seal(path, body):
    """Writes the manifest of the finished folder `path`: `body`, JSON, and digests."""
    sync(path)
    body = {**body, "files": digests(path)}
    write(path / MANIFEST, _sealed(body))


def unseal(path):
    """The body of the manifest of `path`; raises Damaged unless every byte is there."""
    try:
        text = (path / MANIFEST).read_text()
        body = json.loads(text)["body"]
        intact = text == _sealed(body)
    except (OSError, ValueError, KeyError, TypeError):
        raise Damaged(f"no readable {MANIFEST}") from None
    if not intact:
        raise Damaged(f"{MANIFEST} was altered")
    found = digests(path)
    for name, expected in body.pop("files").items():
        if name not in found:
            raise Damaged(f"{name} is missing")
        if found[name]["bytes"] != expected["bytes"]:
            raise Damaged(
                f"{name} has {found[name]['bytes']} bytes, not {expected['bytes']}"
            )
        if found[name] != expected:
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
