"""Directories that are no whole model: refused in one line, with what to do."""

import json
import shutil

import directories
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from rlhf_jax import huggingface
from rlhf_jax.huggingface import adapters, tokenizer_files, weight_files
from rlhf_jax.tasks import models

WEIGHTS, INDEX, CONFIG = "model.safetensors", weight_files.INDEX, "config.json"
TENSOR = "model.layers.1.mlp.up_proj.weight"
TURNS = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "llama"
    folder.mkdir()
    directories.unpack("llama", folder)
    return folder


@pytest.fixture
def llama(whole, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(whole, tmp_path / "llama")


def refused(folder, *words):
    """What loading a directory says, in one line that has these words."""
    with pytest.raises(ValueError) as failure:
        huggingface.load(folder)
    message = str(failure.value)
    assert "\n" not in message and str(folder) in message
    for word in words:
        assert word in message, message


def half(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (half, "is damaged or no safetensors file (Error while deserializing"),
        (lambda content: b"", "(0 bytes) is damaged or no safetensors file"),
        (lambda content: b"\xff" * 8 + content[8:], "header too large"),
        (
            lambda content: b"version https://git-lfs.github.com/spec/v1\noid sha256:0",
            "is a git-lfs pointer in place of the weights: fetch them with `git lfs",
        ),
    ],
)
def test_a_damaged_weight_file_is_named(llama, spoil, words):
    file = llama / WEIGHTS
    file.write_bytes(spoil(file.read_bytes()))
    refused(llama, f"{file} ", words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{nope", "cannot be read as JSON (Expecting property name"),
        ("[]", "holds list, not an object with named entries"),
        ("{}", "has no weight_map from tensors to files"),
        ('{"weight_map": {"a": 3}}', "has no weight_map from tensors to files"),
        ('{"weight_map": {"a": "b.safetensors"}}', "lacks b.safetensors, which model."),
    ],
)
def test_an_index_that_leads_nowhere_is_named(llama, content, words):
    (llama / INDEX).write_text(content)
    refused(llama, INDEX, words, "download or copy it")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.q4_1.gguf"])
def test_weights_in_other_formats_are_named(llama, name):
    (llama / WEIGHTS).rename(llama / name)
    refused(llama, f"has no {WEIGHTS}, only {name}, which is not read", "save_pretrain")


def rewrite(folder, change):
    """One tensor as `change` makes it."""
    tensors, _ = directories.read(folder)
    tensors[TENSOR] = change(tensors[TENSOR])
    safetensors.numpy.save_file(tensors, folder / WEIGHTS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_are_not_finite_are_named(llama, bad, dtype):
    rewrite(llama, lambda x: np.where(np.arange(x.size).reshape(x.shape) == 5, bad, x))
    words = f"{TENSOR} has 1 of 384 numbers that are NaN or infinite"
    with pytest.raises(ValueError, match=words) as failure:
        huggingface.load(llama, dtype=dtype)
    assert str(llama / WEIGHTS) in str(failure.value)


def test_finite_weights_whose_sum_overflows_are_read(llama):
    rewrite(llama, lambda x: np.full_like(x, 3e38))
    params = huggingface.load(llama)[1]
    assert np.isfinite(params["layers"]["mlp"]["up"]["kernel"]).all()


@pytest.mark.parametrize(("dtype", "stored"), [("int8", "I8"), ("int32", "I32")])
def test_integer_weights_are_named(llama, dtype, stored):
    rewrite(llama, lambda x: x.astype(dtype))
    refused(llama, f"{TENSOR} is {stored}: quantized and integer weights are not train")


def test_quantized_weights_are_named(llama):
    directories.change(llama, quantization_config={"quant_method": "bitsandbytes"})
    refused(llama, "config.json has a quantization_config (bitsandbytes)", "dequantize")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "cannot be read as JSON (Expecting value"),
        ("{nope", "cannot be read as JSON (Expecting property name"),
        ("null", "holds NoneType, not an object"),
        ("{}", "has no model_type"),
        ('{"model_type": "llama", "architectures": "Llama"}', "give a list of names"),
        (b'{"model_type": "\xe4"}', "cannot be read as JSON ('utf-8' codec"),
    ],
)
def test_a_config_that_is_no_model_s_is_named(llama, content, words):
    content = content if isinstance(content, bytes) else content.encode()
    (llama / CONFIG).write_bytes(content)
    refused(llama, CONFIG, words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hidden_size": 32}, "norm.weight is (16,), not (32,)"),
        ({"num_hidden_layers": 3}, "missing: layers.2.input_layernorm.weight"),
        ({"num_hidden_layers": 1}, "left over: layers.1.input_layernorm.weight"),
        ({"vocab_size": 100}, "embed_tokens.weight is (29, 16), not (100, 16)"),
        ({"rope_parameters": "x"}, "rope_parameters='x': not an object"),
        ({"rope_parameters": {"rope_theta": 0}}, "rope_theta=0: must be above 0"),
    ],
)
def test_a_config_that_disagrees_with_the_weights_says_where(llama, changes, words):
    directories.change(llama, **changes)
    refused(llama, CONFIG, words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{nope", "cannot be read as JSON"),
        ('{"eos_token_id": "x"}', "eos_token_id 'x' is no token of the model"),
        ('{"eos_token_id": [2, 999]}', "eos_token_id 999 is no token of the model"),
    ],
)
def test_end_tokens_that_cannot_be_are_named(llama, content, words):
    (llama / "generation_config.json").write_text(content)
    refused(llama, "generation_config.json", words)


