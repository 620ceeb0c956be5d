"""StackLLaMA: all of its stages at their smallest, and what is told of misuse."""

import json
import math
import re
import sys
import types

import jax
import numpy as np
import pytest
import small_recipes

from experiments import reward_model, sft, stack_exchange
from experiments.stack_exchange import parts, stages, task
from rlhf_jax import huggingface
from rlhf_jax.cli import command
from rlhf_jax.models import decoder, heads
from rlhf_jax.runtime import loop, metrics_log

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
        "suites": home / "stories.jsonl",
        "output": home / "run",
    }
    return {**given, **FLAGS, **changes}


@pytest.fixture(scope="module")
def run_dir(home):
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


def test_every_stage_leaves_a_model_that_opens(run_dir):
    for name, kind, labels in (
        ("sft", decoder.Decoder, None),
        ("reward_model", heads.Classifier, 1),
        ("judge", heads.Classifier, 1),
        ("models/elastic_reset_kl", decoder.Decoder, None),
    ):
        folder = run_dir / name / "model" if "/" not in name else run_dir / name
        model, _, _ = huggingface.load(folder)
        assert isinstance(model, kind)
        assert labels is None or model.labels == labels
        transformers.AutoConfig.from_pretrained(folder)
    assert (run_dir / "models" / "elastic_reset_kl-adapters").is_dir()


def test_stages_learn_from_questions_of_their_own(run_dir):
    asked = {}
    for name in ("finetune", "reward", "judge", "evaluation"):
        rows = metrics_log.read(run_dir / "data" / f"{name}.jsonl")
        texts = [row.get("prompt") or row["text"] for row in rows]
        asked[name] = {re.match("Question: (.*:)\n\nAnswer: ", t)[1] for t in texts}
        assert asked[name]
    every = [q for questions in asked.values() for q in questions]
    assert len(every) == len(set(every)) and set(every) < {r["question"] for r in ROWS}


def test_final_policies_are_measured_on_every_axis(run_dir):
    rows = metrics_log.read(run_dir / "metrics.jsonl")
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


def test_the_report_shows_sft_ppo_and_elastic_reset_together(run_dir):
    text = (run_dir / "report.md").read_text()
    section = text.split("## Side by side")[1].split("\n## ")[0]
    for label in ("SFT", "PPO + KL", "Elastic Reset + KL", "stories.jsonl"):
        assert label in section
    assert "reward_model | accuracy" in text and "none at its best" in text


def test_going_on_with_a_finished_run_trains_nothing(run_dir, home, capsys):
    before = (run_dir / "metrics.jsonl").read_bytes()
    again = small_recipes.again(stack_exchange, **flags(home))
    assert (again / "metrics.jsonl").read_bytes() == before
    said = capsys.readouterr().out
    assert all(f"{name}: done already" in said for name in ("sft", "judge"))


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
    data = parts.read(str(tmp_path), config, words, judge=False)
    assert len(data.texts) == len(data.pairs) == len(data.prompts) == 8
    assert data.judge_pairs == [] and len(data.eval_pairs) == 8
    assert data.texts[0].startswith(f"Question: {ROWS[0]['question']}\n\nAnswer: ")
    assert data.prompts[0] == f"Question: {ROWS[16]['question']}\n\nAnswer: "


def test_many_pairs_of_a_question_stay_together(tmp_path, words):
    rows = [{**row, "response_k": f"no {i}"} for row in ROWS for i in range(3)]
    file = small_recipes.lines(tmp_path / "pairs.jsonl", rows)
    config = parts.Config(length=90, prompt_length=60)
    data = parts.read(file, config, words, judge=True)
    sides = [{r["prompt"] for r in side} for side in (data.pairs, data.judge_pairs)]
    assert not sides[0] & sides[1]
    assert len(data.pairs) == 3 * len(sides[0]) and abs(len(sides[0]) - 9) <= 1
    assert len(data.prompts) == len(set(data.prompts)) == 6


def test_windows_score_every_token_once(words):
    config = task.Config(window=8, stride=4)
    text = task.join(words, ["say yes or no", "say no"])
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
        ({"stop_kl": 0.0}, "--stop-kl 0.0: must be a number above 0, or inf"),
        ({"answers__shortest": 9}, "--answers.shortest 9.*--answers.longest 8"),
        ({"answers__stride": 32}, "--answers.stride 32.*--answers.window 32"),
        ({"steps": 0}, "--steps 0: must be a whole number of at least 1"),
        (
            {"sft__rows": 3, "sft__micro_batches": 2},
            "--sft.rows 3.*micro-batches 2",
        ),
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


def test_a_stage_of_other_flags_is_refused(run_dir, home):
    with pytest.raises(ValueError, match="another configuration.*--sft.steps 3 there"):
        small_recipes.again(stack_exchange, **flags(home, sft__steps=5))


def test_a_stop_in_a_stage_is_gone_on_with_from_the_whole_run(
    home, tmp_path, monkeypatch
):
    def stop(config):
        raise loop.Interrupted("SIGTERM")

    small_recipes.share(monkeypatch)
    monkeypatch.setattr(sft, "run", stop)
    asked = flags(home, output=tmp_path / "run")
    with pytest.raises(loop.Interrupted) as stopped:
        small_recipes.run(stack_exchange, **asked)
    assert stopped.value.folder == tmp_path / "run"
    with pytest.raises(loop.Interrupted):  # not "holds no run"
        small_recipes.again(stack_exchange, **asked)


def test_a_suite_that_is_missing_is_refused_before_any_stage(
    home, tmp_path, monkeypatch
):
    small_recipes.share(monkeypatch)
    asked = flags(home, output=tmp_path / "run", suites=f"{tmp_path / 'quiz'}:test")
    with pytest.raises(ValueError, match="quiz: neither a folder, nor a file"):
        small_recipes.run(stack_exchange, **asked)
    assert not (tmp_path / "run").exists()


def test_fresh_weights_are_made_once_and_hold_all_that_is_read(
    home, tmp_path, monkeypatch
):
    trained = []
    for recipe in (sft, reward_model):
        monkeypatch.setattr(recipe, "run", trained.append)
    asked = flags(home, policy="scratch:micro", vocabulary=280, answers__window=90)
    config = small_recipes.config(stack_exchange, **asked)
    setting = types.SimpleNamespace(
        folder=tmp_path, console=command.console(), signals=None
    )
    made = stages.make(config, setting)
    names = ("sft", "reward_model", "judge")
    assert made[:3] == tuple(str(tmp_path / name / "model") for name in names)
    fresh = tmp_path / "scratch" / "model"
    assert [stage.model for stage in trained] == [str(fresh), *2 * (made.policy,)]
    model, _, tokenizer = huggingface.load(fresh)
    assert model.config.max_length == 90 and len(tokenizer) <= 280
    before = (fresh / "config.json").stat().st_mtime_ns
    assert stages.make(config, setting) == made
    assert (fresh / "config.json").stat().st_mtime_ns == before


def test_the_command_names_its_presets(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["stack_exchange", "--preset", "papers"])
    with pytest.raises(SystemExit):
        stack_exchange.main()
    assert "choose from small, paper" in " ".join(capsys.readouterr().err.split())


def test_results_are_json_that_names_every_method(run_dir):
    found = json.loads((run_dir / "results.json").read_text())
    assert set(found["methods"]) == set(FLAGS["methods"])
