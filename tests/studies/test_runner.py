"""Studies end to end: what they leave, what is paired, and that stopping costs nothing.

All in one process but the last test; a whole study is run once.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
import small_study

from experiments import sentiment
from rlhf_jax import averaging
from rlhf_jax.runtime import checkpoint, loop, parallel, progress, provenance
from rlhf_jax.studies import recorder, runner
from rlhf_jax.studies.interfaces import Run, Unit

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def shared(monkeypatch):
    small_study.share(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of an uninterrupted study."""
    return small_study.run_shared(tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture
def copy(whole, tmp_path):
    """A copy of that folder, to be damaged."""
    return pathlib.Path(shutil.copytree(whole, tmp_path / "copy"))


def stop_after(looks, monkeypatch, **changes):
    """A study that is interrupted, and then told to go on."""
    with monkeypatch.context() as patched:
        patched.setattr(loop, "Signals", lambda: small_study.StopAfter(looks))
        with pytest.raises(loop.Interrupted) as stop:
            small_study.run(**changes)
    return stop.value


# What a study leaves


def test_the_folder_of_a_run_holds_what_is_documented(whole):
    names = {path.name for path in whole.iterdir()}
    assert names == {
        "config.json",
        "metrics.jsonl",
        "samples.jsonl",
        "results.json",
        "front.png",
        "curves.png",
        "differences.png",
        "report.md",
        "tensorboard",
        "checkpoints",
    }
    for name in ("front.png", "curves.png", "differences.png"):
        assert (whole / name).read_bytes().startswith(b"\x89PNG")
        assert f"({name})" in (whole / "report.md").read_text()
    kept = {path.name for path in (whole / "checkpoints").iterdir()}
    assert kept == {f"{method}-0-0" for method in small_study.METHODS}


def test_config_json_tells_what_made_the_run(whole):
    facts = json.loads((whole / "config.json").read_text())
    assert facts["config"]["rl"]["rows"] == 8
    assert facts["config"]["rl"]["kl_horizon"] == "inf"  # Infinity is not JSON
    assert facts["digest"] == provenance.digest(small_study.config())
    assert {"python", "jax", "flax", "optax"} <= set(facts["versions"])
    assert {"command", "devices", "machine", "commit", "date"} <= set(facts)


def test_results_json_has_the_documented_schema(whole):
    results = json.loads((whole / "results.json").read_text())
    assert set(results["methods"]) == set(small_study.METHODS)
    assert results["seeds"] == 1 and results["wall_seconds"] > 0
    for method in results["methods"].values():
        assert {"reward", "drift", "hypervolume"} <= set(method)
        assert set(method["drift"]) == {axis.key for axis in sentiment.AXES}
        fronts = set(method["drift"]) if method["checkpoints"] > 1 else set()
        assert set(method["hypervolume"]) == fronts
        for interval in (method["reward"], *method["drift"].values()):
            assert interval["low"] <= interval["mean"] <= interval["high"]


def test_samples_are_kept_for_every_evaluation(whole):
    rows = small_study.lines(whole, "samples.jsonl")
    keys = {"method", "world", "seed", "step", "phase"}
    keys |= {"prompt", "completion", "score"}
    assert all(set(row) == keys for row in rows)
    evaluations = [r for r in small_study.lines(whole) if "eval/phase" in r]
    assert len(rows) == 8 * len(evaluations)


# What is paired


def of(folder, method, kind):
    rows = small_study.lines(folder)
    return [r for r in rows if r["method"] == repr(method) and kind in r]


def test_methods_of_a_seed_begin_with_the_same_rollout(whole):
    first = [of(whole, m, "objective/scores")[0] for m in ("ppo", "elastic_reset")]
    assert first[0]["step"] == first[1]["step"] == "1"
    for name in ("scores", "entropy", "kl", "rlhf_reward"):
        assert first[0][f"objective/{name}"] == first[1][f"objective/{name}"]
    start = [of(whole, m, "eval/phase")[0] for m in ("sft", "ppo", "elastic_reset")]
    plain = [{k: v for k, v in row.items() if k != "method"} for row in start]
    assert plain[0] == plain[1] == plain[2]


def test_methods_are_measured_as_often_and_on_both_sides_of_a_reset(whole):
    steps = {}
    for method in ("sft", "ppo", "elastic_reset"):
        rows = of(whole, method, "eval/phase")
        steps[method] = sorted(int(row["step"]) for row in rows)
    assert steps["sft"] == steps["ppo"] == [0, 1, 2, 3, 4, 5, 6]
    assert steps["elastic_reset"] == [0, 1, 3, 3, 5, 5, 6]
    phases = [
        (int(row["step"]), row["eval/phase"])
        for row in of(whole, "elastic_reset", "eval/phase")
    ]
    assert phases == [
        (0, "'start'"),
        (1, "'train'"),
        (3, "'before_reset'"),
        (3, "'after_reset'"),
        (5, "'before_reset'"),
        (5, "'after_reset'"),
        (6, "'final'"),
    ]


def test_averages_are_measured_wherever_their_source_is(whole):
    def points(method):
        rows = of(whole, method, "eval/phase")
        return [(row["step"], row["eval/phase"]) for row in rows]

    assert points("ppo_ma50") == points("ppo_average") == points("ppo")
    assert len(points("ppo_early_stop")) == 1
    start, *later = (
        [row["drift/kl_initial"] for row in of(whole, method, "eval/phase")]
        for method in ("sft", "ppo", "ppo_ma50")
    )
    assert later[0][0] == later[1][0] == start[0]
    assert later[0][1] != later[1][1]


def test_derived_methods_are_what_they_derive_from(whole, tmp_path):
    config, layout = small_study.config(output=tmp_path), parallel.data(1)
    setting = small_study.setting_of(tmp_path, layout)
    study = sentiment.make_study(config, setting)
    source = Run("ppo", Unit(0, 0), layout)
    trainer = study.methods["ppo"].train(study, source)
    folder = whole / "checkpoints" / source.name
    saved = checkpoint.Checkpointer(folder, config_digest=study.digest)
    _, tree, extra = recorder.restore(study, source, trainer, saved)
    final = trainer.policy(tree["state"])
    expected = {
        "ppo_ma50": averaging.interpolate(study.task.params, final, 0.5),
        "ppo_average": tree["state"].elastic.average,
        "ppo_early_stop": tree["best"],
    }
    for method, policy in expected.items():
        run = source._replace(method=method)
        got = runner.policy(study, whole, layout, run)
        jax.tree.map(np.testing.assert_array_equal, got, policy)
        row = of(whole, method, "eval/phase")[-1]
        for evaluate in study.evaluators:
            metrics, _ = evaluate(policy, run)
            for name, value in metrics.items():
                assert row[name] == repr(value), name
    assert extra["best"]["step"] in {0, *study.evaluations("ppo")}


def test_relatives_and_the_initial_policy_share_the_program(tmp_path, monkeypatch):
    """All of them are in test_study_methods; these need nothing compiled for them."""
    small_study.without_report(monkeypatch)
    names = ("zero_shot", "reference_reset", "ppo_chi2", "ppo_bounded", "best_of_2")
    options = {"methods": names, "steps": 3, "output": tmp_path / "run"}
    place = small_study.run(**options)
    last = {name: of(place, name, "eval/phase")[-1] for name in names}
    assert {row["eval/phase"] for row in last.values()} == {"'after_reset'", "'final'"}
    start = of(place, "ppo_chi2", "eval/phase")[0]
    assert last["zero_shot"]["eval/reward"] == start["eval/reward"]
    assert float(last["best_of_2"]["eval/reward"]) > float(start["eval/reward"]) - 0.3
    assert last["best_of_2"]["drift/kl_initial"] == repr(float(np.log(2) - 0.5))
    for name in names[1:4]:
        losses = of(place, name, "objective/scores")
        assert [row["optim/finite"] for row in losses] == ["1.0"] * 3
    before = small_study.lines(place)
    small_study.run(resume=True, **options)
    assert small_study.lines(place) == before


def test_the_bar_never_goes_back(tmp_path, monkeypatch):
    small_study.without_report(monkeypatch)
    seen, update = [], progress.Progress.update

    def watched(bar, step, **metrics):
        update(bar, step, **metrics)
        seen.append(bar._step)

    monkeypatch.setattr(progress.Progress, "update", watched)
    names = ("zero_shot", "ppo", "ppo_ma50", "ppo_early_stop")  # one of them trains
    changes = {"methods": names, "steps": 3, "seeds": 2}
    small_study.run(output=tmp_path / "run", **changes)
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] == 2 * 3


