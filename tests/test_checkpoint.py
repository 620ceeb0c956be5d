"""Checkpoints: bit for bit, whole or not at all, and never believed when damaged."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from rlhf_jax import atomic, checkpoint


class State(NamedTuple):
    params: Any
    key: jax.Array
    step: jax.Array


def make_state(seed=0):
    rng = np.random.default_rng(seed)
    nans = np.array([0x7FC00001, 0xFFC12345, 0x7F800000], np.uint32).view(np.float32)
    params = {
        "kernel": jnp.asarray(rng.normal(size=(3, 5)), jnp.float32),
        "half": jnp.asarray(rng.normal(size=(4,)), jnp.bfloat16),
        "half_nan": jnp.asarray(np.array([0x7FC1], np.uint16).view(ml_dtypes.bfloat16)),
        "nan": jnp.asarray(nans),
        "count": jnp.arange(6, dtype=jnp.int32) + seed,
        "flag": jnp.array([True, False]),
        "none": None,
        "empty": jnp.zeros((0, 3)),
        "number": 7 + seed,
        "host": np.arange(4, dtype=np.int64),
    }
    keys = jax.random.split(jax.random.key(seed), 2)
    return State(params, keys, jnp.int32(seed))


def bits(leaf):
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return np.asarray(leaf).tobytes()


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(x) is type(y)
        assert getattr(x, "dtype", None) == getattr(y, "dtype", None)
        assert np.shape(x) == np.shape(y)
        assert bits(x) == bits(y)


@pytest.fixture
def reports():
    return []


@pytest.fixture
def open_run(tmp_path, reports):
    def opened(config_digest="abc", **options):
        return checkpoint.Checkpointer(
            tmp_path / "run",
            config_digest=config_digest,
            report=reports.append,
            **options,
        )

    return opened


def test_every_bit_comes_back(open_run, reports):
    run, state = open_run(), make_state(1)
    extra = {"position": 12, "best": 0.1, "bytes": 10**12, "name": "é"}
    run.save(5, state, extra)
    step, restored, told = open_run().restore(make_state(0))
    assert (step, told) == (5, extra)
    assert_same(restored, state)
    assert reports == []
    draws = [jax.vmap(jax.random.bits)(s.key) for s in (state, restored)]
    np.testing.assert_array_equal(*draws)


def test_nothing_saved_is_none(open_run, tmp_path):
    assert open_run().restore(make_state()) is None
    assert open_run().steps() == []
    assert checkpoint.load_params(tmp_path / "none", {}) is None


def test_large_leaves_stand_alone_and_keep_their_sharding(open_run, monkeypatch):
    monkeypatch.setattr(checkpoint, "ALONE", 64)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread, everywhere = (
        jax.NamedSharding(mesh, jax.P(*names)) for names in (("data",), ())
    )
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    state = {
        "spread": jax.device_put(values, spread),
        "everywhere": jax.device_put(values.astype(ml_dtypes.bfloat16), everywhere),
        "single": jnp.asarray(values),
        "small": jax.device_put(values[:4, 0], spread),
    }
    run = open_run()
    run.save(1, state)
    _, restored, _ = run.restore(state)
    assert_same(restored, state)
    for name, leaf in restored.items():
        assert leaf.sharding == state[name].sharding
    target = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), state
    )
    _, restored, _ = run.restore(target)
    for name, leaf in restored.items():
        assert leaf.sharding == everywhere
        assert bits(leaf) == bits(state[name])


def test_what_a_pmapped_step_returns_is_restored_into_a_fresh_state(open_run):
    step = jax.pmap(lambda s, r: (s + r.sum() * 0, r), in_axes=(None, 0),
                    out_axes=(None, 0))  # fmt: skip
    state, _ = step(jnp.arange(3.0), jnp.ones((4, 1)))
    run = open_run()
    run.save(1, {"x": state})
    fresh = jnp.zeros(3)
    restored = run.restore({"x": fresh})[1]["x"]
    np.testing.assert_array_equal(restored, [0, 1, 2])
    assert restored.sharding == fresh.sharding


def test_weak_types_survive(open_run):
    run, state = open_run(), {"weak": jnp.asarray(0.1), "strong": jnp.float32(0.1)}
    run.save(1, state)
    _, restored, _ = run.restore(state)
    for name, leaf in state.items():
        assert restored[name].weak_type == leaf.weak_type
        assert bits(restored[name]) == bits(leaf)


def test_restored_leaves_share_no_buffer(open_run):
    state = {"a": jnp.ones(64), "b": jnp.ones(64)}
    run = open_run()
    run.save(1, state)
    _, restored, _ = run.restore(state)
    doubled = jax.jit(lambda x: jax.tree.map(lambda y: y * 2, x), donate_argnums=0)(
        restored
    )
    np.testing.assert_array_equal(doubled["a"], np.full(64, 2.0))
    np.testing.assert_array_equal(doubled["b"], np.full(64, 2.0))


def test_the_newest_are_kept(open_run):
    run = open_run(keep=2)
    for step in range(4):
        run.save(step, make_state(step))
    assert run.steps() == [2, 3]
    assert run.restore(make_state())[0] == 3
    run = open_run(keep=1)
    run.save(4, make_state(4))
    assert run.steps() == [4]


def test_saving_takes_the_place_of_a_later_course(open_run):
    run = open_run()
    for step in (10, 20, 30):
        run.save(step, make_state(step))
    run.save(25, make_state(1))
    assert run.steps() == [20, 25]
    run.save(25, make_state(2), {"again": True})
    assert run.steps() == [20, 25]
    step, state, extra = run.restore(make_state())
    assert (step, extra) == (25, {"again": True})
    assert_same(state, make_state(2))


def test_peeking_tells_what_would_be_restored(open_run, reports):
    run = open_run()
    assert run.peek() is None
    run.save(1, make_state(1), {"offset": 10})
    run.save(2, make_state(2), {"offset": 20})
    assert run.peek() == (2, {"offset": 20})
    (run.folder / "step_00000002" / "state" / "packed" / "0").unlink()
    assert run.peek() == (1, {"offset": 10})
    assert reports == []


def files(run):
    return sorted(p for p in run.folder.rglob("*") if p.is_file())


def test_a_flipped_bit_is_noticed_wherever_it_is(open_run, reports, rng):
    run = open_run()
    run.save(1, make_state(1))
    run.save(2, make_state(2))
    newest = [p for p in files(run) if "step_00000002" in p.parts]
    assert len(newest) >= 5
    for path in newest:
        whole = path.read_bytes()
        positions = {0, len(whole) - 1, *rng.integers(0, len(whole), 5).tolist()}
        for position in positions:
            broken = bytearray(whole)
            broken[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(broken)
            with pytest.raises(atomic.Damaged):
                atomic.unseal(run.folder / "step_00000002")
        reports.clear()
        step, state, _ = run.restore(make_state())
        assert step == 1
        assert_same(state, make_state(1))
        (line,) = reports
        assert "damaged and passed over: step_00000002" in line
        assert line.endswith("going on from step_00000001")
        path.write_bytes(whole)
    assert run.restore(make_state())[0] == 2


@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_missing_and_truncated_files_are_noticed(open_run, reports, harm):
    run = open_run()
    run.save(1, make_state(1))
    run.save(2, make_state(2))
    backup = run.folder.parent / "backup"
    shutil.copytree(run.folder, backup)
    for path in files(run):
        if "step_00000002" not in path.parts:
            continue
        if harm == "missing":
            path.unlink()
        else:
            path.write_bytes(path.read_bytes()[:-1])
        assert run.restore(make_state())[0] == 1
        assert ("manifest.json" if path.name == "manifest.json" else path.name) in (
            reports[-1]
        )
        shutil.rmtree(run.folder)
        shutil.copytree(backup, run.folder)


def test_all_damaged_is_one_error(open_run):
    run = open_run()
    run.save(1, make_state())
    (run.folder / "step_00000001" / "manifest.json").write_text("{}")
    with pytest.raises(ValueError, match="no checkpoint is intact") as caught:
        run.restore(make_state())
    assert "step_00000001 (no readable manifest.json)" in str(caught.value)
    assert "delete that folder" in str(caught.value)


def test_a_damaged_checkpoint_does_not_displace_a_good_one(open_run):
    run = open_run(keep=2)
    for step in (1, 2, 3):
        run.save(step, make_state(step))
    (run.folder / "step_00000003" / "manifest.json").unlink()
    assert run.restore(make_state())[0] == 2
    run.save(3, make_state(4))
    assert sorted(p.name for p in run.folder.iterdir()) == [
        "step_00000002",
        "step_00000003.1",
    ]


def test_another_configuration_is_refused_by_name(open_run):
    open_run().save(3, {"w": jnp.zeros((2, 3)), "old": jnp.zeros(1)})
    target = {"w": jnp.zeros((2, 4)), "new": jnp.zeros(2, jnp.int32)}
    with pytest.raises(ValueError) as caught:
        open_run().restore(target)
    text = str(caught.value)
    assert "step_00000003 is of another configuration" in text
    assert "w: saved float32[2, 3], wanted float32[2, 4]" in text
    assert "old: saved float32[1], wanted nothing" in text
    assert "new: saved nothing, wanted int32[2]" in text
    assert "choose another folder" in text
    with pytest.raises(ValueError, match="config digest: saved abc, wanted xyz"):
        open_run("xyz").restore({"w": jnp.zeros((2, 3)), "old": jnp.zeros(1)})
    with pytest.raises(ValueError, match="config digest: saved abc, wanted xyz"):
        open_run("xyz").peek()


def test_a_long_list_of_differences_is_cut(open_run):
    open_run().save(1, {str(i): jnp.zeros(1) for i in range(30)})
    with pytest.raises(ValueError, match="and 22 more"):
        open_run().restore({})


def test_another_format_is_refused(open_run, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", 9)
    open_run().save(1, make_state())
    monkeypatch.undo()
    with pytest.raises(ValueError, match="checkpoint format 9, this version reads 1"):
        open_run().restore(make_state())


def test_text_in_the_state_is_refused(open_run):
    with pytest.raises(ValueError, match="name: a leaf of type <U3 .* `extra`"):
        open_run().save(1, {"name": "abc"})


def test_clearing_removes_every_checkpoint(open_run):
    run = open_run()
    run.clear()
    run.save(1, make_state())
    run.clear()
    assert run.restore(make_state()) is None
    assert not run.folder.exists()


def test_misuse_of_keep_is_refused(open_run):
    with pytest.raises(ValueError, match="keep=0: at least 1"):
        open_run(keep=0)


def test_left_overs_are_removed_at_the_start(open_run):
    run = open_run()
    run.save(1, make_state())
    for name in ("step_00000002-77", "step_00000001-78"):
        shutil.copytree(
            run.folder / "step_00000001", run.folder / f"{atomic.PREFIX}{name}"
        )
    run = open_run()
    assert [p.name for p in run.folder.iterdir()] == ["step_00000001"]


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
    monkeypatch.setattr(atomic.shutil, "rmtree", watched(shutil.rmtree))
    monkeypatch.setattr(atomic.pathlib.Path, "unlink", lambda *a, **k: None)
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
        assert not list(run.folder.glob(f"{atomic.PREFIX}*"))
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
    from rlhf_jax import checkpoint
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


def refuse(*arguments, **options):
    raise OSError(errno.ENOSPC, "No space left on device")


def native_refusal(*arguments, **options):
    raise ValueError("RESOURCE_EXHAUSTED: Error writing [os_error_code='28']")


@pytest.mark.parametrize(
    ("where", "what"),
    [
        ("rlhf_jax.atomic.write", refuse),
        ("rlhf_jax.atomic._sync", refuse),
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


def test_saving_is_quick(open_run):
    shapes = [(4, 128, 128)] * 12 + [(128,)] * 80 + [(500, 128)] * 6 + [()] * 40
    rng = np.random.default_rng(0)
    state = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    assert sum(leaf.nbytes for leaf in state) > 4.5e6
    run, seconds = open_run(), []
    for step in range(4):
        start = time.perf_counter()
        run.save(step, state)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.5  # about 0.06 on an idle machine


def test_saving_and_restoring_print_nothing(open_run, capfd):
    run = open_run()
    run.save(1, make_state())
    run.restore(make_state())
    assert capfd.readouterr() == ("", "")


def test_weights_come_back_by_path_and_digest(tmp_path):
    folder, params = tmp_path / "cache" / "weights", make_state(3).params
    told = checkpoint.save_params(folder, params)
    assert told == checkpoint.digest(params)
    assert_same(checkpoint.load_params(folder, make_state(0).params), params)
    before = folder.stat().st_ino
    checkpoint.save_params(folder, params)
    assert folder.stat().st_ino == before  # the same weights are not written again
    other = make_state(4).params
    checkpoint.save_params(folder, other)
    assert_same(checkpoint.load_params(folder, params), other)
    assert os.listdir(folder.parent) == ["weights"]


def test_weights_outlive_a_full_disk(tmp_path, monkeypatch):
    folder = tmp_path / "weights"
    checkpoint.save_params(folder, {"w": jnp.ones(3)})
    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint.Checkpointer.save", native_refusal)
        with pytest.raises(OSError, match="cannot save weights at .* disk is full"):
            checkpoint.save_params(folder, {"w": jnp.zeros(3)})
    target = {"w": jnp.zeros(3)}
    np.testing.assert_array_equal(checkpoint.load_params(folder, target)["w"], 1.0)
    assert os.listdir(tmp_path) == ["weights"]


def test_two_writers_of_the_same_weights_agree(tmp_path, monkeypatch):
    folder, params = tmp_path / "weights", {"w": jnp.ones(3)}
    write = checkpoint._write

    def overtaken(*arguments):
        monkeypatch.setattr(checkpoint, "_write", write)
        checkpoint.save_params(folder, params)
        write(*arguments)

    monkeypatch.setattr(checkpoint, "_write", overtaken)
    assert checkpoint.save_params(folder, params) == checkpoint.digest(params)
    np.testing.assert_array_equal(checkpoint.load_params(folder, params)["w"], 1.0)
    assert os.listdir(tmp_path) == ["weights"]


def test_damaged_or_other_weights_are_refused(tmp_path):
    folder = tmp_path / "weights"
    checkpoint.save_params(folder, {"w": jnp.zeros(3)})
    with pytest.raises(ValueError, match=r"w: saved float32\[3\], wanted float32\[4\]"):
        checkpoint.load_params(folder, {"w": jnp.zeros(4)})
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match="weights are damaged .* delete the folder"):
        checkpoint.load_params(folder, {"w": jnp.zeros(3)})
    checkpoint.save_params(folder, {"w": jnp.ones(3)})
    np.testing.assert_array_equal(
        checkpoint.load_params(folder, {"w": jnp.zeros(3)})["w"], np.ones(3)
    )


def test_the_digest_sees_paths_shapes_types_and_bits():
    zero, minus = jnp.zeros(2), -jnp.zeros(2)
    trees = [
        {"a": zero},
        {"b": zero},
        {"a": minus},
        {"a": zero.reshape(2, 1)},
        {"a": zero.astype(jnp.int32)},
        {"a": zero, "b": zero},
        {"a": jax.random.key(0)},
        {"a": jax.random.key(1)},
    ]
    digests = [checkpoint.digest(tree) for tree in trees]
    assert len(set(digests)) == len(trees)
    assert digests[0] == checkpoint.digest({"a": np.zeros(2, np.float32)})


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.json"
    atomic.write(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(OSError):
            atomic.write(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["file.json"]
    atomic.write(path, b"new")
    assert path.read_bytes() == b"new"
