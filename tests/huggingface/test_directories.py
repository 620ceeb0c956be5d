"""Model directories: what is on disk comes to where it is wanted, and back, whole."""

import functools
import json
import shutil
import tracemalloc

import chex
import directories
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny_models
import transformers
from directories import read, unpack
from golden import make

from rlhf_jax import huggingface, sampling, trees
from rlhf_jax.huggingface import weights
from rlhf_jax.models import config, decoder, heads
from rlhf_jax.types import Prompts

GREEDY = (
    ", there was a little girl named Lily. She loved to play outside in the park. One "
    "day, she saw a big, red ball. She wanted to play with it, but it was too high."
)


@pytest.fixture
def llama(tmp_path):
    """A directory with a Llama, to spoil."""
    folder = tmp_path / "llama"
    folder.mkdir()
    unpack("llama", folder)
    return folder


# Real models


def test_a_real_model_writes_its_known_story(data_folder, tmp_path):
    source = data_folder / "models" / "stories260k"
    if not source.is_dir():
        pytest.skip(f"no model at {source}")
    stories = huggingface.load(source)
    assert tell(*stories) == GREEDY
    huggingface.save(tmp_path / "again", *stories)
    model, params, tokenizer = huggingface.load(tmp_path / "again")
    chex.assert_trees_all_equal(params, stories[1])
    assert tell(model, params, tokenizer) == GREEDY


def tell(model, params, tokenizer):
    """The greedy continuation of "Once upon a time", by our sampler."""
    tokens = jnp.array([tokenizer("Once upon a time")["input_ids"]], jnp.int32)
    settings = sampling.Config(max_new_tokens=58, temperature=0.0, eos_ids=(2,))
    prompts = Prompts(tokens, jnp.ones_like(tokens))
    keys = sampling.row_keys(jax.random.key(0), jnp.arange(1))
    run = jax.jit(lambda p: sampling.generate(model, p, prompts, keys, config=settings))
    response = np.array(run(params).tokens[0, tokens.shape[1] :])
    return tokenizer.decode(response, skip_special_tokens=True).partition("\n")[0]


def test_a_real_model_says_what_transformers_says(data_folder, tmp_path):
    torch = pytest.importorskip("torch")
    source = data_folder / "models" / "stories260k"
    if not source.is_dir():
        pytest.skip(f"no model at {source}")
    stories = huggingface.load(source)
    huggingface.save(tmp_path / "again", *stories)
    model, params, tokenizer = stories
    ids = np.array([tokenizer("The dog ran to the big house and barked.")["input_ids"]])
    ours = tiny_models.compiled(model)(params, jnp.array(ids, jnp.int32))
    for folder in (source, tmp_path / "again"):
        theirs = transformers.AutoModelForCausalLM.from_pretrained(folder)
        with torch.no_grad():
            logits = theirs(torch.tensor(ids)).logits.numpy()
        np.testing.assert_allclose(ours, logits, rtol=0, atol=1e-4)
    start = torch.tensor([tokenizer("Once upon a time")["input_ids"]])
    story = theirs.generate(start, max_new_tokens=58, do_sample=False)[0]
    assert GREEDY in tokenizer.decode(story)


# Directories


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_on_disk_becomes_float32_in_memory(llama, tmp_path, dtype):
    model, params, tokenizer = huggingface.load(llama)
    half = jax.tree.map(lambda x: x.astype(dtype), params)
    huggingface.save(tmp_path / "half", model, half, tokenizer)
    tensors, described = read(tmp_path / "half")
    assert described["dtype"] == dtype
    assert {x.dtype.name for x in tensors.values()} == {dtype}
    again, read_back, _ = huggingface.load(tmp_path / "half")
    assert again.config.dtype == "float32"
    chex.assert_trees_all_equal(
        read_back, jax.tree.map(lambda x: x.astype(jnp.float32), half)
    )
    again, kept, _ = huggingface.load(tmp_path / "half", dtype=dtype)
    assert again.config.dtype == dtype
    chex.assert_trees_all_equal(kept, half)


