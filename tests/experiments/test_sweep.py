"""Sweeps: equal trials, failures told, the choice by half A, resumed piece by piece.

A runner that trains nothing stands in for the real one; `test_runner` sweeps with that.
"""

import collections
import dataclasses
import importlib
import json
import pathlib
import sys
import types
from typing import NamedTuple

import checks
import numpy as np
import pytest

from experiments import sentiment, sweep
from experiments.sweep import sentiment as swept
from rlhf_jax import elastic_reset, sampling
from rlhf_jax.cli import command
from rlhf_jax.evaluation import axes, pareto
from rlhf_jax.reporting import evaluations, plots
from rlhf_jax.runtime import files, loop, metrics_log, parallel
from rlhf_jax.studies import (
    evaluators,
    interfaces,
    methods,
    runner,
    search,
    sweep_report,
    values,
)
from rlhf_jax.studies import sweep as trials

METHODS = ("ppo", "ppo_kl", "elastic_reset", "ppo_ma50")
CONFIG = dataclasses.replace(
    swept.CONFIG, methods=METHODS, trials=4, seeds=2, steps=30, num_evals=12
)


class Ran(NamedTuple):
    """A trial that was handed to the runner."""

    study: interfaces.Study
    folder: pathlib.Path
    starts: dict


ran = []


def tuned(study):
    """(the method that a trial trains, its `Values`)."""
    ((name, row),) = [(n, m) for n, m in study.methods.items() if m.train]
    return name, row.train.values


def fake_run(study, folder, layout, *, console, signals, starts):
    """Rewards that a setting decides: best at twice the usual rate, on half A."""
    ran.append(Ran(study, folder, starts))
    _, setting = tuned(study)
    (folder / "checkpoints").mkdir(parents=True)
    if stop := loop.stopped(signals):
        raise loop.Interrupted(f"{stop} in a trial")
    with metrics_log.Lines(folder / "metrics.jsonl", resume_offset=0) as log:
        for unit in study.units:
            if setting.learning_rate > 1.9e-3:
                raise loop.NotFinite("step 3: updates were skipped")
            for name in study.methods:
                for row in _rows(name, unit.seed, setting, study.schedule.steps):
                    log.append(row)


def _rows(name, seed, setting, steps):
    place = {"method": name, "seed": seed}
    best = 1.4e-3 if name == "ppo_ma50" else 1e-3
    peak = -abs(np.log2(setting.learning_rate / best)) + 3 + 0.01 * seed
    for step in range(0, steps + 1, 10):
        x = step / steps
        yield {
            **place,
            "step": step,
            "eval/phase": "start" if step == 0 else "train",
            "eval/reward": peak * x,
            "eval/reward_a": peak * x,
            "eval/reward_b": 0.5 * peak * x,
            "eval/gold": 0.1 + x,
            "drift/text_nll": 2 + x,
            "drift/text_nll_a": 1.5 + x,
            "drift/text_nll_b": 2.5 + x,
            "drift/kl_initial": 9 * x,
            "tax/skills": 0.5 - x / 4,
        }
        yield {**place, "step": step + 1, "budget/tokens": 10.0 * step}


@pytest.fixture(autouse=True)
def fakes(monkeypatch):
    ran.clear()
    draw = sampling.Config(max_new_tokens=4, eos_ids=(1,), pad_id=0)
    task = types.SimpleNamespace(
        sampling=draw,
        rewards={"proxy": None},
        params={},
        skills="some",
        facts={"own units": False},
    )
    monkeypatch.setattr(runner, "run", fake_run)
    monkeypatch.setattr(evaluators, "language", lambda task: ((), ("the test",)))
    monkeypatch.setattr(sentiment, "make_task", lambda *_: task)
    monkeypatch.setattr(command, "prepare_devices", lambda *_: None)
    monkeypatch.setattr(plots, "fronts", _picture)
    monkeypatch.setattr(parallel, "layout", lambda *_: parallel.data(1))


def _picture(trials, axes, path, **options):
    path.write_bytes(b"")


draw_fronts = plots.fronts


def run(place, **changes):
    return swept.run(dataclasses.replace(CONFIG, output=str(place), **changes))


