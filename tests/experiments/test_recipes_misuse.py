"""Flags, files and models that do not fit a recipe are named before a run begins."""

import pytest
import small_recipes

from experiments import preference, reward_model, rl, sft
from rlhf_jax.cli import recipes

pytest.importorskip("transformers")


@pytest.fixture
def home(tmp_path):
    return small_recipes.home(tmp_path)


@pytest.mark.parametrize(
    ("recipe", "flags", "said"),
    [
        (sft, {}, "--model is needed: a model directory"),
        (sft, {"model": "m"}, "--dataset is needed"),
        (rl, {"policy": "m", "dataset": "d"}, "--reward is needed"),
        (sft, {"model": "m", "dataset": "d", "fit__rows": 0}, "--fit.rows 0"),
        (
            sft,
            {"model": "m", "dataset": "d", "fit__micro_batches": 3},
            "--fit.rows 16 cannot be cut into --fit.micro-batches 3",
        ),
        (sft, {"model": "m", "dataset": "d", "fit__epochs": 0}, "--fit.epochs 0"),
        (sft, {"model": "m", "dataset": "d", "profile": -1}, "--profile -1"),
        (preference, {"model": "m", "dataset": "d", "loss": "kto"}, "loss='kto'"),
        (preference, {"model": "m", "dataset": "d", "beta": 0}, "--beta 0"),
    ],
)
def test_flags_that_cannot_be_are_named_before_anything_is_read(recipe, flags, said):
    with pytest.raises(ValueError, match=said):
        small_recipes.run(recipe, **flags)


def test_files_and_models_that_do_not_fit_are_named(home, tmp_path):
    small_recipes.lines(tmp_path / "odd.jsonl", [{"question": "a"}] * 3)
    small_recipes.lines(tmp_path / "one.jsonl", [{"text": "a"}])
    short = small_recipes.lines(tmp_path / "short.jsonl", [{"text": "abc"}] * 9)
    model = {"model": home / "model", "output": tmp_path / "run"}

    def refused(said, recipe=sft, **flags):
        with pytest.raises(ValueError, match=said):
            small_recipes.run(recipe, **{**model, **flags})
        assert not list(tmp_path.glob("run/checkpoints"))

    refused("columns question; needed are", dataset=tmp_path / "odd.jsonl")
    refused(
        "no column 'answer', needed for 'text'",
        dataset=tmp_path / "odd.jsonl",
        data__columns="text=answer",
    )
    refused("write needed=yours", dataset=short, data__columns="question")
    refused("of which one would be held out", dataset=tmp_path / "one.jsonl")
    refused("the model's context is 64", dataset=short, data__length=65)
    refused("neither a folder, nor a file", dataset=tmp_path / "none.jsonl")
    refused(
        "columns prompt: needed are chosen and rejected",
        reward_model,
        dataset=short,
        data__columns="prompt=text",
    )
    long = [{"prompt": "x" * 99, "completion": "y"}] * 9
    small_recipes.lines(tmp_path / "long.jsonl", long)
    refused("no training row has anything", dataset=tmp_path / "long.jsonl")
    with pytest.raises(ValueError, match="^a prompt and responses of 64 tokens"):
        small_recipes.run(
            rl,
            policy=home / "model",
            dataset=home / "pairs.jsonl",
            reward="trl_style_rewards:short",
            output=tmp_path / "run",
            response_length=64,
        )


def test_rows_are_held_out_without_being_trained_on():
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": [str(i) for i in range(40)]})
    train, held = recipes.hold_out(rows, 256)
    assert len(held) == 4 and len(train) == 36
    assert not set(train["text"]) & set(held["text"])
    assert recipes.hold_out(rows, 2)[1]["text"] == recipes.hold_out(rows, 2)[1]["text"]