def test_weights_in_several_files_are_one_model(llama):
    whole = huggingface.load(llama)[1]
    tensors, _ = read(llama)
    (llama / "model.safetensors").unlink()
    halves = {
        "a.safetensors": sorted(tensors)[::2],
        "b.safetensors": sorted(tensors)[1::2],
    }
    for file, listed in halves.items():
        part = {name: tensors[name] for name in listed}
        safetensors.numpy.save_file(part, llama / file)
    index = {name: file for file, listed in halves.items() for name in listed}
    (llama / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": index})
    )
    chex.assert_trees_all_equal(huggingface.load(llama)[1], whole)
    (llama / "b.safetensors").unlink()
    with pytest.raises(
        ValueError, match="lacks b.safetensors, which .*index.json names"
    ):
        huggingface.load(llama)


def test_old_gpt2_files_without_prefix_and_with_masks_are_read(tmp_path):
    unpack("gpt2", tmp_path)
    new = huggingface.load(tmp_path)[1]
    tensors, _ = read(tmp_path)
    old = {name.removeprefix("transformer."): x for name, x in tensors.items()}
    old["h.0.attn.bias"] = old["h.1.attn.masked_bias"] = np.zeros((1, 1, 16, 16))
    old["lm_head.weight"] = old["wte.weight"]
    safetensors.numpy.save_file(old, tmp_path / "model.safetensors")
    chex.assert_trees_all_equal(huggingface.load(tmp_path)[1], new)


def test_older_llama_configurations_are_understood(llama):
    described = json.loads((llama / "config.json").read_text())
    del described["rope_parameters"], described["num_key_value_heads"]
    del described["head_dim"]
    rope = dict(type="llama3", factor=2.0, low_freq_factor=1.0, high_freq_factor=4.0)
    described |= dict(rope_theta=500.0, tie_word_embeddings=True)
    described["rope_scaling"] = rope | {"original_max_position_embeddings": 8}
    tensors, _ = read(llama)
    grown = {
        name: np.concatenate([x, x]) if "k_proj" in name or "v_proj" in name else x
        for name, x in tensors.items()
    }
    safetensors.numpy.save_file(grown, llama / "model.safetensors")
    (llama / "config.json").write_text(json.dumps(described))
    result = huggingface.load(llama)[0].config
    assert (result.rope_theta, result.kv_heads, result.head_dim) == (500.0, 4, 4)
    assert result.tied and result.rope_scaling == config.RopeScaling(2.0, 1.0, 4.0, 8)


def test_a_reward_model_keeps_its_head_and_bias(llama, tmp_path):
    decoded, params, tokenizer = huggingface.load(llama)
    model = heads.Classifier(decoded.config)
    head = {"kernel": jnp.ones((16, 1)), "bias": jnp.array([0.25])}
    reward = heads.from_decoder(params, head)
    huggingface.save(tmp_path / "reward", model, reward, tokenizer)
    again, kept, _ = huggingface.load(tmp_path / "reward")
    assert again == model
    assert read(tmp_path / "reward")[1]["score_offset"] == [0.25]
    chex.assert_trees_all_equal(kept, reward)
    reward["head"]["bias"] *= 0
    huggingface.save(tmp_path / "reward", model, reward, tokenizer)
    tensors, described = read(tmp_path / "reward")
    assert "score.weight" in tensors and "score.bias" not in tensors
    assert "score_offset" not in described
    assert described["architectures"] == ["LlamaForSequenceClassification"]
    chex.assert_trees_all_equal(huggingface.load(tmp_path / "reward")[1], reward)


def test_large_models_go_to_several_files_and_come_back(llama, tmp_path):
    model, params, tokenizer = huggingface.load(llama)
    whole = read(llama)[0]
    total = sum(x.nbytes for x in whole.values())
    largest = 3000
    path = tmp_path / "split"
    huggingface.save(path, model, params, tokenizer, max_shard_bytes=largest)
    files = sorted(path.glob("*.safetensors"))
    index = json.loads((path / "model.safetensors.index.json").read_text())
    result = {}
    for file in files:
        part = safetensors.numpy.load_file(file)
        assert sum(x.nbytes for x in part.values()) <= largest
        assert {index["weight_map"][name] for name in part} == {file.name}
        result |= part
    assert files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    assert total / largest <= len(files) <= 2 * total / largest
    assert index["metadata"]["total_size"] == total
    chex.assert_trees_all_equal(result, whole)
    chex.assert_trees_all_equal(huggingface.load(path)[1], params)
    # One may take the place of the other, and leaves nothing of it.
    huggingface.save(path, model, params, tokenizer)
    assert [file.name for file in path.glob("model*")] == ["model.safetensors"]


