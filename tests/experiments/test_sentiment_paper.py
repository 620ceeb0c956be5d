"""`--preset paper` end to end: real directories, tiny ones, flags that win over it.

The policy is a GPT-2, the reward a DistilBERT with a tokenizer of its own.
"""

import json
import sys

import numpy as np
import pytest
from tasks import test_text as texts

from experiments import sentiment
from rlhf_jax.cli import command
from rlhf_jax.runtime import metrics_log

pytestmark = pytest.mark.slow  # its parts have tests of their own

METHODS = ("zero_shot", "sft", "ppo_kl", "nlpo", "elastic_reset_average_kl")
SMALL = {
    "steps": 3,
    "seeds": 2,
    "methods": METHODS,
    "rl.rows": 6,
    "rl.transitions": 20,
    "rl.minibatches": 4,
    "rl.epochs": 2,
    "rl.reset-every": 2,
    "rl.learning-rate": 1e-3,
    "rl.mask-top-p": 0.5,
    "rl.mask-least": 3,
    "rl.sft-updates": 2,
    "text.prompt-length": 5,
    "text.max-new-tokens": 4,
    "text.min-new-tokens": 4,
    "text.eval-prompts": 6,
    "text.heldout-rows": 6,
    "text.heldout-length": 8,
    "text.window": 8,
    "text.stride": 4,
    "devices": 1,
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The folder of a run."""
    home = tmp_path_factory.mktemp("paper")
    folder = texts.reviews_in(home / "reviews")
    policy = texts.unpacked("gpt2", home / "gpt2")
    reward = texts.unpacked("distilbert", home / "distilbert")
    named = {"dataset": folder, "policy": policy, "reward": reward}
    words = ["--preset", "paper", "--output", str(home / "run")]
    for name, value in {**SMALL, **named, "cache": home / "cache"}.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name}", *map(str, values)]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(sys, "argv", ["sentiment", *words])
        monkeypatch.setattr(command, "prepare_devices", lambda *_: None)
        sentiment.main()
    return home / "run"


@pytest.fixture(scope="module")
def rows(place):
    return metrics_log.read(place / "metrics.jsonl")


def of(rows, method, key, seed=0):
    return [r for r in rows if r["method"] == method and r["seed"] == seed and key in r]


def test_the_preset_and_what_won_over_it_are_recorded(place):
    facts = json.loads((place / "config.json").read_text())
    config = facts["config"]
    assert config["preset"] == "paper"
    assert config["rl"]["kl_coef"] == 0.001 and config["rl"]["value_clip"] == "inf"
    assert config["rl"]["rows"] == 6 and config["text"]["drift"] == "joined"
    page = (place / "report.md").read_text()
    assert "Preset paper: IMDB as published" in page
    assert "changed: --rl.rows 6, in the preset 30" in page
    assert "Unknown: which of two committed NLPO configurations" in page


def test_every_method_learns_in_minibatches_of_tokens(rows):
    for method in METHODS[2:]:
        for seed in (0, 1):
            found = of(rows, method, "objective/scores", seed)
            assert len(found) == 3 and all(r["optim/finite"] == 1 for r in found)
            assert found[-1]["budget/gradient_steps"] == 3 * 2 * 4
            assert found[0]["val/ratio_first_error"] < 1e-4
            assert all(r["response/length"] == 4 for r in found)
    assert len(of(rows, "sft", "sft/nll")) == 3
    assert of(rows, "sft", "budget/gradient_steps")[-1]["budget/gradient_steps"] == 6


def test_scores_are_probabilities_and_beta_is_of_the_method(rows):
    for method, beta in (("ppo_kl", 0.1), ("elastic_reset_average_kl", 0.001)):
        found = of(rows, method, "objective/scores")
        assert all(0 < r["objective/scores"] < 1 for r in found)
        assert found[0]["objective/kl_coef"] == pytest.approx(beta)
        moved = found[1]["objective/kl_coef"] / found[0]["objective/kl_coef"]
        assert 0.98 - 1e-6 <= moved <= 1.02 + 1e-6 and moved != 1.0
    start = of(rows, "zero_shot", "eval/reward")[0]
    assert 0 < start["eval/reward"] < 1


def test_resets_are_at_0_and_2_and_both_sides_are_measured(rows):
    phases = [
        (r["step"], r["eval/phase"])
        for r in of(rows, "elastic_reset_average_kl", "eval/phase")
    ]
    assert phases == [
        (0, "start"),
        (1, "before_reset"),
        (1, "after_reset"),
        (2, "train"),
        (3, "before_reset"),
        (3, "after_reset"),
    ]


def test_the_test_split_stands_at_the_start_and_the_end_alone(place, rows):
    for method in METHODS[1:]:
        found = of(rows, method, "eval/phase")
        tested = [r for r in found if "test/perplexity" in r]
        assert len(tested) == 2 and tested[0] is found[0] and tested[1] is found[-1]
        assert tested[1]["test/perplexity"] != tested[1]["drift/perplexity"]
        assert 0 < tested[1]["test/reward"] < 1
    assert of(rows, "zero_shot", "test/reward")
    page = (place / "report.md").read_text()
    section = page.split("## On the test split")[1].split("## ")[0]
    lines = [line for line in section.splitlines() if " ± " in line]
    assert len(lines) - 1 == len(METHODS)  # the first says what ± is
    final = [of(rows, "ppo_kl", "test/reward", seed)[-1] for seed in (0, 1)]
    mean = np.mean([r["test/reward"] for r in final])
    (line,) = [x for x in lines if x.startswith("| PPO + KL |")]
    assert line.startswith(f"| PPO + KL | {mean:.4g} ± ") and line.endswith("| 2 |")
