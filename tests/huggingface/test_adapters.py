"""PEFT's directories: what it computes with them is what we do, both ways."""

import functools
import json

import chex
import directories
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tiny_models
from golden import make

from rlhf_jax import huggingface
from rlhf_jax.huggingface import adapters as hf_adapters
from rlhf_jax.huggingface import fused
from rlhf_jax.models import lora

PLAIN = lora.Config(rank=3, alpha=4.5)
STABLE = lora.Config(rank=3, alpha=2.0, rslora=True)
ATTENTION = "attention/"
QUERY_VALUE = ("attention/query", "attention/value")
EVERYTHING = "attention|mlp"


compiled = functools.cache(tiny_models.compiled)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """case → (folder, model, params) of a golden model, made once."""
    made = {}

    def find(case):
        if case not in made:
            folder = tmp_path_factory.mktemp(case)
            directories.unpack(case, folder)
            made[case] = (folder, *huggingface.load(folder)[:2])
        return made[case]

    return find


def trained(params, config, targets, seed=0):
    """Adapters as training leaves them: nothing is 0, no A equals another."""
    made = lora.init(params, jax.random.key(seed), rank=config.rank, targets=targets)
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: x + jnp.asarray(0.3 * rng.normal(size=x.shape), x.dtype), made
    )


def said(model, params, case):
    """Our answer where tokens are valid (classifiers: everywhere)."""
    tokens, mask = (jnp.array(x, jnp.int32) for x in make.batch(case))
    answer = np.asarray(compiled(model)(params, tokens, mask))
    return shown(answer, case)


def shown(answer, case):
    valid = np.array(make.batch(case)[1], bool)
    return answer[valid] if answer.ndim == 3 else answer


