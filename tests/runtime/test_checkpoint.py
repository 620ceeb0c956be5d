"""Checkpoints: bit for bit, and never believed when damaged."""

import shutil
import time

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from kept_states import assert_same, bits, make_state

from rlhf_jax.runtime import checkpoint, files, packing


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


def test_large_leaves_are_saved_separately_and_sharded(open_run, monkeypatch):
    monkeypatch.setattr(packing, "SEPARATE", 64)
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


def files_of(run):
    return sorted(p for p in run.folder.rglob("*") if p.is_file())


def test_a_flipped_bit_is_noticed_wherever_it_is(open_run, reports, rng):
    run = open_run()
    run.save(1, make_state(1))
    run.save(2, make_state(2))
    newest = [p for p in files_of(run) if "step_00000002" in p.parts]
    assert len(newest) >= 5
    for path in newest:
        whole = path.read_bytes()
        positions = {0, len(whole) - 1, *rng.integers(0, len(whole), 5).tolist()}
        for position in positions:
            broken = bytearray(whole)
            broken[position] ^= 1 << int(rng.integers(8))
            path.write_bytes(broken)
            with pytest.raises(files.Damaged):
                files.unseal(run.folder / "step_00000002")
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
    for path in files_of(run):
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
    monkeypatch.setattr(packing, "FORMAT", 9)
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
            run.folder / "step_00000001", run.folder / f"{files.PREFIX}{name}"
        )
    run = open_run()
    assert [p.name for p in run.folder.iterdir()] == ["step_00000001"]


def test_saving_is_quick(open_run):
    shapes = [(4, 128, 128)] * 12 + [(128,)] * 80 + [(500, 128)] * 6 + [()] * 40
    rng = np.random.default_rng(0)
    state = [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]
    assert sum(leaf.nbytes for leaf in state) > 4.5e6
    run, seconds = open_run(), []
    for step in range(4):
        start = time.process_time()  # of this process alone: others may be at work
        run.save(step, state)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.5


def test_saving_and_restoring_print_nothing(open_run, capfd):
    run = open_run()
    run.save(1, make_state())
    run.restore(make_state())
    assert capfd.readouterr() == ("", "")
