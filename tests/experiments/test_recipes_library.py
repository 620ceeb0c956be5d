"""The plain recipes called from Python, with objects in place of names."""

import json

import chex
import datasets
import pytest
import small_recipes

from experiments import generate, preference, reward_model, rl, sft
from rlhf_jax import huggingface, trees
from rlhf_jax.models import decoder, heads

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("programs")

FIT = {"steps": 4, "rows": 4, "learning_rate": 2e-2}
COMMON = {"devices": 1, "eval_every": 0, "quiet": True}
ROWS = {**COMMON, "eval_samples": 0}  # what draws them takes seconds to compile
RL = {
    "steps": 2,
    "algorithm": "rloo",
    "rl": {"rows": 8, "candidates": 2, "minibatches": 2, "learning_rate": 1e-2},
    "max_new_tokens": 6,
    "data": {"length": 40, "eval_rows": 4},
}


@pytest.fixture(scope="module")
def loaded(home):
    """(model, params, tokenizer), as a user has them in memory."""
    return huggingface.load(home / "model")


@pytest.fixture(scope="module")
def tuned(home, loaded):
    rows = small_recipes.chats()
    return sft.train(
        model=loaded, dataset=rows, fit=FIT, output=str(home / "sft"), **ROWS
    )


@pytest.fixture(scope="module")
def judge(home, loaded):
    return reward_model.train(
        model=loaded,
        dataset=datasets.Dataset.from_list(small_recipes.PAIRS),
        fit=FIT,
        output=str(home / "judge"),
        **COMMON,
    )


def short(completions, **columns):
    return [-float(len(text)) for text in completions]


def test_objects_train_as_their_files_do_bit_for_bit(tuned, home):
    again = sft.train(
        model=home / "model",
        dataset=str(home / "chats.jsonl"),
        fit=FIT,
        output=str(home / "sft_files"),
        **ROWS,
    )
    chex.assert_trees_all_equal(again.params, tuned.params)
    assert again.metrics == tuned.metrics


def test_a_result_is_what_was_made(tuned, loaded):
    assert isinstance(tuned.model, decoder.Decoder)
    model, params, tokenizer = huggingface.load(tuned.folder / "model")
    assert model == tuned.model and tokenizer.get_vocab() == loaded[2].get_vocab()
    chex.assert_trees_all_equal(params, tuned.params)
    losses = [r["eval/nll"] for r in tuned.records if "eval/nll" in r]
    assert tuned.metrics["eval/nll"] == losses[-1] < losses[0]
    assert set(tuned.metrics) == {"eval/nll", "eval/accuracy"}


def test_what_was_given_is_not_changed(tuned, loaded, home):
    del tuned
    chex.assert_trees_all_equal(loaded[1], huggingface.load(home / "model")[1])


def test_config_json_says_what_was_given(tuned):
    config = json.loads((tuned.folder / "config.json").read_text())["config"]
    assert config["dataset"].startswith("40 rows given in Python (")
    assert config["model"].startswith("model given in Python (")
    assert config["fit"]["steps"] == 4 and config["fit"]["schedule"] == "cosine"


def test_a_run_goes_on_with_the_same_objects_alone(tuned, loaded):
    flags = {"fit": FIT, "output": str(tuned.folder), "resume": True, **ROWS}
    again = sft.train(model=loaded, dataset=small_recipes.chats(), **flags)
    chex.assert_trees_all_equal(again.params, tuned.params)
    with pytest.raises(ValueError, match="--dataset 40 rows.*there, 39 rows.*here"):
        sft.train(model=loaded, dataset=small_recipes.chats()[:39], **flags)


def test_rl_pays_by_a_python_function_and_goes_on_from_a_result(tuned, home):
    rows = datasets.Dataset.from_list(small_recipes.PAIRS)
    result = rl.train(
        policy=tuned,
        dataset=rows,
        reward=short,
        output=str(home / "rl"),
        **RL,
        **COMMON,
    )
    config = json.loads((result.folder / "config.json").read_text())["config"]
    assert config["reward"] == f"{__name__}:short"
    assert config["policy"] == str(tuned.folder / "model")
    assert {"eval/reward", "drift/kl_initial", "drift/text_nll"} <= set(result.metrics)
    assert result.metrics["eval/reward"] < 0
    assert trees.norm(trees.subtract(result.params, tuned.params)) > 1e-3


def tokens_of_some(prompts, completions, completion_ids, **columns):
    """Does not apply to the first half."""
    half = len(prompts) // 2
    return [None if i < half else len(ids) for i, ids in enumerate(completion_ids)]