def torch_said(model, case):
    import torch

    tokens, mask = (torch.tensor(x) for x in make.batch(case))
    more = {}
    if case not in make.ENCODERS:
        more["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        answer = model.eval()(tokens, attention_mask=mask, **more).logits
    return shown(answer.numpy(), case)


def in_torch(folder, case):
    """The base as transformers opens it; PEFT changes it in place."""
    import transformers

    auto = transformers.AutoModelForCausalLM
    if "Sequence" in make.CASES[case][0]:
        auto = transformers.AutoModelForSequenceClassification
    return auto.from_pretrained(folder)


def written(folder):
    """(tensors, adapter_config.json) of a directory."""
    tensors = safetensors.numpy.load_file(folder / "adapter_model.safetensors")
    return tensors, json.loads((folder / "adapter_config.json").read_text())


def change(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def rewrite(folder, tensors):
    safetensors.numpy.save_file(tensors, folder / "adapter_model.safetensors")


# From PEFT

THEIRS = {
    "llama": dict(target_modules=["q_proj", "v_proj", "down_proj"], lora_alpha=7),
    "gpt2": dict(
        target_modules=["c_attn", "c_proj", "c_fc"],
        rank_pattern={"attn.c_proj": 5, "c_attn": 2},
        alpha_pattern={"c_fc": 11},
        fan_in_fan_out=True,
    ),
    "neox": dict(target_modules=["query_key_value", "dense"], use_rslora=True),
    "qwen3": dict(target_modules=["q_proj", "up_proj"], layers_to_transform=[1]),
    "llama_tied": dict(target_modules="all-linear"),
    "llama_classifier": dict(target_modules=["k_proj"], task_type="SEQ_CLS"),
    "distilbert": dict(
        target_modules=["q_lin", "lin1"], modules_to_save=["classifier"]
    ),
    "roberta": dict(target_modules=["query", "output.dense"]),
}


@pytest.mark.parametrize("case", THEIRS)
def test_what_peft_wrote_answers_here_as_there(case, base, tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    folder, model, params = base(case)
    asked = {"r": 3, "lora_alpha": 4, "lora_dropout": 0.1, **THEIRS[case]}
    theirs = peft.get_peft_model(in_torch(folder, case), peft.LoraConfig(**asked))
    torch.manual_seed(0)
    with torch.no_grad():
        for name, x in theirs.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                x += 0.3 * torch.randn_like(x)
    theirs.save_pretrained(tmp_path)
    adapters, config = hf_adapters.load(tmp_path, model)
    joined = lora.join(params, adapters, scale=config.scale)
    expected = torch_said(theirs, case)
    np.testing.assert_allclose(said(model, joined, case), expected, rtol=0, atol=1e-4)
    merged = lora.merge(params, adapters, scale=config.scale)
    np.testing.assert_allclose(said(model, merged, case), expected, rtol=0, atol=1e-4)
    assert abs(expected - said(model, params, case)).max() > 0.05


# To PEFT

OURS = {
    "llama": (PLAIN, EVERYTHING),
    "gpt2": (PLAIN, QUERY_VALUE),  # one module there: side by side
    "gpt2_untied": (STABLE, EVERYTHING),  # c_proj is the name of two modules
    "neox": (STABLE, ("attention/key", "mlp/up")),
    "mistral": (PLAIN, "query$"),
    "bert": (PLAIN, EVERYTHING),  # output.dense is the end of two names
}


@pytest.mark.parametrize("case", OURS)
def test_what_is_written_here_answers_in_peft_and_comes_back(case, base, tmp_path):
    folder, model, params = base(case)
    config, targets = OURS[case]
    adapters = trained(params, config, targets)
    target = tmp_path / "adapters"
    hf_adapters.save(target, model, adapters, config, base=str(folder))
    again, read = hf_adapters.load(target, model)
    chex.assert_trees_all_equal_structs(again, adapters)
    chex.assert_trees_all_close(again, adapters, rtol=1e-6, atol=0)
    assert read.scale == pytest.approx(config.scale, rel=1e-12)
    assert (read.rank, read.rslora) == (config.rank, config.rslora)
    peft = pytest.importorskip("peft")
    theirs = peft.PeftModel.from_pretrained(in_torch(folder, case), target)
    asked = theirs.peft_config["default"]
    assert asked.base_model_name_or_path == str(folder)
    joined = lora.join(params, adapters, scale=config.scale)
    ours = said(model, joined, case)
    np.testing.assert_allclose(torch_said(theirs, case), ours, rtol=0, atol=1e-4)
    assert abs(ours - said(model, params, case)).max() > 0.05
    merged = theirs.merge_and_unload()
    np.testing.assert_allclose(torch_said(merged, case), ours, rtol=0, atol=1e-4)


def test_a_trained_head_travels_with_its_adapters(base, tmp_path):
    folder, model, params = base("llama_classifier")
    head = {"kernel": -params["head"]["kernel"], "bias": params["head"]["bias"]}
    adapters = {**trained(params, PLAIN, QUERY_VALUE), "head": head}
    target = tmp_path / "adapters"
    hf_adapters.save(target, model, adapters, PLAIN)
    tensors, described = written(target)
    assert described["task_type"] == "SEQ_CLS"
    assert described["modules_to_save"] == ["score"]
    assert "base_model.model.score.weight" in tensors
    again, _ = hf_adapters.load(target, model)
    assert set(again) == {"trunk", "head"} and set(again["head"]) == {"kernel"}
    joined = lora.join(params, again, scale=PLAIN.scale)
    ours = said(model, joined, "llama_classifier")
    peft = pytest.importorskip("peft")
    theirs = peft.PeftModel.from_pretrained(
        in_torch(folder, "llama_classifier"), target
    )
    there = torch_said(theirs, "llama_classifier")
    np.testing.assert_allclose(there, ours, rtol=0, atol=1e-4)


# Query, key and value in one module


@pytest.mark.parametrize("case", ["gpt2", "neox"])
def test_one_a_for_all_three_parts_stays_one(case, base, tmp_path):
    """As PEFT trains it: rank r there is rank r here, and r again on the way back."""
    _, model, params = base(case)
    adapters = trained(params, PLAIN, ATTENTION)
    parts = adapters["layers"]["attention"]
    for part in ("key", "value"):
        parts[part]["lora_a"] = parts["query"]["lora_a"]
    hf_adapters.save(tmp_path, model, adapters, PLAIN)
    tensors, described = written(tmp_path)
    name = "attn.c_attn" if case == "gpt2" else "attention.query_key_value"
    (fused,) = (k for k in tensors if f"0.{name}.lora_A" in k)
    assert tensors[fused].shape == (3, 16)
    assert described["r"] == 3 and not described["rank_pattern"]
    again, config = hf_adapters.load(tmp_path, model)
    chex.assert_trees_all_equal(again, adapters)
    assert (config.rank, config.alpha) == (PLAIN.rank, PLAIN.alpha)


def test_different_a_matrices_are_concatenated_at_the_same_scale(base, tmp_path):
    _, model, params = base("gpt2")
    adapters = trained(params, PLAIN, (*QUERY_VALUE, "mlp/up"))
    hf_adapters.save(tmp_path, model, adapters, PLAIN)
    tensors, described = written(tmp_path)
    prefix = "base_model.model.transformer.h.1.attn.c_attn.lora_"
    assert tensors[f"{prefix}A.weight"].shape == (6, 16)
    up = tensors[f"{prefix}B.weight"]
    assert up.shape == (48, 6)
    assert up[:16, :3].all() and up[32:, 3:].all()
    assert not up[:16, 3:].any() and not up[16:32].any() and not up[32:, :3].any()
    assert described["r"] == 3 and described["lora_alpha"] == 4.5
    assert described["rank_pattern"] == {"c_attn": 6}
    assert described["alpha_pattern"] == {"c_attn": 9}
    assert described["fan_in_fan_out"]


def test_fresh_adapters_of_a_fused_module_keep_their_a(tmp_path, base):
    """B = 0 tells nothing of who uses what: each part keeps all of A, to train on."""
    _, model, params = base("gpt2")
    fresh = lora.init(params, jax.random.key(0), rank=2, targets=ATTENTION)
    hf_adapters.save(tmp_path, model, fresh, lora.Config(2, 4.0))
    again, config = hf_adapters.load(tmp_path, model)
    assert again["layers"]["attention"]["query"]["lora_a"].shape == (2, 16, 6)
    assert config.scale == 2.0
    chex.assert_trees_all_equal(lora.merge(params, again, scale=2.0), params)


def test_neox_interleaves_its_parts_by_head():
    down, up = np.ones((1, 4, 1), np.float32), np.arange(12, dtype=np.float32)
    _, part = fused.take(down, up.reshape(1, 1, 12), "head_key", heads=2)
    assert part.tolist() == [[[2.0, 3.0, 8.0, 9.0]]]


# Misuse


@pytest.fixture
def spoilt(base, tmp_path):
    """(folder, model) of adapters to spoil."""
    _, model, params = base("llama")
    target = tmp_path / "adapters"
    hf_adapters.save(
        target, model, trained(params, PLAIN, QUERY_VALUE), PLAIN, base="llama"
    )
    return target, model


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"peft_type": "IA3"},
            r"config.json: peft_type 'IA3' is not supported",
        ),
        (
            {"use_dora": True},
            r"use_dora=True: not supported; merge the adapters in PEFT",
        ),
        ({"init_lora_weights": "pissa"}, r"'pissa', which changes the base weights"),
        ({"r": 0}, r"has r=0: more than 0 is needed"),
        ({"r": 5}, r"q_proj.lora_A.weight is \(3, 16\), not \(5, 16\).*model or rank"),
    ],
)
def test_a_config_that_is_not_plain_lora_is_refused(changes, words, spoilt):
    folder, model = spoilt
    change(folder, **changes)
    with pytest.raises(ValueError, match=words):
        hf_adapters.load(folder, model)