# Stopping and going on


@pytest.mark.parametrize(
    ("looks", "place_of_stop"),
    [
        (0, "before sft-0-0"),
        (4, "after step 4"),  # of SFT
        (11, "after step 4"),  # of PPO
        (18, "after step 4"),  # of Elastic Reset, after its first reset
        (21, "before ppo_early_stop-0-0"),
    ],
)
def test_a_study_that_was_stopped_and_resumed_is_the_study(
    looks, place_of_stop, whole, tmp_path, monkeypatch
):
    small_study.without_report(monkeypatch)
    place = tmp_path / "run"
    stop = stop_after(looks, monkeypatch, output=place)
    assert stop.folder == place
    assert str(stop) == f"SIGTERM {place_of_stop}"
    small_study.run(output=place, resume=True)
    small_study.assert_same(place, whole)


def test_resuming_a_finished_study_changes_nothing(whole, copy):
    before = {p: p.read_bytes() for p in (copy / "checkpoints").rglob("manifest.json")}
    small_study.run(output=copy, resume=True)
    for name in ("metrics.jsonl", "samples.jsonl", "config.json"):
        assert (copy / name).read_bytes() == (whole / name).read_bytes()
    assert before == {p: p.read_bytes() for p in before}
    results = [json.loads((f / "results.json").read_text()) for f in (copy, whole)]
    for found in results:
        del found["wall_seconds"]
    assert results[0] == results[1]