def test_rl_pays_by_several_rewards_and_logs_each(tuned, home):
    result = rl.train(
        policy=tuned,
        dataset=datasets.Dataset.from_list(small_recipes.PAIRS),
        reward=[short, tokens_of_some],
        reward_weights=[0.5, 2],
        output=str(home / "rl_several"),
        **RL,
        **COMMON,
    )
    config = json.loads((result.folder / "config.json").read_text())["config"]
    names = [f"{__name__}:{name}" for name in ("short", "tokens_of_some")]
    assert config["reward"] == names and config["reward_weights"] == [0.5, 2]
    for row in result.records:
        prefix = "eval/" * ("eval/phase" in row)
        one, other = (
            row[f"{prefix}rewards/{n}/mean"] for n in ("short", "tokens_of_some")
        )
        total = row["eval/reward" if prefix else "objective/scores"]
        assert total == pytest.approx(0.5 * one + 2 * other / 2)
    assert "| tokens_of_some | 2 |" in (result.folder / "report.md").read_text()


def test_rl_pays_by_a_reward_model_that_a_recipe_returned(judge, tuned, home):
    assert isinstance(judge.model, heads.Classifier)
    result = rl.train(
        policy=tuned,
        dataset=small_recipes.PAIRS,
        reward=judge,
        gold=short,
        output=str(home / "rl_judge"),
        **RL,
        **COMMON,
    )
    # Scores are brought to mean 0 and deviation 1 on samples of the initial policy.
    start = next(r for r in result.records if "eval/phase" in r)
    assert abs(start["eval/reward"]) < 3
    config = json.loads((result.folder / "config.json").read_text())["config"]
    assert config["reward"] == str(judge.folder / "model")
    # What counts is measured beside it, in its own units.
    assert config["gold"] == f"{__name__}:short"
    golds = [r["eval/gold"] for r in result.records if "eval/gold" in r]
    assert len(golds) > 1 and max(golds) < 0
    assert "| gold |" in (result.folder / "report.md").read_text()


def test_a_reward_cannot_be_its_own_gold(judge, tuned):
    with pytest.raises(
        ValueError, match="--gold .* --reward .*learned from is no gold"
    ):
        rl.train(
            policy=tuned, dataset=small_recipes.PAIRS, reward=judge, gold=judge,
            **RL, **COMMON,
        )  # fmt: skip


def test_preferences_are_learned_against_a_reference_in_memory(loaded, tuned, home):
    result = preference.train(
        model=tuned,
        reference=loaded,
        dataset=small_recipes.PAIRS,
        fit=FIT,
        output=str(home / "dpo"),
        **ROWS,
    )
    first = next(r for r in result.records if "eval/phase" in r)
    assert first["eval/rewards/margins"] != pytest.approx(0, abs=1e-4)


def test_answers_come_back_and_are_not_printed(tuned, capsys):
    rows = generate.complete(
        model=tuned, prompts=["Say red blue:"], max_new_tokens=3, samples=2, devices=1
    )
    assert [row["prompt"] for row in rows] == ["Say red blue:"] * 2
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="no prompts"):
        generate.complete(model=tuned)


def test_quiet_is_quiet_and_the_default_speaks(loaded, home, capsys):
    flags = {
        "model": loaded,
        "dataset": small_recipes.chats(),
        "fit": FIT,
        "devices": 1,
    }
    sft.train(**flags, output=str(home / "quiet"), quiet=True)
    assert capsys.readouterr().out == ""
    sft.train(**flags, output=str(home / "loud"))
    assert "weights are trained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("recipe", "flags", "said"),
    [
        (sft, {"modle": "m"}, "modle: there is no such flag; did you mean model"),
        (sft, {"model": "m"}, "--dataset is needed"),
        (sft, {"model": 5, "dataset": "d"}, "--model 5: must be a text"),
        (sft, {"model": object(), "dataset": "d"}, "--model of type object: give a"),
        (sft, {"dataset": object()}, "rows of type object: give a path"),
        (sft, {"dataset": [{"text": ""}] * 3}, "row 0 .*: no text"),
        (sft, {"fit": {"rows": 0}, "dataset": "d"}, "--fit.rows 0"),
        (rl, {"dataset": small_recipes.PAIRS, "reward": object(), **RL}, "--reward of"),
    ],
)
def test_misuse_is_one_error_and_leaves_nothing(recipe, flags, said, loaded, tmp_path):
    subject = {"model": loaded} if recipe is sft else {"policy": loaded}
    more = {**subject, "output": str(tmp_path / "run"), **flags}
    with pytest.raises(ValueError, match=said):
        recipe.train(**more, devices=1, quiet=True)
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_reward_that_raises_is_named(tuned, home):
    def broken(completions, **columns):
        raise KeyError("word")

    with pytest.raises(ValueError, match="broken raised KeyError"):
        rl.train(
            policy=tuned,
            dataset=small_recipes.PAIRS,
            reward=broken,
            output=str(home / "broken"),
            **RL,
            **COMMON,
        )
