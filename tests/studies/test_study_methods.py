"""Every newer method in a whole study: its points, its weights, its cost, its page.

One study is run; it holds one method of each kind.
"""

import json

import numpy as np
import pytest
import small_study

from experiments import sentiment
from rlhf_jax.runtime import parallel
from rlhf_jax.studies import methods

pytestmark = pytest.mark.slow  # many programs; test_study runs what shares one

METHODS = (
    "zero_shot",
    "grpo",
    "dr_grpo",
    "dapo",
    "gspo",
    "reinforce_plus_plus",
    "rsf",
    "ppo",
    "ppo_kl",
    "ppo_kl_matched",
    "nlpo",
    "elastic_reset_both",
    "kl_average",
    "trdpo_soft",
    "trdpo_hard",
    "reference_reset",
    "ppo_bounded",
    "ppo_chi2",
    "ppo_chi2_kl",
    "warp_50",
    "best_of_2",
    "best_of_4",
)
FLAGS = {
    "methods": METHODS,
    "steps": 4,
    "eval_every": 0,
    "rl__candidates": 2,
    "rl__learning_rate": 3e-3,
    "rl__reset_every": 2,
    "rl__mask_top_p": 0.5,
    "rl__mask_least": 5,
    "rl__mask_every": 2,
    "rl__kl_coef": 1.0,
    "override": ("ppo_kl_matched.kl_coef=0.01", "ppo_chi2.chi2_weight=0.75"),
}