def test_tensors_that_do_not_fit_are_named(spoilt, base):
    folder, model = spoilt
    tensors, _ = written(folder)
    strange = {"base_model.model.lm_head.lora_A.weight": np.ones((3, 16), np.float32)}
    rewrite(folder, {**tensors, **strange})
    with pytest.raises(ValueError, match=r"lm_head.lora_A.weight: no layer of this ll"):
        hf_adapters.load(folder, model)
    with pytest.raises(ValueError, match=r"adapters may be on .*self_attn.q_proj, "):
        hf_adapters.load(folder, model)
    with pytest.raises(
        ValueError, match=r"v_proj.lora_B.weight and 1 more: no layer of this gpt2"
    ):
        hf_adapters.load(folder, base("gpt2")[1])
    rewrite(folder, {k: v for k, v in tensors.items() if "1.self_attn.v" not in k})
    adapters, _ = hf_adapters.load(folder, model)  # one layer without
    assert not adapters["layers"]["attention"]["value"]["lora_a"][1].any()
    (lost, *_) = (k for k in tensors if k.endswith("lora_B.weight"))
    rewrite(folder, {k: v for k, v in tensors.items() if k != lost})
    with pytest.raises(ValueError, match=r"lacks .*lora_B.weight"):
        hf_adapters.load(folder, model)
    rewrite(folder, {})
    with pytest.raises(ValueError, match=r"it is empty"):
        hf_adapters.load(folder, model)


def test_folders_that_are_something_else_are_left_alone(spoilt, base, tmp_path):
    folder, model = spoilt
    _, _, params = base("llama")
    adapters = trained(params, PLAIN, QUERY_VALUE)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo").write_text("x")
    with pytest.raises(ValueError, match="holds something other than adapters"):
        hf_adapters.save(tmp_path / "notes", model, adapters, PLAIN)
    hf_adapters.save(folder, model, adapters, PLAIN)  # an older one: replaced
    with pytest.raises(
        ValueError, match="is not an adapter directory: it has no adapter"
    ):
        hf_adapters.load(tmp_path / "notes", model)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(
        ValueError, match=r"has no adapter_model.safetensors: save the adapters"
    ):
        hf_adapters.load(folder, model)


def test_a_value_network_has_no_file_format(spoilt):
    folder, model = spoilt
    bound = lora.Bound(model, {}, 1.0)
    with pytest.raises(ValueError, match="Bound has no file format"):
        hf_adapters.save(folder, bound, {}, PLAIN)