@pytest.fixture
def done(tmp_path):
    place = run(tmp_path / "sweep")
    return place, json.loads((place / "results.json").read_text())


# The plan


def test_the_first_trials_of_all_methods_come_first():
    checks.in_rounds(swept.SUBJECT.plan(CONFIG), METHODS[:3], count=4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuned": "results.json"}, "--tuned: a sweep finds it"),
        ({"export": ("ppo",)}, "--export: a sweep keeps no weights"),
        ({"axis": "drift/none"}, "--axis drift/none: choose from drift/text_nll"),
        ({"trials": 0}, "--trials 0: must be a whole number of at least 1"),
        ({"num_evals": 0}, "--num-evals 0: must be a whole number of at least 1"),
        (
            {"space": search.Space(weight=(0.5, 1.0))},
            "--space.weight 0.5 1.0: must be a number above 0 and below 1",
        ),
        ({"methods": ("ppo_gold",)}, "--methods ppo_gold: a control is not tuned"),
        ({"methods": ("zero_shot",)}, "--methods zero_shot: has nothing to tune"),
        (
            {"methods": ("ppo_kl", "ppo_kl_matched")},
            "--methods ppo_kl_matched: it is ppo_kl, unless --override",
        ),
        ({"trials": 10}, "ppo has 9 combinations"),
        ({"steps": 20}, "--space.every 20: a run of 20 steps"),
        ({"num_evals": 3}, "--num-evals 3: elastic_reset"),
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
    monkeypatch.setattr(sys, "argv", ["sweep", *words, "--trials", "3"])
    seen = []
    chosen = importlib.import_module(f"experiments.sweep.{subject}")
    monkeypatch.setattr(chosen, "run", seen.append)
    sweep.main()
    assert seen == [dataclasses.replace(chosen.CONFIG, trials=3)]


# What it leaves


def test_every_method_gets_the_same_number_of_trials_and_seeds(done):
    place, found = done
    counts = collections.Counter(t["method"] for t in found["trials"])
    assert set(counts) == set(METHODS) and set(counts.values()) == {4}
    for told in found["trials"]:
        assert len(told["per_seed"]) == (0 if told["failure"] else 2)
    assert len(list((place / "trials").iterdir())) == 12
    assert not list(place.rglob("checkpoints"))


def test_initial_policies_are_measured_once_for_all_trials(done):
    assert len(ran) == 12 and len({id(trial.starts) for trial in ran}) == 1


def test_trials_of_a_method_differ_and_nobody_shares_a_checkpoint(done):
    assert len({trial.study.digest for trial in ran}) == 12
    for study, folder, _ in ran:
        method, setting = tuned(study)
        assert folder.name.startswith(f"{method}-")
        derived = {"ppo_ma50"} if method == "ppo" else set()
        assert set(study.methods) == {method} | derived
        for name in study.methods:
            steps, resets = study.evaluations(name), study.resets(name)
            assert len(steps - {0}) + len(resets) == 12  # both sides of a reset
        assert tuple(setting.known()) == methods.METHODS[method].tunes


def test_trials_read_no_test_split_and_keep_no_samples(done):
    for study, *_ in ran:
        assert study.at_start == study.at_end == study.of_best == ()
        assert study.schedule.logged_samples == 0


def test_the_choice_is_the_best_mean_hypervolume_of_half_a(done):
    _, found = done
    for method in ("ppo", "ppo_kl", "elastic_reset"):
        own = [t for t in found["trials"] if t["method"] == method]
        fine = {t["trial"]: t["validation"] for t in own if not t["failure"]}
        best = found["chosen"][method]
        assert fine[best["trial"]] == max(fine.values())
        rates = [t["values"]["learning_rate"] for t in own if not t["failure"]]
        nearest = min(rates, key=lambda rate: abs(np.log2(rate / 1e-3)))
        assert best["values"]["learning_rate"] == pytest.approx(nearest)


def test_validation_is_worked_by_hand(done):
    place, found = done
    told = next(t for t in found["trials"] if t["method"] == "ppo_kl")
    (run,) = [
        r
        for r in evaluations.runs(
            metrics_log.read(place / "trials/ppo_kl-0/metrics.jsonl")
        )
        if r.seed == 901
    ]
    peak = run.values(axes.REWARD, half="_a")[-1]
    # Drift 1/3, 2/3, 1 above the start; the corner lies at 1, the start at reward 0.
    assert told["per_seed"]["901"] == pytest.approx(peak * (1 / 3 + 2 / 3) / 3)
    assert told["other_half"] == pytest.approx(0.5 * told["validation"])


def test_what_is_read_off_another_run_has_its_trials_and_a_choice_of_its_own(done):
    _, found = done
    assert set(found["chosen"]) == set(METHODS)
    assert found["derived"] == {"ppo_ma50": "ppo"}
    own, source = (
        [t["values"] for t in found["trials"] if t["method"] == name]
        for name in ("ppo_ma50", "ppo")
    )
    assert own == source and "ppo_ma50" not in found["budget"]
    rates = [setting["learning_rate"] for setting in own]
    best = max(rates, key=lambda rate: (rate < 1.9e-3, -abs(np.log2(rate / 1.4e-3))))
    chosen = found["chosen"]["ppo_ma50"]
    assert chosen["values"] == {"learning_rate": best}


def test_an_early_stop_follows_its_source(tmp_path):
    place = run(tmp_path, methods=("ppo", "ppo_early_stop"))
    found = json.loads((place / "results.json").read_text())
    assert set(found["chosen"]) == {"ppo"}
    assert found["derived"] == {"ppo_early_stop": "ppo"}


def test_the_budget_is_that_of_all_trials(done):
    _, found = done
    fine = sum(t["method"] == "ppo" and not t["failure"] for t in found["trials"])
    assert found["budget"]["ppo"]["tokens"] == 300.0 * 2 * fine


def test_the_report_holds_every_trial_and_says_what_was_cut(done):
    place, found = done
    text = (place / "report.md").read_text()
    assert text.startswith("# Sweep") and "without a test" in text
    for title in ("## What was chosen", "## All trials", "## Budget"):
        assert text.count(title) == 1
    table = text.split("## All trials")[1].split("## Budget")[0]
    assert sum(line.startswith("| ") for line in table.splitlines()) == 1 + 16
    assert "trials 4 instead of 9, calibration seeds 2 instead of 3" in text
    for method, best in found["chosen"].items():
        setting = values.Values(**best["values"])
        written = search.flags(method, methods.METHODS, setting, CONFIG.rl)
        assert best["flags"] == written
        assert f"`{best['flags']}`" in text


def test_a_failed_trial_is_told_and_never_chosen(tmp_path):
    place = run(tmp_path, trials=9, methods=("ppo",))
    found = json.loads((place / "results.json").read_text())
    failed = [t for t in found["trials"] if t["failure"]]
    assert [t["values"]["learning_rate"] for t in failed] == [2e-3]
    assert failed[0]["validation"] is None
    assert found["chosen"]["ppo"]["trial"] != failed[0]["trial"]
    text = (place / "report.md").read_text()
    assert "step 3: updates were skipped" in text


def test_a_method_whose_trials_all_failed_has_no_choice(tmp_path):
    space = search.Space(learning_rate=(1.0, 8.0))
    rl = dataclasses.replace(CONFIG.rl, learning_rate=1.0)
    place = run(tmp_path, trials=2, methods=("ppo",), space=space, rl=rl)
    found = json.loads((place / "results.json").read_text())
    assert found["chosen"] == {} and found["methods"] == {}
    assert "**Every trial failed** of PPO" in (place / "report.md").read_text()


def test_the_choice_is_read_back_as_settings(done):
    place, found = done
    chosen = values.read(place / "results.json")
    assert set(chosen) == set(found["chosen"])
    own = chosen["elastic_reset"]
    average = own.average(decay=0.5, every=99)
    weight = elastic_reset.retained_weight(average["decay"], average["every"])
    assert weight == pytest.approx(own.weight)


# Going on


def test_a_sweep_goes_on_with_the_trial_it_was_stopped_in(tmp_path, monkeypatch):
    place, stops = tmp_path / "sweep", iter([False] * 9 + [True] * 99)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "stopped", lambda _: "SIGTERM" * next(stops))
        with pytest.raises(loop.Interrupted) as stop:
            run(place)
    assert stop.value.folder == place
    before = len(list(place.rglob("trial.json")))
    assert 0 < before < 12 and not (place / "results.json").exists()
    ran.clear()
    for left in place.rglob("checkpoints"):
        left.rmdir()  # what the stand-in's trial had begun
    run(place, resume=True)
    assert len(ran) == 12 - before
    whole = json.loads((run(tmp_path / "whole") / "results.json").read_text())
    found = json.loads((place / "results.json").read_text())
    assert found["trials"] == whole["trials"]