def test_a_damaged_checkpoint_is_passed_over_and_what_followed_runs_again(
    whole, tmp_path, capsys, monkeypatch
):
    small_study.without_report(monkeypatch)
    place = tmp_path / "run"
    small_study.run(output=place, keep=2)
    newest = max((place / "checkpoints" / "ppo-0-0").glob("step_*"))
    assert newest.name == "step_00000006"
    packed = newest / "state" / "packed" / "0"
    packed.write_bytes(packed.read_bytes()[:-7])
    capsys.readouterr()
    small_study.run(output=place, keep=2, resume=True)
    told = capsys.readouterr().out.splitlines()
    (line,) = [x for x in told if "damaged and passed over" in x]
    assert "ppo-0-0: damaged and passed over: step_00000006 (state/packed/0 has" in line
    assert line.endswith("going on from step_00000004")
    small_study.assert_same(place, whole)


def test_a_run_without_any_intact_checkpoint_is_one_error(copy):
    packed = next((copy / "checkpoints" / "ppo-0-0").rglob("packed/0"))
    packed.write_bytes(b"")
    with pytest.raises(ValueError, match="no checkpoint is intact.*packed/0"):
        small_study.run(output=copy, resume=True)


def test_a_run_whose_checkpoints_were_deleted_runs_again(whole, copy, monkeypatch):
    small_study.without_report(monkeypatch)
    shutil.rmtree(copy / "checkpoints" / "elastic_reset-0-0")
    small_study.run(output=copy, resume=True)
    small_study.assert_same(copy, whole)


