"""Recipes that are watched, stop early, keep their best, and run several seeds."""

import json

import chex
import numpy as np
import pytest
import small_recipes

from experiments import compare, preference, reward_model, rl, sft
from rlhf_jax import huggingface
from rlhf_jax.cli import experiment
from rlhf_jax.evaluation import axes
from rlhf_jax.runtime import metrics_log, parallel
from rlhf_jax.tasks import models

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("programs")
FIT = {"steps": 6, "rows": 12, "learning_rate": 2e-2}  # 36 rows: passes of 3 steps
COMMON = {"devices": 1, "quiet": True}
RUN = {"dataset": small_recipes.chats(), "fit": FIT, "eval_samples": 0, **COMMON}


@pytest.fixture(scope="module")
def loaded(home):
    return huggingface.load(home / "model")


@pytest.fixture(scope="module")
def seeds(loaded, home):
    """Two seeds of SFT, of which the second is stopped after its fourth step."""

    def watch(step, metrics):
        if metrics["seed"] == 4 and step == 4 and "nll" in metrics:
            return "stop"

    return sft.train(
        model=loaded,
        seed=3,
        seeds=2,
        eval_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="nll",
        greater_is_better=True,  # so that the initial policy is the best
        callbacks=[watch],
        output=str(home / "seeds"),
        **RUN,
    )


def test_every_seed_leaves_a_model_and_a_result(seeds):
    first, second = seeds.seeds
    assert first.model_folder == seeds.model_folder == seeds.folder / "model"
    assert second.model_folder == seeds.folder / "model-seed-4"
    chex.assert_trees_all_equal(first.params, seeds.params)
    for result, seed in zip(seeds.seeds, (3, 4), strict=True):
        assert {record["seed"] for record in result.records} == {seed}
        params = huggingface.load(result.model_folder)[1]
        chex.assert_trees_all_equal(params, result.params)


def test_evaluations_follow_the_passes_and_the_watcher(seeds):
    steps = [[r["step"] for r in x.records if "eval/nll" in r] for x in seeds.seeds]
    assert steps == [[0, 3, 6], [0, 3, 4]]
    assert seeds.seeds[1].records[-1]["eval/phase"] == "final"


def test_the_best_policy_is_exported_and_said_to_be(seeds, loaded):
    for result in seeds.seeds:
        chex.assert_trees_all_close(result.params, loaded[1], atol=0)
        nll = [r["eval/nll"] for r in result.records if "eval/nll" in r]
        assert result.metrics["eval/nll"] == nll[0] == max(nll)
    page = (seeds.folder / "report.md").read_text()
    assert (
        "seed 3: the initial weights are exported, as no evaluation was better" in page
    )
    assert "seed 4: stopped after step 4 of 6 by the callback" in page
    assert "2 seeds, 3 to 4: model/ is seed 3's" in page
    assert "| metric | before | exported, step 0 | last, step 4 to 6 |" in page
    results = json.loads((seeds.folder / "results.json").read_text())
    assert results["seeds"] == [3, 4] and results["step"] == 0
    each = [results["of_seeds"][seed]["last"]["nll"] for seed in ("3", "4")]
    assert results["last"]["nll"] == pytest.approx(np.mean(each))


def test_a_seed_is_the_run_of_that_seed_alone(seeds, loaded, home):
    """Until it was stopped, bit for bit."""
    alone = sft.train(
        model=loaded, seed=4, eval_strategy="epoch", output=str(home / "four"), **RUN
    )
    of = [
        [r["nll"] for r in result.records if "nll" in r]
        for result in (alone, seeds.seeds[1])
    ]
    assert of[0][:4] == of[1]
    assert alone.seeds == (alone._replace(seeds=()),)


def test_a_head_is_drawn_anew_for_every_seed(home, tmp_path):
    model = str(home / "model")
    config = small_recipes.config(
        reward_model, model=model, dataset=home / "pairs.jsonl", seeds=2
    )
    layout = parallel.data(1)
    setting = experiment.Setting(tmp_path, layout, tmp_path, None, None, None, config)
    first = models.read_classifier("--model", model, "float32", 0)
    trainable = reward_model.by_seed(config, setting, first)
    zero, one = trainable(0).params, trainable(1).params
    chex.assert_trees_all_equal(zero, first[1])
    assert np.any(zero["head"]["kernel"] != one["head"]["kernel"])
    assert {**one, "head": None}.keys() == zero.keys()
    chex.assert_trees_all_equal(*({**x, "head": None} for x in (zero, one)))


# Samples, drift and rewards of what learns from rows


@pytest.fixture(scope="module")
def aligned(home):
    """DPO on pairs, with a reward that it is measured by."""
    return small_recipes.run(
        preference,
        model=home / "model",
        dataset=home / "pairs.jsonl",
        fit__steps=4,
        fit__rows=4,
        fit__learning_rate=2e-2,
        eval_every=2,
        eval_samples=3,
        max_new_tokens=6,
        reward="trl_style_rewards:short",
        output=home / "dpo",
    )