# Placement


@pytest.fixture(scope="module")
def mesh():
    return jax.make_mesh((4,), ("data",))


def by_width(mesh, path, shape):
    """Shared out along the last axis where four devices divide it."""
    axes = [None] * len(shape)
    if shape[-1] % 4 == 0:
        axes[-1] = "data"
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*axes))


def test_parameters_get_the_sharding_asked_for(llama, mesh):
    plain = huggingface.load(llama)[1]
    everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    params = huggingface.load(llama, sharding=everywhere)[1]
    assert all(x.sharding == everywhere for x in jax.tree.leaves(params))
    chex.assert_trees_all_equal(params, plain)
    asked = {}

    def choose(path, shape):
        asked[path] = shape
        return by_width(mesh, path, shape)

    params = huggingface.load(llama, sharding=choose)[1]
    chex.assert_trees_all_equal(params, plain)
    leaves = dict(zip(trees.paths(params), jax.tree.leaves(params), strict=True))
    assert asked == {path: x.shape for path, x in leaves.items()}
    for path, x in leaves.items():
        assert x.sharding == by_width(mesh, path, x.shape)
    up = leaves["layers/mlp/up/kernel"]
    assert {part.data.shape for part in up.addressable_shards} == {(2, 16, 6)}
    each = jax.tree.map(lambda x: x.sharding, params)
    chex.assert_trees_all_equal(huggingface.load(llama, sharding=each)[1], plain)


def test_a_layout_that_does_not_fit_is_named_before_anything_is_read(llama, mesh):
    odd = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    with pytest.raises(ValueError, match=r"embedding/token \(29, 16\) cannot be laid"):
        huggingface.load(llama, sharding=odd)
    with pytest.raises(ValueError, match="sharding of embedding/token is 'data'"):
        huggingface.load(llama, sharding=lambda path, shape: "data")


def traced_peak(run):
    """(what `run` returns, the most memory Python's allocators held for it)."""
    tracemalloc.start()
    try:
        return run(), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_loading_holds_what_stays_and_twice_the_largest(llama, mesh):
    c = config.llama(
        vocab_size=256, width=256, layers=4, heads=4, hidden=256, max_length=8
    )
    model = decoder.Decoder(c)
    huggingface.load(llama)  # what it imports is not measured
    params = tiny_models.draw(model)
    huggingface.save(llama, model, params, directories.TOKENIZER)
    sizes = [x.nbytes for x in jax.tree.leaves(params)]
    room = 2 * max(sizes) + 2**19
    assert room < sum(sizes) / 2
    # Nothing stays.
    sums, peak = traced_peak(
        lambda: weights.read(
            llama, params, "llama", 4, np.float32, lambda path, array: array.sum()
        )
    )
    assert peak < room
    np.testing.assert_allclose(
        jax.tree.leaves(sums),
        [x.sum() for x in jax.tree.leaves(params)],
        rtol=1e-3,
        atol=1e-2,
    )
    # All stays, perhaps in memory that is traced.
    for sharding in (None, lambda *leaf: by_width(mesh, *leaf)):
        load = functools.partial(huggingface.load, llama, sharding=sharding)
        (_, held, _), peak = traced_peak(load)
        assert peak < sum(sizes) + room
        chex.assert_trees_all_equal(held, params)


def test_padding_beyond_the_embedding_is_no_token_of_the_configuration(llama, tmp_path):
    model, params, _ = huggingface.load(llama)
    tokenizer = directories.word_tokenizer()
    tokenizer.pad_token = None
    tokenizer.add_tokens([f"w{i}" for i in range(make.VOCAB - len(tokenizer))])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == make.VOCAB
    huggingface.save(tmp_path / "padded", model, params, tokenizer)
    _, described = read(tmp_path / "padded")
    assert described["pad_token_id"] is None and described["eos_token_id"] == 2
    assert huggingface.load(tmp_path / "padded")[2].pad_token_id == make.VOCAB


# Faults


