"""Checkpoints are whole or not at all: kills at any moment, and full disks."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import jax.numpy as jnp
import numpy as np
import pytest
from kept_states import assert_same, make_state, native_refusal, refuse

from rlhf_jax.runtime import files


class Killed(BaseException):
    """A process that ends here and now."""


CALLS = ["fsync", "rename", "replace", "mkdir"]


def kill_at(monkeypatch, moment):
    """Lets the first `moment` calls to the file system through and ends at the next.

    What a dead process would have tidied away then stays."""
    count = [0]

    def watched(call):
        def wrapper(*arguments, **options):
            count[0] += 1
            if count[0] > moment:
                raise Killed
            return call(*arguments, **options)

        return wrapper

    for name in CALLS:
        monkeypatch.setattr(os, name, watched(getattr(os, name)))
    monkeypatch.setattr(files.shutil, "rmtree", watched(shutil.rmtree))
    monkeypatch.setattr(files.pathlib.Path, "unlink", lambda *a, **k: None)
    return count


def test_a_kill_at_any_moment_leaves_the_old_or_the_new(open_run, reports, monkeypatch):
    state = {"w": jnp.arange(3.0)}
    moment, outcomes = 0, []
    while True:
        shutil.rmtree(open_run().folder, ignore_errors=True)
        run = open_run(keep=1)
        run.save(1, state)
        with monkeypatch.context() as patch:
            kill_at(patch, moment)
            try:
                run.save(2, {"w": state["w"] + 1})
                killed = False
            except Killed:
                killed = True
        run = open_run(keep=1)
        step, restored, _ = run.restore(state)
        np.testing.assert_array_equal(restored["w"], state["w"] + (step - 1))
        assert not list(run.folder.glob(f"{files.PREFIX}*"))
        outcomes.append(step)
        if not killed:
            break
        moment += 1
    assert moment > 10
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {1, 2}
    assert reports == []


WRITER = """
    import sys
    import jax
    jax.config.update("jax_platforms", "cpu")
    import jax.numpy as jnp
    from rlhf_jax.runtime import checkpoint
    run = checkpoint.Checkpointer(sys.argv[1], config_digest="abc")
    start = run.restore({"w": jnp.zeros((300, 300))})
    step = start[0] if start else 0
    while True:
        step += 1
        run.save(step, {"w": jnp.full((300, 300), float(step))}, {"step": step})
        print(step, flush=True)
"""


@pytest.mark.slow
def test_a_killed_process_leaves_a_whole_checkpoint(open_run, reports, rng):
    run = open_run()
    target, last = {"w": jnp.zeros((300, 300))}, 0
    for _ in range(8):
        writer = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WRITER), str(run.folder)],
            stdout=subprocess.PIPE,
            text=True,
        )
        said = int(writer.stdout.readline())
        time.sleep(rng.uniform(0, 0.3))
        writer.send_signal(signal.SIGKILL)
        said = max([said, *map(int, writer.communicate()[0].split())])
        run = open_run()
        step, state, extra = run.restore(target)
        assert step >= said > last
        assert extra == {"step": step}
        np.testing.assert_array_equal(state["w"], np.full((300, 300), float(step)))
        last = step
    assert reports == []


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("rlhf_jax.runtime.files.write", refuse),
        ("rlhf_jax.runtime.files._sync", refuse),
        ("orbax.checkpoint.Checkpointer.save", native_refusal),
    ],
)
def test_a_full_disk_leaves_the_earlier_checkpoints(open_run, monkeypatch, where, what):
    run = open_run()
    run.save(1, make_state(1))
    with monkeypatch.context() as patch:
        patch.setattr(where, what)
        with pytest.raises(OSError, match="the disk is full") as caught:
            run.save(2, make_state(2))
    assert caught.value.errno == errno.ENOSPC
    assert "cannot save step 2" in str(caught.value)
    assert str(run.folder) in str(caught.value)
    assert "free some space, or choose another folder" in str(caught.value)
    assert [p.name for p in run.folder.iterdir()] == ["step_00000001"]
    assert_same(run.restore(make_state())[1], make_state(1))
    run.save(2, make_state(2))
    assert run.restore(make_state())[0] == 2


def test_a_disk_that_really_refuses_is_one_error(open_run, capfd):
    resource = pytest.importorskip("resource")
    run = open_run()
    state = {"w": jnp.asarray(np.random.default_rng(0).normal(size=100_000))}
    run.save(1, state)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match="cannot save step 2") as caught:
            run.save(2, state)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert [p.name for p in run.folder.iterdir()] == ["step_00000001"]
    assert_same(run.restore(state)[1], state)
    assert "Traceback" not in capfd.readouterr().err
