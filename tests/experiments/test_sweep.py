"""Sweeps: equal grids, failures told, the choice by the proxy, a report.

A runner that trains nothing stands in for the real one; `test_sweep_for_real` sweeps
with that.
"""

import dataclasses
import importlib
import sys
import types

import numpy as np
import pytest
from fake_sweep import (
    BEST,
    CONFIG,
    METHODS,
    RATE,
    done,
    draw_fronts,
    fakes,
    grid,
    made,
    nothing_ran,
    of,
    read,
    rows_of,
    run,
    tuned,
)

from experiments import sentiment, sweep
from experiments.sweep import sentiment as swept
from rlhf_jax import elastic_reset
from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import endpoints, evaluations
from rlhf_jax.runtime import metrics_log
from rlhf_jax.studies import (
    methods,
    search,
    sweep_outcome,
    tables,
    values,
)
from rlhf_jax.studies import sweep as trials
from rlhf_jax.studies.interfaces import Unit

__all__ = ["done", "fakes", "nothing_ran"]  # fixtures


# The plan


def test_the_first_rate_of_every_method_comes_first(tmp_path):
    planned = made(tmp_path)
    asked = trials.wanted(planned, trials.paths(planned, {}))
    assert [trial.method for trial in asked] == [*METHODS[:3]] * 7
    assert [trial.name for trial in asked[:4]] == [
        "ppo-lr6.25e-05",
        "ppo_kl-lr6.25e-05-kl0.1",
        "elastic_reset-lr6.25e-05-w0.637956-every14",
        "ppo-lr0.000125",
    ]


def test_the_least_number_of_trials_is_known_before_any(tmp_path):
    planned = made(tmp_path)
    # Rates; β without its own value; w and intervals; w of an average of PPO, whose
    # rates are those of PPO.
    expected = 3 * 7 + 4 + (5 + 3) + 5
    assert trials.at_least(planned, trials.paths(planned, {})) == expected