def test_samples_are_kept_of_every_evaluation_on_the_same_prompts(aligned):
    rows = metrics_log.read(aligned.folder / "samples.jsonl")
    assert [row["step"] for row in rows] == [0, 0, 0, 2, 2, 2, 4, 4, 4]
    asked = [[row["prompt"] for row in rows if row["step"] == s] for s in (0, 2, 4)]
    assert asked[0] == asked[1] == asked[2] and asked[0][0].startswith("Say ")
    assert all(row["score"] == -len(row["completion"]) for row in rows)
    assert rows[-1]["phase"] == "final" and rows[-1]["method"] == "dpo"


def test_drift_and_reward_are_measured_and_start_at_nothing(aligned):
    measured = [r for r in aligned.records if "eval/phase" in r]
    drift = [r["drift/kl_initial"] for r in measured]
    assert drift[0] == pytest.approx(0, abs=1e-5) and drift[-1] > 1e-3
    assert measured[0]["drift/text_nll"] != measured[-1]["drift/text_nll"]
    rows = metrics_log.read(aligned.folder / "samples.jsonl")
    scores = [row["score"] for row in rows if row["step"] == 4]
    assert aligned.metrics["eval/reward"] == pytest.approx(np.mean(scores))


def test_the_report_has_its_front_and_compare_reads_it(aligned):
    page = (aligned.folder / "report.md").read_text()
    assert "![Reward against drift](front.png)" in page
    assert "human text of drift/text_nll: the held-out prompts" in page
    assert "| drift/kl_initial |" in page and "## Samples after step 4" in page
    assert (aligned.folder / "front.png").stat().st_size > 10_000
    records = compare.read(aligned.folder)
    known = compare.shared_axes({"a": records}, axes.STANDARD)
    assert {axes.TEXT_NLL, axes.KL_INITIAL} <= set(known)


@pytest.mark.slow
def test_runs_of_all_kinds_start_at_the_same_point_of_the_front(home):
    """SFT, DPO and PPO from one policy, on the prompts of the same rows."""
    pairs = small_recipes.PAIRS
    both = {
        "dataset": pairs,
        "reward": "trl_style_rewards:short",
        "data": {"eval_rows": 4},
        "eval_every": 0,
        **COMMON,
    }
    fit = {"steps": 2, "rows": 4}
    policy, runs = str(home / "model"), []
    texts = small_recipes.lines(
        home / "human.jsonl", [{"text": row["prompt"]} for row in small_recipes.PAIRS]
    )
    both["texts"] = texts
    flags = {"model": policy, "max_new_tokens": 6, "fit": fit, **both}
    runs.append(preference.train(**flags, output=str(home / "all_dpo")))
    flags["dataset"] = [{**row, "completion": row["chosen"]} for row in pairs]
    runs.append(sft.train(**flags, output=str(home / "all_sft")))
    small = {"rows": 8, "minibatches": 2}
    flags = {"policy": policy, "steps": 1, "rl": small, "max_new_tokens": 6, **both}
    runs.append(rl.train(**flags, output=str(home / "all_rl")))
    starts = [next(r for r in run.records if "eval/phase" in r) for run in runs]
    for key in ("eval/reward", "drift/text_nll"):
        found = [start[key] for start in starts]
        np.testing.assert_allclose(found, found[0], rtol=1e-5)
    folders = tuple(str(run.folder) for run in runs)
    output = compare.run(compare.Config(folders, output=str(home / "front")))
    page = (output / "report.md").read_text()
    assert all(name in page for name in ("DPO", "SFT", "PPO"))


@pytest.mark.slow
def test_a_reward_model_says_that_drift_is_not_its_own(home):
    result = reward_model.train(
        model=str(home / "model"),
        dataset=small_recipes.PAIRS,
        fit=FIT,
        seeds=2,
        early_stopping_patience=1,
        early_stopping_threshold=100.0,
        eval_every=2,
        output=str(home / "rm"),
        **COMMON,
    )
    page = (result.folder / "report.md").read_text()
    assert "a reward model has no policy: it has neither samples nor drift" in page
    assert "seed 1: stopped after step 2 of 6 by early stopping: 1 evaluation w" in page
    heads = [one.params["head"]["kernel"] for one in result.seeds]
    assert np.any(heads[0] != heads[1])
    assert not any("drift/kl_initial" in record for record in result.records)


@pytest.mark.slow
def test_seeds_of_reinforcement_are_one_report(home):
    result = rl.train(
        policy=str(home / "model"),
        dataset=small_recipes.PAIRS,
        reward="trl_style_rewards:short",
        steps=2,
        seeds=2,
        load_best_model_at_end=True,
        rl={"rows": 8, "minibatches": 2},
        max_new_tokens=6,
        data={"eval_rows": 4},
        eval_every=1,
        output=str(home / "rl_seeds"),
        **COMMON,
    )
    page = (result.folder / "report.md").read_text()
    assert "2 seeds: read it as descriptive." in page
    assert "model-seed-K/ that of a seed K" in page
    best = [max(r["eval/reward"] for r in x.records if "eval/reward" in r)
            for x in result.seeds]  # fmt: skip
    assert [x.metrics["eval/reward"] for x in result.seeds] == best
    assert result.seeds[1].model_folder.is_dir()
