"""Two directories of one shape: read as a pair, averaged in memory and from disk."""

import json

import chex
import directories
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import averaging, huggingface
from rlhf_jax.huggingface import comparable, streamed

FUSED = ("gpt2", "neox", "llama_tied", "gemma3")


def pair_of(case, folder, *, dtype="float32"):
    """Folders of a golden model and of one that was trained from it."""
    before, after = folder / "before", folder / "after"
    before.mkdir()
    directories.unpack(case, before)
    model, params, tokenizer = huggingface.load(before)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(
        lambda x: jnp.asarray(x + 0.1 * rng.normal(size=x.shape), dtype), params
    )
    huggingface.save(after, model, moved, tokenizer)
    return before, after


@pytest.mark.parametrize("case", FUSED)
def test_a_pair_is_what_both_directories_hold(case, tmp_path):
    before, after = pair_of(case, tmp_path)
    pair = comparable.read(before, after)
    found = comparable.load(pair)
    for folder, params in zip((before, after), found, strict=True):
        model, expected, _ = huggingface.load(folder)
        chex.assert_trees_all_equal(params, expected)
        assert model == pair.model
    assert pair.notes == () and pair.dtype == "float32"


@pytest.mark.parametrize("case", FUSED)
def test_an_average_in_several_files_is_the_saved_one(case, tmp_path):
    pair = comparable.read(*pair_of(case, tmp_path))
    between = averaging.interpolate(*comparable.load(pair), 0.3)
    tokenizer, size = pair.tokenizer, 4000
    huggingface.save(
        tmp_path / "memory", pair.model, between, tokenizer, max_shard_bytes=size
    )
    streamed.average(tmp_path / "disk", pair, 0.3, max_shard_bytes=size)
    names = sorted(path.name for path in (tmp_path / "memory").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "disk").iterdir())
    assert sum(name.endswith(".safetensors") for name in names) > 1
    for name in names:
        one, two = (tmp_path / which / name for which in ("memory", "disk"))
        assert one.read_bytes() == two.read_bytes(), name


def test_the_ends_are_stored_as_they_are_on_disk(tmp_path):
    before, after = pair_of("llama", tmp_path, dtype="bfloat16")
    pair = comparable.read(before, after)
    assert pair.dtype == "bfloat16"
    streamed.average(tmp_path / "end", pair, 1.0)
    same, expected = directories.read(tmp_path / "end"), directories.read(after)
    assert set(same[0]) == set(expected[0])
    for name, tensor in expected[0].items():
        assert same[0][name].tobytes() == tensor.tobytes()
    assert same[1]["dtype"] == "bfloat16"


def test_a_shorter_context_is_used_and_said(tmp_path):
    before, after = pair_of("llama", tmp_path)
    described = json.loads((after / "config.json").read_text())
    longest = described["max_position_embeddings"]
    directories.change(after, max_position_embeddings=longest // 2)
    pair = comparable.read(before, after)
    assert pair.model.config.max_length == longest // 2
    assert f"contexts of {longest} and {longest // 2}" in pair.notes[0]


def test_a_directory_that_lacks_a_tensor_is_refused_before_any_is_read(tmp_path):
    before, after = pair_of("llama", tmp_path)
    directories.change(after, num_hidden_layers=1)
    with pytest.raises(ValueError, match="differ: layers"):
        comparable.read(before, after)
    directories.change(before, num_hidden_layers=1)
    with pytest.raises(ValueError, match="left over: layers.1"):
        comparable.read(before, after)
