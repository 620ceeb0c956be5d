"""Weights saved by path and digest."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from kept_states import assert_same, make_state, native_refusal

from rlhf_jax.runtime import checkpoint, packing


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
    write = packing.write

    def overtaken(*arguments):
        monkeypatch.setattr(packing, "write", write)
        checkpoint.save_params(folder, params)
        write(*arguments)

    monkeypatch.setattr(packing, "write", overtaken)
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