def test_a_folder_another_process_works_in_is_refused(copy, monkeypatch):
    small_study.without_report(monkeypatch)
    script = (
        "import sys, time; from rlhf_jax.runtime import files\n"
        "with files.lock(sys.argv[1]):\n    print('in', flush=True); input()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", script, str(copy)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert other.stdout.readline() == "in\n"
    with pytest.raises(ValueError, match="another process is at work in .*copy"):
        small_study.run(output=copy, resume=True)
    other.communicate("\n")
    small_study.run(output=copy, resume=True)


def test_sigterm_saves_and_says_how_to_go_on(tmp_path):
    place = tmp_path / "run"
    plain = {"methods": ("sft",), "reward": "random", "save_every": 1000}
    words = small_study.flags(output=place, steps=100_000, **plain)
    environment = {**os.environ, "XLA_FLAGS": "--xla_backend_optimization_level=0"}
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.sentiment", *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = place / "metrics.jsonl"
    deadline = time.monotonic() + 500
    while not (log.exists() and b'"step": 2' in log.read_bytes()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=500)
    assert process.returncode == 128 + signal.SIGTERM
    (line,) = [x for x in said.splitlines() if x.startswith("stopped")]
    assert line.startswith("stopped by SIGTERM after step")
    assert "to go on: python -m experiments.sentiment" in line
    assert line.endswith("--resume") and f"--output {place}" in line
    (saved,) = (place / "checkpoints" / "sft-0-0").glob("step_*")
    body = json.loads((saved / "manifest.json").read_text())["body"]
    assert f"step {body['step']};" in line


# Methods with settings of their own


def scores(folder, method):
    return [r["objective/scores"] for r in of(folder, method, "objective/scores")]


def test_tuned_methods_run_with_what_was_chosen_for_them(whole, tmp_path):
    chosen = {
        "elastic_reset": {"learning_rate": 5e-4, "weight": 0.5, "every": 3},
        "ppo_ma50": {"learning_rate": 2e-3},
    }
    file = tmp_path / "results.json"
    named = {name: {"values": values} for name, values in chosen.items()}
    file.write_text(json.dumps({"chosen": named}))
    trained = ("ppo", "elastic_reset", "ppo_ma50", "ppo_average")
    place = small_study.run(
        output=tmp_path / "tuned", tuned=file, methods=trained, num_evals=5
    )
    # What was not tuned is the run it was; resets come when they were asked for.
    assert scores(place, "ppo") == scores(whole, "ppo")
    assert scores(place, "elastic_reset")[:4] == scores(whole, "ppo")[:4]
    phases = [
        (int(row["step"]), row["eval/phase"])
        for row in of(place, "elastic_reset", "eval/phase")
    ]
    assert (4, "'before_reset'") in phases and (4, "'after_reset'") in phases
    # Every method is evaluated as often.
    counts = {len(of(place, method, "eval/phase")) for method in trained}
    assert counts == {1 + 5}
    page = (place / "report.md").read_text()
    assert "--rl.decay" in page and "Every run was looked at 5 times." in page


def test_averages_tuned_alike_read_one_run_that_no_report_lists(
    whole, tmp_path, monkeypatch
):
    derived = ("ppo_ma25", "ppo_ma50", "ppo_early_stop")
    file = tmp_path / "results.json"
    named = dict.fromkeys(derived, {"values": {"learning_rate": 2e-3}})
    file.write_text(json.dumps({"chosen": named}))
    place = small_study.run(
        output=tmp_path / "tuned", tuned=file, methods=("ppo_average", *derived)
    )
    small_study.without_report(monkeypatch)
    other = small_study.run(
        output=tmp_path / "other", methods=("ppo", *derived), rl__learning_rate=2e-3
    )
    private = "ppo_for_ppo_early_stop"
    assert scores(place, private) == scores(other, "ppo")
    assert scores(place, "ppo") == scores(whole, "ppo")
    for name in derived:
        here, there = (of(x, name, "eval/phase") for x in (place, other))
        # The clock of an iteration apart, an average is the one of a run at that rate.
        assert here == there and not scores(place, name)
    found = json.loads((place / "results.json").read_text())
    assert private not in found["methods"] and private in found["budget"]
    assert found["budget"][private]["tokens"] > 0
    assert not of(place, private, "eval/phase")
    assert private not in (place / "samples.jsonl").read_text()
    page = (place / "report.md").read_text()
    assert "| PPO for PPO, early stop |" in page.split("## Budget")[1]


@pytest.mark.parametrize(("tuned", "count"), [("ppo_kl", 2), ("ppo", 1)])
def test_tuning_tells_a_method_from_its_twin(tuned, count, tmp_path):
    file = tmp_path / "results.json"
    file.write_text(json.dumps({"chosen": {tuned: {"values": {"kl_coef": 0.03}}}}))
    names = ("ppo_kl", "ppo_kl_matched")
    config = small_study.config(tuned=file, methods=names)
    setting = small_study.setting_of(tmp_path, parallel.data(1))
    assert tuple(sentiment.make_study(config, setting).methods) == names[:count]
