"""AI feedback: its table of methods, what is said of labelers, and a run of it."""

import dataclasses
import json

import numpy as np
import pytest
import rich.console
import small_study
import tyro

from experiments import rlaif
from experiments.rlaif import measures, methods, orderings, sections
from rlhf_jax.evaluation import statistics
from rlhf_jax.evaluation.units import Unit
from rlhf_jax.reporting import claims
from rlhf_jax.runtime import metrics_log
from rlhf_jax.studies import evaluators, tables

ASKED = ("sft", "rlhf", "rlaif", "d_rlaif")
FEW = {**small_study.FLAGS, "methods": ASKED, "steps": 3, "num-evals": 2}
FEW |= {"eval-every": 0, "judging.steps": 2, "judging.rows": 8, "rl.candidates": 2}


def config(**changes):
    words = []
    for name, value in {**FEW, **changes}.items():
        values = value if isinstance(value, tuple) else (value,)
        words += [f"--{name}", *map(str, values)]
    return tyro.cli(rlaif.Config, default=rlaif.CONFIG, args=words)


# The table


def test_arms_differ_in_their_reward_alone():
    for algorithm in methods.ALGORITHMS:
        rows = methods.table(algorithm)
        first, *others = (rows[name].train for name in methods.ARMS)
        assert all(train == first for train in others)
        assert len({rows[name].reward for name in methods.ARMS}) == len(methods.ARMS)


def test_the_penalty_is_the_papers_convex_one_up_to_scale():
    beta = 0.05
    assert methods.KL == pytest.approx(beta / (1 - beta))


def test_what_is_claimed_is_about_rows_and_can_be_judged():
    known = methods.table()
    for claim in rlaif.CLAIMS:
        assert {claim.method, *claim.others} <= set(known)
    claims.check(rlaif.CLAIMS, rlaif.MEASURED, worlds=15)
    assert {c.endpoint for c in rlaif.CLAIMS if not c.secondary} == {rlaif.PRIMARY}


@pytest.mark.parametrize("flag", ["dataset", "reward", "suites", "other_text"])
def test_another_subject_is_refused_with_what_to_use(flag):
    name = flag.replace("_", "-")
    with pytest.raises(ValueError, match=f"--{name} gold.*experiments.rl --reward ai:"):
        rlaif.check(dataclasses.replace(rlaif.CONFIG, **{flag: "gold"}))


# Labelers


def test_a_labeler_that_always_says_first_prefers_one_slot_and_learns_nothing():
    ones, margins = np.ones(6), np.array([1, 1, 1, -1, -1, 0.0])
    found = measures.quality(ones, ones, margins)
    assert found["same_slot"] == 1 and found["first_slot"] == 1 and found["bias"] == 1
    assert found["agreement"] == 0  # both orders averaged: no preference at all


def test_a_labeler_that_knows_the_gold_agrees_with_it():
    margins = np.array([0.3, 0.2, -0.1, -0.4, 0.0])
    p = 0.5 + 0.5 * np.sign(margins) * 0.8
    found = measures.quality(p, 1 - p, margins)
    assert found["gold_agreement"] == 1 and found["same_slot"] == 0
    assert found["bias"] == pytest.approx(0, abs=1e-12)
    assert found["agreement"] == pytest.approx(2 / 5)


def records(gap, worlds=10):
    """Labelers whose share of the same slot falls by `gap` a size."""
    rng = np.random.default_rng(0)
    for world in range(worlds):
        noise = rng.normal(0, 0.01)
        shares = {"tiny": 0.5, "same": 0.5 - gap, "large": 0.5 - 2 * gap}
        yield {
            "method": "rlhf",
            "world": world,
            "seed": 0,
            **{f"labeler/{k}/same_slot": v + noise for k, v in shares.items()},
        }


def test_less_bias_is_better_whichever_way_the_number_goes():
    found = orderings.judge(list(records(0.1)))
    assert {row["word"] for row in found} == {"reproduced"}
    assert all(row["mean"] > 0 for row in found)
    found = orderings.judge(list(records(-0.1)))
    assert {row["word"] for row in found} == {"contradicted"}
    found = orderings.judge(list(records(0.1, worlds=3)))
    assert {row["word"] for row in found} == {"no test"}


def test_holm_is_over_the_pairs_of_a_family():
    found = orderings.judge(list(records(0.1)))
    expected = statistics.holm([row["p"] for row in found])
    np.testing.assert_allclose([row["p_holm"] for row in found], expected)


def test_win_rates_are_over_prompts_and_their_halves():
    judged = {"judge": lambda one, other: np.array([0.9, 0.5, 0.2, 0.6])}
    texts = ["a", "", "ccc", "dd"]
    found = evaluators.wins(judged, (None, texts), (None, texts))
    assert found["win/judge"] == 0.625
    assert (found["win/judge_a"], found["win/judge_b"]) == (0.5, 0.75)
    assert found["win/judge_length_controlled"] == pytest.approx(0.625, abs=1e-4)


def test_win_rates_of_a_pair_add_up_to_one():
    names = "rlhf", "rlaif"
    rows = [
        {"method": names[0], "other": names[1], "unit": str(Unit(w, 0)), **won}
        for w, won in enumerate([{"win/gold": 0.6}, {"win/gold": 0.7}])
    ]
    report = _Report()
    text = sections._matrix(rows, names, measures.WINS["gold"], report)
    assert "65 [60, 70]" in text and "35 [30, 40]" in text


class _Report:
    name = staticmethod(str)


# A run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rlaif")
    return rlaif.run(
        config(output=folder / "run"), console=rich.console.Console(quiet=True)
    )


def test_a_run_measures_win_rates_labelers_and_reward_models(folder):
    found = metrics_log.read(folder / "metrics.jsonl")
    starts = [r for r in found if "labeler/same/bias" in r]
    assert {r["step"] for r in starts if r["method"] != "sft"} == {0}
    ends = {
        r["method"]: r for r in found if r["step"] == 3 and measures.PRIMARY_KEY in r
    }
    assert set(ends) == set(ASKED)
    assert ends["sft"][measures.PRIMARY_KEY] == 0.5  # against itself, every one a tie
    learned = {name for name, r in ends.items() if measures.ACCURACY.key in r}
    assert learned == {"rlhf", "rlaif"}


def test_a_run_says_who_wins_against_whom(folder):
    results = json.loads((folder / "results.json").read_text())
    pairs = {(row["method"], row["other"]) for row in results["matches"]}
    assert len(pairs) == len(ASKED) * (len(ASKED) - 1) // 2
    assert all(0 <= row["win/gold"] <= 1 for row in results["matches"])
    report = (folder / "report.md").read_text()
    for heading in ("Who wins against whom", "The labelers", "Verdicts"):
        assert f"## {heading}" in report
    assert (folder / "win_rates.png").exists()


def test_labels_of_methods_are_told_apart():
    labels = tables.labels(methods.table())
    assert len(set(labels.values())) == len(labels)