def test_a_second_process_takes_the_trials_that_nobody_has_begun(tmp_path, capsys):
    place = tmp_path / "sweep"
    config = dataclasses.replace(CONFIG, output=str(place), resume=True)
    place.mkdir()
    layout = parallel.data(1)
    command.write_config(place, config, layout)
    first = place / "trials/ppo-0"
    with files.lock(first):  # as long as the other process is at it
        swept.run(config)
        assert len(ran) == 11 and not (place / "results.json").exists()
    said = "".join(capsys.readouterr())
    assert "1 trial is with another process" in said
    ran.clear()
    swept.run(config)
    assert [trial.folder for trial in ran] == [first]
    found = json.loads((place / "results.json").read_text())
    assert (
        found["trials"]
        == json.loads((run(tmp_path / "whole") / "results.json").read_text())["trials"]
    )


def test_what_is_left_is_what_all_processes_leave():
    # Four trials in 400 s, whoever ran them; 4 of 10 are left.
    clock = [(0.0, 0), (500.0, 2), (700.0, 4), (900.0, 6)]
    assert trials._time_left(clock[:2], 10) == ""
    assert trials._time_left(clock, 10) == "; about 6 min 40 s left"


def test_a_finished_sweep_is_not_run_over(done):
    place, _ = done
    with pytest.raises(ValueError, match="holds a sweep already: pass --resume"):
        run(place)
    ran.clear()
    run(place, resume=True)
    assert not ran