def test_what_is_left_is_what_all_processes_leave():
    # Four trials in 400 s, whoever ran them; 4 are left.
    clock = [(0.0, 0), (500.0, 2), (700.0, 4), (900.0, 6)]
    assert trials._time_left(clock[:2], 4) == ""
    assert trials._time_left(clock, 4) == ", about 6 min 40 s"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuned": "results.json"}, "--tuned: a sweep finds it"),
        ({"export": ("ppo",)}, "--export: a sweep keeps no weights"),
        ({"axis": "drift/none"}, "--axis drift/none: choose from drift/text_nll"),
        ({"num_evals": 0}, "--num-evals 0: must be a whole number of at least 1"),
        (
            {"space": search.Space(weight=(0.5, 1.0))},
            "--space.weight 0.5 1.0: must be a number above 0 and below 1",
        ),
        (
            {"space": search.Space(extensions=-1)},
            "--space.extensions -1: must be a whole number of at least 0",
        ),
        (
            {"methods": ("ppo_gold",)},
            "--methods ppo_gold: it is run as ppo is tuned",
        ),
        ({"methods": ("zero_shot",)}, "--methods zero_shot: has nothing to tune"),
        (
            {"methods": ("ppo_kl", "ppo_kl_matched")},
            "--methods ppo_kl_matched: it is ppo_kl, unless --override",
        ),
        ({"steps": 20}, "--space.every 20: elastic_reset may be reset every 3 to 19"),
        ({"num_evals": 12}, "--space.every 7: .* every 9 to 49"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_is_made(changes, message):
    with pytest.raises(ValueError, match=message):
        swept.SUBJECT.plan(dataclasses.replace(CONFIG, **changes))


@pytest.mark.parametrize(
    ("words", "subject"),
    [([], "sentiment"), (["pivot_translation"], "pivot_translation")],
)
def test_the_first_word_says_what_is_swept(words, subject, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sweep", *words, "--seeds", "2"])
    seen = []
    chosen = importlib.import_module(f"experiments.sweep.{subject}")
    monkeypatch.setattr(chosen, "run", seen.append)
    sweep.main()
    assert seen == [dataclasses.replace(chosen.CONFIG, seeds=2)]


@pytest.mark.parametrize(
    ("changes", "worlds", "seeds"),
    [
        ({}, 3, 1),
        ({"worlds": 2}, 2, 1),
        ({"dataset": "imdb"}, 1, 3),
        ({"dataset": "imdb", "seeds": 5}, 1, 5),
    ],
)
def test_units_are_worlds_and_of_texts_seeds(changes, worlds, seeds, monkeypatch):
    seen = []
    monkeypatch.setattr(swept, "SUBJECT", types.SimpleNamespace(run=seen.append))
    swept.run(dataclasses.replace(swept.CONFIG, **changes))
    (found,) = seen
    assert (found.worlds, found.seeds) == (worlds, seeds)
    assert found.microworld.world == 900 and found.first_seed == 900


# What it leaves


def test_every_method_begins_with_the_same_rates(done):
    place, found, ran = done
    rates = [RATE * 2.0**n for n in range(-3, 4)]
    for method in METHODS:
        assert grid(found, method, "learning_rate")[:7] == pytest.approx(rates)
    assert not list(place.rglob("checkpoints"))
    folders = {path.name for path in (place / "trials").iterdir()}
    assert len(folders) == len(ran) == len({trial.folder for trial in ran})
    assert folders == {told["folder"] for told in found["trials"]}


def test_initial_policies_are_measured_once_for_all_trials(done):
    assert len({id(trial.starts) for trial in done[2]}) == 1


def test_trials_of_a_method_differ_and_nobody_shares_a_checkpoint(done):
    _, _, ran = done
    assert len({trial.study.digest for trial in ran}) == len(ran)
    for study, folder, _ in ran:
        method, _ = tuned(study)
        assert folder.parent.name.startswith(f"{method}-")
        derived = {"ppo_average", "ppo_ma50"} if method == "ppo" else set()
        assert set(study.methods) == {method} | derived
        for name in study.methods:
            steps, resets = study.evaluations(name), study.resets(name)
            assert len(steps - {0}) + len(resets) == 16  # both sides of a reset


def test_trials_read_no_test_split_and_keep_no_samples(done):
    for study, *_ in done[2]:
        assert study.at_start == study.at_end == study.of_best == ()
        assert study.schedule.logged_samples == 0


def test_the_choice_is_best_along_every_line(done):
    _, found, _ = done
    best = {name: one["values"] for name, one in found["chosen"].items()}
    assert best["ppo"] == {"learning_rate": 2 * RATE}
    assert best["ppo_kl"] == pytest.approx({"learning_rate": 1e-3, "kl_coef": 0.3})
    # The grid of w was followed to its limit, that of intervals not at all.
    assert best["elastic_reset"]["weight"] == pytest.approx(
        1 / (1 + 9 * 3**4), rel=1e-5
    )
    assert best["elastic_reset"]["every"] == 10
    assert best["ppo_average"] == pytest.approx({"learning_rate": 1e-3, "weight": 0.9})
    for method in METHODS:
        own = of(found, method)
        mean = max(t["mean"] for t in own.values() if not t["failure"])
        assert own[found["chosen"][method]["trial"]]["mean"] == mean


def test_what_is_read_off_another_run_is_searched_by_itself(done):
    _, found, ran = done
    assert found["derived"] == dict.fromkeys(("ppo_average", "ppo_ma50"), "ppo")
    # Its rate lies where PPO's grid never went, and those trials are its own.
    assert found["chosen"]["ppo_ma50"]["values"] == {"learning_rate": 32 * RATE}
    own, source = (grid(found, m, "learning_rate") for m in ("ppo_ma50", "ppo"))
    assert own[:7] == source and own[7:] == pytest.approx([16 * RATE, 32 * RATE, 0.032])
    shared = {t["folder"] for t in of(found, "ppo").values()}
    assert {t["folder"] for t in of(found, "ppo_ma50").values()} > shared
    budget = found["budget"]
    assert budget["ppo"]["trials"] == 7 and budget["ppo_ma50"]["trials"] == 3
    assert budget["ppo_ma50"]["settings"] == 10
    assert sum(told["trials"] for told in budget.values()) == len(ran)


def test_an_early_stop_has_a_rate_of_its_own(tmp_path):
    found = read(run(tmp_path, methods=("ppo", "ppo_early_stop")))
    assert set(found["chosen"]) == {"ppo", "ppo_early_stop"}
    assert found["budget"]["ppo_early_stop"]["trials"] == 0


def test_the_budget_is_that_of_all_trials(done):
    _, found, _ = done
    tokens = 10.0 * CONFIG.steps * CONFIG.worlds
    for told in found["budget"].values():
        assert told.get("tokens", 0) == tokens * told["trials"]


def test_what_a_trial_reached_is_the_declared_endpoint(done):
    place, found, _ = done
    told = of(found, "ppo_kl")[1]
    rows = metrics_log.read(place / "trials" / told["folder"] / "study/metrics.jsonl")
    axis = axes.with_corners(sentiment.AXES, dataclasses.asdict(CONFIG.corner))
    table = endpoints.table(evaluations.runs(rows), axes=axis)["ppo_kl"]
    values = table["hypervolume/drift/text_nll"]
    assert told["per_unit"] == {str(unit): value for unit, value in values.items()}
    assert set(told["per_unit"]) == {"900/900", "901/900"}
    assert told["mean"] == pytest.approx(np.mean(list(values.values())))
    assert told["error"] == pytest.approx(np.std(list(values.values())))  # n = 2


def test_the_report_says_what_was_tried_and_why_it_was_chosen(done):
    place, found, _ = done
    text = (place / "report.md").read_text()
    assert text.startswith("# Sweep") and "without a test" in text
    titles = ("What was chosen", "How it was chosen", "Budget", "All trials")
    for title in titles:
        assert text.count(f"## {title}") == 1
    table = text.split("## All trials")[1].split("## How it was made")[0]
    rows = sum(line.startswith("| ") for line in table.splitlines())
    assert rows == 1 + len(found["trials"])
    assert "Cut: 2 units instead of 3" in text
    for method, best in found["chosen"].items():
        setting = values.Values(**best["values"])
        written = search.flags(method, methods.METHODS, setting, CONFIG.rl)
        assert best["flags"] == written
        assert f"`{best['flags']}`" in text
    why = text.split("## How it was chosen")[1].split("## Budget")[0]
    (rates,) = [x for x in why.splitlines() if x.startswith("| ½ PPO")]
    assert "extended above by 3 (the edge was best)" in rates
    assert "**0.016: " in rates and " ± " in rates
    (weights,) = [x for x in why.splitlines() if x.startswith("| Elastic Reset | w")]
    assert "extended below by 4" in weights and "at its limit below" in weights


def test_a_failed_trial_is_told_and_never_chosen(tmp_path, monkeypatch):
    monkeypatch.setitem(BEST, "ppo", 1.0)
    found = read(run(tmp_path, methods=("ppo",)))
    own = of(found, "ppo")
    (failed,) = [t for t in own.values() if t["failure"]]
    assert failed["values"] == {"learning_rate": 128 * RATE} and failed["mean"] is None
    assert found["chosen"]["ppo"]["values"] == {"learning_rate": 64 * RATE}
    text = (tmp_path / "report.md").read_text()
    assert "step 3: updates were skipped" in text and "0.064: failed" in text


def test_a_method_whose_trials_all_failed_has_no_choice(tmp_path):
    rl = dataclasses.replace(CONFIG.rl, learning_rate=1.0)
    found = read(run(tmp_path, methods=("ppo",), rl=rl))
    assert found["chosen"] == {} and found["methods"] == {}
    assert "**Every trial failed** of PPO" in (tmp_path / "report.md").read_text()


def test_the_choice_is_read_back_as_settings(done):
    place, found, _ = done
    chosen = values.read(place / "results.json")
    assert set(chosen) == set(found["chosen"])
    own = chosen["elastic_reset"]
    average = own.average(decay=0.5, every=99)
    weight = elastic_reset.retained_weight(average["decay"], average["every"])
    assert weight == pytest.approx(own.weight)
    table = tables.with_values(methods.METHODS, chosen)
    assert table["ppo_ma50"].source == "ppo_for_ppo_ma50"
    assert table["ppo_for_ppo_ma50"].train.values == chosen["ppo_ma50"]


# What is compared


def test_worlds_are_averaged_within_and_compared_between():
    found = {"900/0": 1.0, "900/1": 3.0, "901/0": 5.0, "901/1": 5.0}
    assert sweep_outcome.outcome(found) == (2.0, 5.0)
    assert sweep_outcome.outcome({"0/900": 1.0, "0/901": 3.0}) == (1.0, 3.0)
    assert sweep_outcome.outcome({"0/900": 1.0, "0/901": None}) == ()


@pytest.mark.parametrize("key", ["eval/reward", "drift/text_nll"])
def test_what_is_not_finite_or_missing_reached_nothing(key):
    rows = [*rows_of("ppo", Unit(900, 0), values.Values(RATE), 30)]
    asked = (Unit(900, 0), Unit(901, 0))

    def reached(rows):
        return sweep_outcome.reached(
            rows, "ppo", asked, sentiment.AXES, axes.TEXT_NLL.key
        )

    fine = reached(rows)
    assert fine["900/0"] > 0 and fine["901/0"] is None
    rows[4] = {**rows[4], key: np.nan}
    assert reached(rows) == {"900/0": None, "901/0": None}


def test_a_single_look_covers_a_rectangle_on_the_half_that_did_not_pick_it():
    start, *_, last = [
        row
        for row in rows_of("ppo", Unit(0, 0), values.Values(2 * RATE), 30)
        if "eval/reward" in row
    ]
    last = {**last, "drift/text_nll_b": 2.4, "method": "ppo_early_stop"}

    def reached(last):
        asked, key = (Unit(0, 0),), axes.TEXT_NLL.key
        rows = [start, last]
        return sweep_outcome.reached(rows, "ppo_early_stop", asked, sentiment.AXES, key)

    # Half B gained 3 and drifted by 0.4, of a corner at 1.
    assert reached(last)["0/0"] == pytest.approx(3 * 0.6)
    assert reached({**last, "eval/reward_b": -1.0}) == {"0/0": 0.0}
    assert reached({**last, "drift/text_nll_b": 3.5}) == {"0/0": 0.0}
    assert reached({**last, "eval/reward": np.nan}) == {"0/0": None}


# The picture


def _runs(method, peak):
    setting = values.Values(learning_rate=1e-3 * 2**peak)
    rows = [r for seed in (0, 1) for r in rows_of(method, Unit(0, seed), setting, 30)]
    return evaluations.runs(rows)


def test_pooled_trials_reach_what_the_best_of_them_does():
    one, two = _runs("ppo", 0.0), _runs("ppo", -2.0)
    drifts = np.linspace(0, 1, 7)
    for pool, best in zip(evaluations.pooled([two, one]), one, strict=True):
        assert len(pool.rows) == 2 * (1 + 3)
        np.testing.assert_allclose(
            pool.attained(axes.REWARD, axes.TEXT_NLL, drifts),
            best.attained(axes.REWARD, axes.TEXT_NLL, drifts),
        )


def test_the_front_of_fronts_is_drawn(tmp_path):
    tried = {"ppo": [_runs("ppo", 0.0), _runs("ppo", -1.0), []]}
    tried["ppo_kl"] = [_runs("ppo_kl", -2.0), _runs("ppo_kl", -0.5)]
    path = tmp_path / "front.png"
    chosen = {"ppo": 0, "ppo_kl": None}
    draw_fronts(tried, sentiment.AXES, path, chosen=chosen, note="2 seeds")
    assert path.stat().st_size > 10_000
