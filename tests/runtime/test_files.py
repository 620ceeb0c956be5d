"""Files written whole, and folders that one process at a time works in."""

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from rlhf_jax.runtime import files


def refuse(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.json"
    files.write(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError):
            files.write(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file.json"]
    files.write(path, b"new")
    assert path.read_bytes() == b"new"
    assert files.write(path, "zwei …") == path
    assert path.read_text() == "zwei …"


def test_json_is_written_with_null_for_what_is_not_finite(tmp_path):
    path = tmp_path / "deep" / "results.json"
    assert files.write_json(path, {"x": np.float32(0.5), "gap": (np.nan, None)}) == path
    assert json.loads(path.read_text()) == {"x": 0.5, "gap": [None, None]}
    assert os.listdir(path.parent) == ["results.json"]


# Locks


def test_a_lock_leaves_nothing_behind(tmp_path):
    folder = tmp_path / "run"
    with files.lock(folder):
        assert files.is_locked(folder)
        (folder / "result").touch()
    assert not files.is_locked(folder)
    assert os.listdir(folder) == ["result"]
    assert not files.is_locked(tmp_path / "none")


def test_a_folder_is_locked_once(tmp_path):
    with files.lock(tmp_path):
        with pytest.raises(ValueError, match="another process is at work in"):
            with files.lock(tmp_path):
                raise AssertionError("locked twice")
        assert files.is_locked(tmp_path)  # the attempt did not release the lock
    with files.lock(tmp_path):
        pass


HOLDER = """
import sys
from rlhf_jax.runtime import files
with files.lock(sys.argv[1]):
    print("locked", flush=True)
    input()
"""


def test_a_killed_process_holds_no_lock(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout.readline() == "locked\n"
        assert files.is_locked(tmp_path)
        with pytest.raises(ValueError, match="another process is at work in"):
            with files.lock(tmp_path):
                raise AssertionError("locked twice")
        holder.send_signal(signal.SIGKILL)
    assert not files.is_locked(tmp_path)
    with files.lock(tmp_path):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_used_without(tmp_path, monkeypatch, code):
    def unsupported(descriptor, operation):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with files.lock(tmp_path), files.lock(tmp_path):
        assert not files.is_locked(tmp_path)