# The picture


def _runs(method, peak):
    setting = values.Values(learning_rate=1e-3 * 2**peak)
    rows = [r for seed in (0, 1) for r in _rows(method, seed, setting, 30)]
    return evaluations.runs(rows)


def test_pooled_trials_reach_what_the_best_of_them_does():
    one, two = _runs("ppo", 0.0), _runs("ppo", -2.0)
    drifts = np.linspace(2, 3, 7)
    for run, best in zip(evaluations.pooled([two, one]), one, strict=True):
        assert len(run.rows) == 1 + 2 * 3
        np.testing.assert_array_equal(
            run.picked(axes.REWARD, axes.TEXT_NLL, drifts),
            best.picked(axes.REWARD, axes.TEXT_NLL, drifts),
        )


def test_the_front_of_fronts_is_drawn(tmp_path):
    tried = {"ppo": [_runs("ppo", 0.0), _runs("ppo", -1.0), []]}
    tried["ppo_kl"] = [_runs("ppo_kl", -2.0), _runs("ppo_kl", -0.5)]
    path = tmp_path / "front.png"
    chosen = {"ppo": 0, "ppo_kl": None}
    draw_fronts(tried, sentiment.AXES, path, chosen=chosen, note="2 seeds")
    assert path.stat().st_size > 10_000


def test_validation_never_sees_half_b_and_the_other_half_never_chooses():
    (run, _) = _runs("ppo", 0.0)
    corner = (3.0, 0.0)
    one, two = sweep_report.validation(run, axes.TEXT_NLL, corner)
    changed = [
        {**row, "eval/reward_b": 7.0, "drift/text_nll_b": 2.5} for row in run.rows
    ]
    other = run._replace(rows=changed, start=changed[0])
    assert sweep_report.validation(other, axes.TEXT_NLL, corner)[0] == one
    half = run.points_by_half(axes.TEXT_NLL)[0]
    assert one == pareto.hypervolume(half, corner) and two == pytest.approx(one / 2)


def test_a_trial_that_is_not_finite_failed():
    (run, _) = _runs("ppo", 0.0)
    rows = [*run.rows[:-1], {**run.rows[-1], "eval/reward_a": np.nan}]
    found = sweep_report.validation(run._replace(rows=rows), axes.TEXT_NLL, (3.0, 0.0))
    assert np.isnan(found).all()