def test_every_tensor_that_does_not_fit_is_named_at_once(llama):
    tensors, _ = read(llama)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.norm.weight"] = np.ones(17, np.float32)
    tensors["model.layers.2.mlp.up_proj.weight"] = np.ones(1, np.float32)
    safetensors.numpy.save_file(tensors, llama / "model.safetensors")
    with pytest.raises(ValueError) as failure:
        huggingface.load(llama)
    message = str(failure.value)
    assert "missing: layers.1.mlp.up_proj.weight;" in message
    assert "misshapen: norm.weight is (17,), not (16,);" in message
    assert message.endswith("left over: layers.2.mlp.up_proj.weight")
    assert "\n" not in message


def test_an_untied_model_needs_its_unembedding(llama):
    tensors, _ = read(llama)
    del tensors["lm_head.weight"]
    safetensors.numpy.save_file(tensors, llama / "model.safetensors")
    with pytest.raises(ValueError, match="missing: lm_head.weight"):
        huggingface.load(llama)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "t5"}, "model_type 't5' is not one of .*gpt2.*llama"),
        ({"hidden_act": "mish"}, "activation 'mish' is not one of"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn' is not one of"),
        ({"hidden_size": None}, "config.json has no 'hidden_size'"),
        ({"model_type": "gpt2"}, "config.json has no 'n_embd'"),
        ({"num_key_value_heads": 3}, "heads=4 and kv_heads=3: every key-value head"),
    ],
)
def test_a_configuration_that_is_not_understood_says_why(llama, changes, message):
    directories.change(llama, **changes)
    with pytest.raises(ValueError, match=message):
        huggingface.load(llama)


def test_gpt2_variants_that_compute_otherwise_are_refused(tmp_path):
    unpack("gpt2", tmp_path)
    directories.change(tmp_path, scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(ValueError, match="scale_attn_by_inverse_layer_idx=True: not"):
        huggingface.load(tmp_path)


def test_a_directory_that_is_not_there_or_no_model_says_so_in_one_line(llama, tmp_path):
    faults = {
        tmp_path / "nothing": "no model directory .*nothing",
        tmp_path: "is not a model directory: it has no config.json",
        "some-lab/some-model": "the hub did not give one .*hf download some-lab",
    }
    for path, message in faults.items():
        with pytest.raises(ValueError, match=message) as failure:
            huggingface.load(path)
        assert "\n" not in str(failure.value)
    (llama / "model.safetensors").unlink()
    with pytest.raises(
        ValueError, match="has no model.safetensors: save the model again"
    ):
        huggingface.load(llama)


def test_a_directory_without_a_tokenizer_says_so(llama):
    for file in llama.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ValueError, match="has no tokenizer that transformers can read"):
        huggingface.load(llama)


def test_saving_replaces_a_model_and_refuses_anything_else(llama, tmp_path):
    loaded = huggingface.load(llama)
    huggingface.save(llama, *loaded)
    chex.assert_trees_all_equal(huggingface.load(llama)[1], loaded[1])
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds something other than a model"):
        huggingface.save(run, *loaded)
    assert [file.name for file in run.iterdir()] == ["config.json"]


def test_a_save_that_fails_leaves_what_was_there(llama, tmp_path):
    model, params, _ = huggingface.load(llama)
    before = read(llama)

    class Broken:
        bos_token_id = eos_token_id = pad_token_id = None

        def save_pretrained(self, folder):
            raise OSError("the disk is full")

    for path in (llama, tmp_path / "fresh"):
        with pytest.raises(OSError, match="the disk is full"):
            huggingface.save(path, model, params, Broken())
    chex.assert_trees_all_equal(read(llama)[0], before[0])
    assert [path.name for path in tmp_path.iterdir()] == ["llama"]


def test_a_configuration_of_no_family_is_not_saved(llama, tmp_path):
    model, params, tokenizer = huggingface.load(llama)
    odd = decoder.Decoder(
        config.gpt2(vocab_size=9, width=8, layers=1, heads=2, norm="rms")
    )
    with pytest.raises(ValueError, match="the nearest, gpt2, needs {'norm': 'layer'}"):
        huggingface.save(tmp_path / "odd", odd, {}, tokenizer)
    with pytest.raises(ValueError, match="Value has no file format"):
        huggingface.save(tmp_path / "odd", heads.Value(model.config), params, tokenizer)
    assert not (tmp_path / "odd").exists()


def test_a_copied_directory_is_enough(llama, tmp_path):
    shutil.copytree(llama, tmp_path / "copy")
    chex.assert_trees_all_equal(
        huggingface.load(str(tmp_path / "copy"))[1], huggingface.load(llama)[1]
    )