@pytest.fixture(autouse=True)
def shared(monkeypatch):
    small_study.share(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of the study."""
    folder = tmp_path_factory.mktemp("methods") / "run"
    return small_study.run_shared(folder, **FLAGS)


@pytest.fixture(scope="module")
def rows(whole):
    """{method: its records}, numbers as numbers."""
    found = {}
    for row in small_study.metrics_log.read(whole / "metrics.jsonl"):
        found.setdefault(row["method"], []).append(row)
    return found


def looks(rows, name):
    return [row for row in rows[name] if "eval/phase" in row]


def losses(rows, name):
    return [row for row in rows[name] if "objective/scores" in row]


def test_every_method_ran_to_its_end_and_stayed_finite(whole, rows):
    assert set(rows) == set(METHODS)
    for name in METHODS:
        assert looks(rows, name)[-1]["eval/phase"] == "final"
        if methods.METHODS[name].train is not None:
            assert len(losses(rows, name)) == 4
            assert all(row["optim/finite"] == 1 for row in losses(rows, name))
    results = json.loads((whole / "results.json").read_text())
    assert set(results["methods"]) == set(METHODS)
    page = (whole / "report.md").read_text()
    for name in METHODS:
        assert methods.LABELS[name] in page


def test_zero_shot_is_the_start_of_the_others(rows):
    (row,) = looks(rows, "zero_shot")
    start = looks(rows, "ppo")[0]
    for key, value in start.items():
        if key.split("/")[0] in ("eval", "drift", "tax", "truth"):
            assert row[key] == value or key == "eval/phase"
    assert row["drift/kl_initial"] == pytest.approx(0.0, abs=1e-4)


def test_best_of_n_pays_more_at_a_bounded_divergence(rows):
    start = looks(rows, "ppo")[0]["eval/reward"]
    two, four = (looks(rows, f"best_of_{n}") for n in (2, 4))
    assert len(two) == len(four) == 1
    assert start - 0.3 < two[0]["eval/reward"] < four[0]["eval/reward"]
    assert two[0]["drift/kl_initial"] == pytest.approx(np.log(2) - 0.5)
    assert four[0]["drift/kl_initial"] == pytest.approx(np.log(4) - 0.75)
    ties = two[0]["eval/ties"], four[0]["eval/ties"]
    assert 0 <= ties[0] <= ties[1] + 1e-12 and ties[1] < 1
    assert "drift/text_nll" not in four[0] and "tax/skills" not in four[0]
    assert two[0]["mismatch/gold_sd"] == four[0]["mismatch/gold_sd"] > 0
    assert -1 <= two[0]["mismatch/correlation"] <= 1
    assert four[0]["budget/tokens"] == pytest.approx(2 * two[0]["budget/tokens"])


def test_a_moving_reference_is_no_divergence_right_after_it_moved(rows):
    """The penalty is against where the policy was after iteration 2, not the start."""
    fixed = losses(rows, "ppo_kl")[3]["objective/kl"]
    hard = losses(rows, "trdpo_hard")
    assert hard[3]["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    assert hard[2]["objective/kl"] > 1e-3 and fixed > 1e-3
    assert 1e-4 < losses(rows, "trdpo_soft")[3]["objective/kl"] < fixed
    assert losses(rows, "reference_reset")[3]["objective/kl"] == pytest.approx(
        0.0, abs=1e-4
    )


def test_a_reference_reset_leaves_the_policy_where_it_is(rows):
    before, after = (
        row
        for row in looks(rows, "reference_reset")
        if row["eval/phase"] in ("before_reset", "after_reset")
    )
    for key in ("eval/reward", "drift/text_nll", "drift/kl_initial"):
        assert before[key] == after[key]
    assert before["drift/kl_initial"] > 1e-3


def test_overrides_reach_the_methods_they_name(rows):
    """The first iteration's reference is the policy: β shows from the second on."""
    own, other = losses(rows, "ppo_kl_matched"), losses(rows, "ppo_kl")
    assert own[0]["objective/kl_coef"] == pytest.approx(0.01)
    assert other[0]["objective/kl_coef"] == pytest.approx(1.0)
    assert own[3]["objective/scores"] != other[3]["objective/scores"]


def test_other_penalties_and_shapes_go_other_ways(rows):
    names = ("ppo", "ppo_kl", "ppo_chi2", "ppo_chi2_kl", "ppo_bounded")
    ends = [looks(rows, name)[-1]["drift/text_nll"] for name in names]
    assert len(set(ends)) == len(ends)
    first = [losses(rows, name)[0]["objective/scores"] for name in names]
    assert len(set(first)) == 1


def test_rsf_and_nlpo_draw_what_is_theirs(rows):
    assert losses(rows, "rsf")[0]["loss/policy_avg"] > 0  # a negative log-likelihood
    assert "loss/value_avg" not in losses(rows, "rsf")[0]
    entropies = [losses(rows, n)[0]["objective/entropy"] for n in ("nlpo", "ppo")]
    assert entropies[0] < entropies[1]
    assert losses(rows, "nlpo")[0]["val/ratio_first_error"] < 1e-4


def test_variants_of_grpo_pay_no_penalty_and_go_their_own_ways(rows):
    paid = {"grpo": 1.0, "dr_grpo": 0.0, "dapo": 0.0, "gspo": 0.0}
    paid["reinforce_plus_plus"] = 1.0
    for name, coef in paid.items():
        assert {row["objective/kl_coef"] for row in losses(rows, name)} == {coef}
        grouped = name != "reinforce_plus_plus"
        assert ("reward/zero_std" in losses(rows, name)[0]) == grouped
    ends = [losses(rows, name)[-1]["objective/kl"] for name in paid]
    assert len(set(ends)) == len(ends)


def test_a_twin_without_an_override_is_left_out(tmp_path):
    names, heard = ("ppo_kl", "ppo_kl_matched"), []
    config = small_study.config(methods=names, override=None)
    setting = small_study.setting_of(tmp_path, parallel.data(1))
    study = sentiment.make_study(config, setting._replace(report=heard.append))
    assert tuple(study.methods) == ("ppo_kl",)
    assert heard[0].startswith("ppo_kl_matched is left out: it is ppo_kl")


def test_the_best_of_n_has_no_weights_to_export():
    config = small_study.config(methods=("best_of_2",), export=("best_of_2",))
    with pytest.raises(ValueError, match="--export best_of_2: it has no weights"):
        sentiment.check(config)