# Tokenizers


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_broken_tokenizer_file_is_named(llama, file):
    path = llama / file
    path.write_bytes(half(path.read_bytes()))
    refused(llama, f"no tokenizer that transformers can read: {file} is no JSON")


def test_a_tokenizer_file_of_another_kind_is_named(llama):
    (llama / "tokenizer.json").write_text('{"model": {"type": "Nonsense"}}')
    refused(llama, "tokenizer.json is damaged or of another kind", "copy there that of")


def test_a_missing_tokenizer_is_named(llama):
    (llama / "tokenizer.json").unlink()
    refused(llama, "no tokenizer that transformers can read: there is no tokenizer.jso")


def test_tokens_beyond_the_embedding_are_named_unless_masks_hide_them(llama):
    tokenizer = huggingface.load_tokenizer(llama)
    room = 29 - len(tokenizer)
    tokenizer.add_tokens([f"extra{i}" for i in range(room + 5)])
    tokenizer.save_pretrained(llama)
    shown = f"'extra{room}' (29), 'extra{room + 1}' (30), 'extra{room + 2}' (31) and 2"
    refused(llama, "embedding of 29 rows does not have", shown, "resize_token_embeddi")
    tokenizer = directories.word_tokenizer()
    tokenizer.add_tokens([f"extra{i}" for i in range(room)])
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer_files.check_ids(llama, tokenizer, 29)
    assert tokenizer.pad_token_id == 29


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{% for m in messages %}{{ m.content }", "fails .*TemplateSyntaxError"),
        ("{{ raise_exception('never') }}", r"fails .*\(TemplateError: never\)"),
        ("{{ messages[0].nothing.more }}", "fails .*UndefinedError"),
        ("{{ messages | nosuch }}", "fails .*No filter named 'nosuch'"),
        ("hello", "renders 'hello' whatever is said"),
        ("{{ messages[0].content }}", "leaves out what the assistant says"),
        ("{{ messages[1].content }}", "leaves out what the user says"),
    ],
)
def test_a_chat_template_that_cannot_be_learned_from_is_refused(template, words):
    tokenizer = directories.word_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ValueError, match=f"--model: its chat template {words}") as no:
        tokenizer_files.check_template("--model", tokenizer)
    assert "\n" not in str(no.value) and "chat_template.jinja" in str(no.value)


def test_models_of_recipes_have_working_chat_templates(llama):
    words = rf"--policy {llama}: its chat template renders 'hello'"
    loaded = huggingface.load(llama)
    loaded[2].chat_template = TURNS
    assert models.read("--policy", loaded)[2] is loaded[2]
    loaded[2].chat_template = "hello"
    with pytest.raises(ValueError, match="--policy: its chat template renders 'hello'"):
        models.read("--policy", loaded)
    loaded[2].save_pretrained(llama)
    with pytest.raises(ValueError, match=words):
        models.read("--policy", llama)


# Adapters


@pytest.fixture
def adapted(tmp_path):
    """A directory of adapters with one tensor, to spoil."""
    described = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
    (tmp_path / "adapter_config.json").write_text(json.dumps(described))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    tensors = {name: np.ones((1, 16), np.float32)}
    safetensors.numpy.save_file(tensors, tmp_path / "adapter_model.safetensors")
    return tmp_path, name, tensors


def test_damaged_adapters_are_named(adapted, whole):
    folder, name, tensors = adapted
    model = huggingface.load(whole)[0]
    file = folder / "adapter_model.safetensors"
    for array, words in (
        (np.full((1, 16), np.nan, np.float32), f"{name} has 16 of 16 numbers that are"),
        (np.ones((1, 16), np.int8), f"{name} is I8: quantized and integer"),
    ):
        safetensors.numpy.save_file({name: array}, file)
        with pytest.raises(ValueError, match=words):
            adapters.load(folder, model)
    file.write_bytes(b"")
    with pytest.raises(ValueError, match=r"\(0 bytes\) is damaged or no safetensors"):
        adapters.load(folder, model)
    (folder / "adapter_config.json").write_text("{nope")
    with pytest.raises(ValueError, match="adapter_config.json cannot be read as JSON"):
        adapters.load(folder, model)


def test_what_is_written_in_bfloat16_is_checked_in_bfloat16():
    fine = jnp.asarray([1.0, -3e38, 0.0], jnp.bfloat16)
    assert weight_files.finite(np.asarray(fine))
    for bad in (np.nan, np.inf, -np.inf):
        assert not weight_files.finite(np.asarray(fine.at[1].set(bad)))
