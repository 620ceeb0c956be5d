"""Flags, files and models that do not fit a recipe are named before a run begins."""

import pytest
import small_recipes

from experiments import preference, reward_model, rl, sft
from experiments.rl import announcement

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
            "--fit.rows 16 and --fit.micro-batches 3: the rows cannot be cut",
        ),
        (sft, {"model": "m", "dataset": "d", "fit__epochs": 0}, "--fit.epochs 0"),
        (sft, {"model": "m", "dataset": "d", "profile": -1}, "--profile -1"),
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
    refused("this is the only row", dataset=tmp_path / "one.jsonl")
    for flags in ({"data__split": "nope"}, {"data__eval_split": "nope"}):
        refused("there is no 'nope'; there is short, train", dataset=short, **flags)
    refused(
        "split 'validation': there is no 'validation'; there is short, train",
        dataset=short,
        data__eval_split="validation",
    )
    refused("the model's context is 64", dataset=short, data__length=65)
    refused("neither a folder, nor a file", dataset=tmp_path / "none.jsonl")
    refused(
        "columns prompt; needed are prompt.chosen.rejected; chosen.rejected; name",
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
            reward="r",
            output=tmp_path / "run",
            max_new_tokens=64,
        )


def test_resets_after_the_last_update_are_refused():
    flags = {"model": "m", "dataset": "d", "elastic_reset__every": 9, "fit__rows": 4}
    config = small_recipes.config(preference, **flags)
    preference.check_resets(config, 36)
    with pytest.raises(ValueError, match="every 9: no reset would ever come, 32 rows"):
        preference.check_resets(config, 32)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"reward_weights": 2, "reward": ("a", "b")}, "2 rewards and 1 weights"),
        ({"reward_weights": (0, 0), "reward": ("a", "b")}, "from a weight of 0"),
        ({"reward_weights": "nan", "reward": "a"}, "--reward-weights nan: must be a"),
        ({"reward_weights": "inf", "reward": "a"}, "--reward-weights inf: must be a"),
        ({"gold": "b", "reward": ("a", "b")}, "a reward that is learned from"),
        ({"reward": ("a", "")}, "a text that is not empty"),
        ({"reward": ("a", "ai:")}, "whose judgment"),
        ({"reward_timeout": -1, "reward": "a"}, "--reward-timeout -1.0: must be"),
        (
            {"multi_objective_aggregation": "normalize_then_sum", "reward": "a"},
            "--multi-objective-aggregation normalize_then_sum and --algorithm ppo",
        ),
    ],
)
def test_rewards_that_do_not_fit_together_are_refused(flags, said):
    with pytest.raises(ValueError, match=said):
        rl.check(small_recipes.config(rl, policy="m", dataset="d", **flags))


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"reward": "r:f"}, "reward r:f, PPO"),
        (
            {"reward": ("r:f", "b"), "reward_weights": (0.5, 2)},
            "reward 0.5 · r:f + 2 · b",
        ),
        (
            {
                "reward": ("r:f", "b"),
                "algorithm": "grpo",
                "multi_objective_aggregation": "normalize_then_sum",
            },
            "reward 1 · r:f + 1 · b, each normalised",
        ),
    ],
)
def test_rewards_are_announced_with_their_weights(flags, said):
    config = small_recipes.config(rl, policy="m", dataset="d", **flags)
    assert said.startswith(announcement.rewarded(config))
    rl.check(config)


def rl_config(**flags):
    return small_recipes.config(rl, policy="m", dataset="d", reward="r", **flags)


@pytest.mark.parametrize(
    ("flags", "method", "label", "said"),
    [
        ({}, "ppo_kl", "PPO + KL (β 0.1)", "β 0.1 (--rl.kl-coef)"),
        ({"rl__kl_coef": 0}, "ppo", "PPO", "no KL penalty (--rl.kl-coef 0)"),
        (
            {"elastic_reset": True, "rl__kl_coef": 0.02},
            "ppo_kl_elastic_reset",
            "PPO + KL (β 0.02) + Elastic Reset",
            "KL penalty in the reward, β 0.02",
        ),
        (
            {"algorithm": "grpo", "rl__kl_horizon": 100},
            "grpo_kl",
            "GRPO + KL (β 0.1)",
            "KL penalty in the loss, β 0.1 (--rl.kl-coef), then adapted towards 6 nats",
        ),
    ],
)
def test_a_kl_penalty_is_named_and_announced(flags, method, label, said):
    config = rl_config(**flags)
    assert (config.method, config.label_of_method) == (method, label)
    assert said in announcement.penalty(config)
