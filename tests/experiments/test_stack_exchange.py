"""StackLLaMA: its published settings, and all of its stages at their smallest."""

import dataclasses
import json
import math
import re
import sys

import jax
import numpy as np
import pytest
import small_recipes

from experiments import sft, stack_exchange
from experiments.stack_exchange import parts, published, task
from rlhf_jax import huggingface
from rlhf_jax.cli import presets
from rlhf_jax.models import decoder, heads
from rlhf_jax.runtime import metrics_log

transformers = pytest.importorskip("transformers")
ROWS = [
    {"question": r["prompt"], "response_j": r["chosen"], "response_k": r["rejected"]}
    for r in small_recipes.PAIRS
]
FLAGS = {
    "save_every": 2,
    "steps": 4,
    "eval_every": 3,
    "suite_questions": 6,
    "methods": ("zero_shot", "ppo_kl", "elastic_reset_kl", "ppo_kl_ma50"),
    "export": ("elastic_reset_kl",),
    "sft_length": 32,
    "sft__steps": 3,
    "sft__rows": 4,
    "reward_fit__steps": 3,
    "reward_fit__rows": 4,
    "data__length": 60,
    "data__prompt_length": 44,
    "answers__longest": 8,
    "answers__shortest": 3,
    "answers__window": 32,
    "answers__stride": 16,
    "lora__rank": 2,
    "rl__rows": 4,
    "rl__epochs": 2,
    "rl__reset_every": 2,
    "rl__learning_rate": 0.01,
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a tiny model, pairs as Stack Exchange's, and a suite."""
    home = tmp_path_factory.mktemp("home")
    small_recipes.model(home, template=False)
    small_recipes.lines(home / "pairs.jsonl", ROWS)
    texts = [{"text": f"the {w} cat sat on the {w} mat"} for w in small_recipes.WORDS]
    small_recipes.lines(home / "stories.jsonl", texts)
    return home


def flags(home, **changes):
    given = {
        "policy": home / "model",
        "dataset": home / "pairs.jsonl",
        "suites": f"{home / 'stories.jsonl'}:test",
        "output": home / "run",
    }
    return {**given, **FLAGS, **changes}


@pytest.fixture(scope="module")
def place(home):
    """The folder of a finished run."""
    names = "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"
    before = [getattr(jax.config, name) for name in names]
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_recipes.share(monkeypatch)
        for name, value in zip(names, (str(home / "programs"), 0.0), strict=True):
            jax.config.update(name, value)
        yield small_recipes.run(stack_exchange, **flags(home))
    for name, value in zip(names, before, strict=True):
        jax.config.update(name, value)


# All stages


def test_every_stage_leaves_a_model_that_opens(place):
    for name, kind, labels in (
        ("sft", decoder.Decoder, None),
        ("reward_model", heads.Classifier, 1),
        ("judge", heads.Classifier, 1),
        ("models/elastic_reset_kl", decoder.Decoder, None),
    ):
        folder = place / name / "model" if "/" not in name else place / name
        model, _, _ = huggingface.load(folder)
        assert isinstance(model, kind)
        assert labels is None or model.labels == labels
        transformers.AutoConfig.from_pretrained(folder)
    assert (place / "models" / "elastic_reset_kl-adapters").is_dir()


def test_stages_learn_from_questions_of_their_own(place):
    asked = {}
    for name in ("finetune", "reward", "judge", "evaluation"):
        rows = metrics_log.read(place / "data" / f"{name}.jsonl")
        texts = [row.get("prompt") or row["text"] for row in rows]
        asked[name] = {re.match("Question: (.*:)\n\nAnswer: ", t)[1] for t in texts}
        assert asked[name]
    every = [q for questions in asked.values() for q in questions]
    assert len(every) == len(set(every)) and set(every) < {r["question"] for r in ROWS}


def test_final_policies_are_measured_on_every_axis(place):
    rows = metrics_log.read(place / "metrics.jsonl")
    last = {r["method"]: r for r in rows if r.get("eval/phase") == "final"}
    assert set(last) == set(FLAGS["methods"])
    for row in last.values():
        for name in ("eval/reward", "eval/gold", "drift/text_nll", "tax/skills",
                     "tax/stories.jsonl", "drift/perplexity_windows"):  # fmt: skip
            assert math.isfinite(row[name]), name
        assert 3 <= row["eval/length"] <= 8 and row["eval/ended"] == 0
    assert last["zero_shot"]["drift/kl_initial"] == pytest.approx(0, abs=1e-5)
    assert last["ppo_kl"]["drift/kl_initial"] > 1e-4
    resets = [r["step"] for r in rows if r.get("reset/reset")]
    assert resets == [3]  # the end of iteration 2, as 260 of 0-based ones there
    steps = [r for r in rows if "policy/passes" in r]
    assert all(1 <= r["policy/passes"] <= 2 for r in steps)


def test_the_report_shows_sft_ppo_and_elastic_reset_together(place):
    text = (place / "report.md").read_text()
    section = text.split("## Side by side")[1].split("\n## ")[0]
    for label in ("SFT", "PPO + KL", "Elastic Reset + KL", "stories.jsonl"):
        assert label in section
    assert "reward_model | accuracy" in text and "none at its best" in text


def test_going_on_with_a_finished_run_trains_nothing(place, home, capsys):
    before = (place / "metrics.jsonl").read_bytes()
    again = small_recipes.again(stack_exchange, **flags(home))
    assert (again / "metrics.jsonl").read_bytes() == before
    said = capsys.readouterr().out
    assert all(f"{name}: done already" in said for name in ("sft", "judge"))


# The published settings

# Flag: (value, where section 4 of the reference says so, or section 1 of the resets).
QUOTED = {
    "policy": ("huggyllama/llama-7b", "| base | `huggyllama/llama-7b`"),
    "dataset": ("lvwerra/stack-exchange-paired", "`lvwerra/stack-exchange-paired`"),
    "data.question": ("Question: {question}\n\nAnswer: ", '"Question: {q}\\n\\nAnswer'),
    "sft_lora.rank": (16, "LoRA r16, alpha 32"),
    "sft_lora.alpha": (32.0, "LoRA r16, alpha 32"),
    "lora.rank": (16, "for SFT and RL"),
    "lora.alpha": (32.0, "LoRA r16, alpha 32"),
    "sft.learning_rate": (1e-5, "| SFT | lr 1e-5"),
    "sft.steps": (5000, "lr 1e-5, 5000 steps"),
    "sft.rows": (8, "per-device batch 4, grad-accum 2"),
    "sft.micro_batches": (2, "grad-accum 2, seq"),
    "sft_length": (1024, "seq 1024 packed"),
    "sft.schedule": ("cosine", "packed, cosine"),
    "sft.warmup": (100, "warm-up 100"),
    "sft.weight_decay": (0.05, "wd 0.05"),
    "reward_lora.rank": (8, "SEQ_CLS LoRA r8, alpha 32"),
    "reward_lora.alpha": (32.0, "SEQ_CLS LoRA r8, alpha 32"),
    "data.pairs": (100_000, "100k train pairs"),
    "data.length": (512, "max 512 tokens"),
    "reward_fit.learning_rate": (2e-5, "lr 2e-5"),
    "reward_fit.rows": (4, "lr 2e-5, batch 4"),
    "reward_fit.epochs": (1.0, "batch 4, 1 epoch"),
    "reward_fit.weight_decay": (0.001, "wd 0.001"),
    "reward_fit.schedule": ("linear", "linear lr"),
    "data.prompts": (100_000, "first 100k of `data/rl`"),
    "data.prompt_length": (511, "prompt < 512 tokens"),
    "answers.shortest": (32, "length uniform in 32..127"),
    "answers.longest": (127, "length uniform in 32..127"),
    "answers.end": ("length", "EOS disabled"),
    "rl.learning_rate": (1.41e-5, "lr 1.41e-5"),
    "rl.rows": (8, "batch 8, minibatch 1"),
    "rl.micro_batches": (8, "grad-accum 8"),
    "rl.epochs": (4, "ppo_epochs 4"),
    "rl.gamma": (1.0, "gamma 1, lam 0.95"),
    "rl.lam": (0.95, "gamma 1, lam 0.95"),
    "rl.clip": (0.2, "clip 0.2, value clip 0.2"),
    "rl.value_clip": (0.2, "clip 0.2, value clip 0.2"),
    "rl.value_coef": (0.1, "vf 0.1"),
    "rl.value": ("shared", "value head **not reset**, but it shares the LoRA trunk"),
    "stop_kl": (1.5 * 0.1, "early stop at policy KL > 1.5*0.1"),
    "rl.max_grad_norm": (float("inf"), "no gradient clip"),
    "answers.normalized": (False, "raw RM logit minus baseline 0"),
    "center": (False, "raw RM logit minus baseline 0"),
    "rl.kl_target": (6.0, "target 6, horizon 10000"),
    "rl.kl_horizon": (10_000.0, "target 6, horizon 10000"),
    "rl.kl_coef": (0.02, "**init_kl_coef 0.02**"),
    "rl.decay": (0.995, "decay 0.995, reset 260"),
    "rl.reset_every": (260, "decay 0.995, reset 260"),
    "rl.reset_first": (False, "`epoch and epoch % 260 == 0`, none at 0"),
    "tick": ("epoch", "**once per PPO epoch**"),
    "steps": (600, "step-600 checkpoints"),
    "data.heldout": (4000, "perplexity on 4,000 items of `data/evaluation`"),
    "answers.window": (1024, "window 1024, stride 512, 8-bit"),
    "answers.stride": (512, "window 1024, stride 512, 8-bit"),
    "judge": (
        "kashif/llama-7b_stack-exchange_RM_peft-adapter-merged",
        "different from the training RM",
    ),
}
# What follows from a form of ours, or from `top_k 0, top_p 1.0, sampling`.
FORMS = {"data.parts": "folders", "rl.minibatches": 1, "answers.temperature": 1.0}


def flag(config, name):
    for part in name.split("."):
        config = getattr(config, part)
    return config


def test_every_published_setting_is_the_preset_s():
    config = presets.preset(stack_exchange.CONFIG, "paper", stack_exchange.PRESETS)
    for name, (value, _) in QUOTED.items():
        assert flag(config, name) == value, name
    stated = {name: value for name, (value, _) in QUOTED.items()} | FORMS
    assert stated == published.FLAGS
    assert not set(published.UNKNOWN) & set(stated)
    stack_exchange.check(config)
    assert config.ticks == 1040  # "up to 1040 ticks per cycle"


@pytest.mark.parametrize("name", QUOTED)
def test_every_published_setting_is_quoted(name, data_folder):
    paper = data_folder.parent / "papers" / "elastic_reset.md"
    if not paper.exists():
        pytest.skip(f"no reference at {paper}")
    assert QUOTED[name][1] in paper.read_text()


def test_what_differs_or_is_unknown_is_said():
    config = presets.preset(stack_exchange.CONFIG, "paper", stack_exchange.PRESETS)
    said = " ".join(presets.told(config, stack_exchange.PRESETS))
    for word in ("dropout", "8 bits", "HumanEval", "--rl.whiten-advantages", "GPUs"):
        assert word in said
    changed = dataclasses.replace(config, steps=10)
    lines = presets.told(changed, stack_exchange.PRESETS)
    assert "changed: --steps 10, in the preset 600" in lines


# Parts and windows


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return small_recipes.tokenizer(tmp_path_factory.mktemp("words"), template=False)


def test_folders_of_a_data_set_are_its_parts(tmp_path, words):
    for i, name in enumerate(parts.NAMES):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        small_recipes.lines(folder / "train.jsonl", ROWS[8 * i : 8 * i + 8])
    config = parts.Config(parts="folders", length=90, prompt_length=60)
    found = parts.read(str(tmp_path), config, words, judge=False)
    assert len(found.texts) == len(found.pairs) == len(found.prompts) == 8
    assert found.judged == [] and len(found.eval_pairs) == 8
    assert found.texts[0].startswith(f"Question: {ROWS[0]['question']}\n\nAnswer: ")
    assert found.prompts[0] == f"Question: {ROWS[16]['question']}\n\nAnswer: "


def test_many_pairs_of_a_question_stay_together(tmp_path, words):
    rows = [{**row, "response_k": f"no {i}"} for row in ROWS for i in range(3)]
    file = small_recipes.lines(tmp_path / "pairs.jsonl", rows)
    config = parts.Config(length=90, prompt_length=60)
    found = parts.read(file, config, words, judge=True)
    sides = [{r["prompt"] for r in side} for side in (found.pairs, found.judged)]
    assert not sides[0] & sides[1]
    assert len(found.pairs) == 3 * len(sides[0]) and abs(len(sides[0]) - 9) <= 1
    assert len(found.prompts) == len(set(found.prompts)) == 6


def test_only_texts_are_packed(words):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": ["say yes"] * 4})
    found = sft.packed(rows, words, 8)
    assert found.tokens.shape[1] == 8 and found.target_mask.all()
    with pytest.raises(ValueError, match="--pack: columns answer; texts are packed"):
        sft.packed(rows.rename_column("text", "answer"), words, 8)


def test_windows_score_every_token_once(words):
    config = task.Config(window=8, stride=4)
    text = task.joined(words, ["say yes or no", "say no"])
    assert list(text).count(words.eos_token_id) == 2
    rows, counts = task.windows(config, words, text)
    assert counts.sum() == rows.target_mask.sum() == len(text) - 1
    again = np.concatenate(
        [row[m != 0] for row, m in zip(rows.tokens, rows.target_mask, strict=True)]
    )
    np.testing.assert_array_equal(again, text[1:])


# Misuse


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"methods": ("ppo_ky",)}, "--methods ppo_ky: unknown"),
        ({"export": ("ppo",)}, "--export ppo: is not among --methods"),
        ({"stop_kl": 0.0}, "--stop-kl 0.0: must be above 0"),
        ({"answers__shortest": 9}, "--answers.shortest 9.*--answers.longest 8"),
        ({"answers__end": "never"}, "--answers.end never: choose length or token"),
        ({"answers__stride": 32}, "--answers.stride 32.*--answers.window 32"),
        ({"steps": 0}, "--steps 0: at least 1"),
        ({"sft__rows": 3, "sft__micro_batches": 2}, "--fit.rows 3.*micro-batches 2"),
        ({"policy": "scratch:micro", "sft_lora__rank": 4}, "have nothing to adapt"),
        ({"data__columns": ("answer=chosen",)}, "--data.columns answer=chosen: write"),
        ({"data__shares": (1.0, 1.0)}, "--data.shares 1.0 1.0: four shares"),
        ({"data__prompt_length": 3}, "--data.prompt-length"),
        ({"data__length": 12}, "raise --data.length"),
    ],
)
def test_misuse_is_one_error_that_names_the_flag(
    home, tmp_path, monkeypatch, changes, says
):
    small_recipes.share(monkeypatch)
    with pytest.raises(ValueError, match=says):
        small_recipes.run(
            stack_exchange, **flags(home, output=tmp_path / "run", **changes)
        )


def test_a_stage_of_other_flags_is_refused(place, home):
    with pytest.raises(ValueError, match="another configuration.*--sft.steps 3 there"):
        small_recipes.again(stack_exchange, **flags(home, sft__steps=5))


def test_the_command_names_its_presets(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stack_exchange", "--preset", "papers"])
    with pytest.raises(SystemExit):
        stack_exchange.main()
    assert "choose from small, paper" in " ".join(capsys.readouterr().err.split())


def test_results_are_json_that_names_every_method(place):
    found = json.loads((place / "results.json").read_text())
    assert set(found["methods"]) == set(FLAGS["methods"])
