"""What is quoted of real pairs and real text, recomputed from what is kept."""

import json

import numpy as np
import pytest

from experiments import results
from experiments.results import real
from rlhf_jax.evaluation import preference_sets
from rlhf_jax.reporting import best_of_n, recorded
from rlhf_jax.runtime import files


@pytest.fixture(scope="module")
def models():
    return results.report(real.MODELS)["models"]


def test_tests_of_reward_models_are_those_of_their_scores(models):
    for name, one in models.items():
        found = recorded.rounded(preference_sets.measure_all(one["sets"]))
        assert found == one["tests"], name


def test_accuracies_and_temperatures_are_what_a_few_lines_say(models):
    for one in models.values():
        tests = one["tests"]
        for name, kept in one["sets"].items():
            scores, lengths = (np.array(kept[k]) for k in ("scores", "lengths"))
            margins = scores[:, 0] - scores[:, 1]
            found = tests["sets"][name]
            right = pytest.approx((margins > 0).mean(), rel=1e-5)
            assert found["accuracy"]["mean"] == right
            longer = pytest.approx((lengths[:, 0] > lengths[:, 1]).mean(), rel=1e-5)
            assert found["length"]["accuracy_of_length"]["mean"] == longer
            nll = np.logaddexp(0, -margins / tests["temperature"]).mean()
            assert found["scaled"]["nll"] == pytest.approx(nll, rel=1e-4)


def test_every_number_of_the_tables_is_that_of_the_file(models):
    made = real.texts()
    for name, one in models.items():
        for kept in one["tests"]["sets"].values():
            accuracy = f"{kept['accuracy']['mean']:.3g}"
            rows = [r for r in made[f"{real.MODELS}.quality"].splitlines() if name in r]
            assert any(f"| {kept['pairs']} | {accuracy} [" in row for row in rows)
        assert made[f"{real.MODELS}.lengths"].count(f"| {name} |") == len(one["sets"])


@pytest.mark.parametrize("name", real.TEXTS)
def test_the_best_of_n_is_fitted_to_what_its_runs_measured(name):
    kept = results.load(name)
    found = best_of_n.gains(kept.records)
    assert found["relative"] and found["n"][-1] == 64
    gold, d = np.array(list(found["gold_by_unit"].values())), np.array(found["d"])
    assert gold[:, 0].tolist() == [0] * len(gold)
    columns = np.stack([d, -(d**2)], axis=1)[1:]
    alpha, beta = np.linalg.lstsq(
        np.tile(columns, (len(gold), 1)), gold[:, 1:].ravel(), rcond=None
    )[0]
    assert found["fit"]["alpha"]["value"] == pytest.approx(alpha)
    assert found["fit"]["beta"]["value"] == pytest.approx(beta)
    assert f"| 64 | {d[-1]:.3g} |" in real.gains(name)


def test_a_finished_run_is_kept_with_its_picture(tmp_path):
    folder = tmp_path / "mine_40"
    folder.mkdir()
    made = {"model": "m", "dataset": "d", "chat": False, "lora": {"rank": 0}}
    about = {k: k for k in ("command", "digest", "commit", "machine", "date")}
    files.write_json(folder / "config.json", {**about, "config": made, "versions": {}})
    scores = np.random.default_rng(0).normal(size=(40, 2)).round(5)
    sets = {"held-out": {"scores": scores.tolist(), "lengths": [[3, 2]] * 40}}
    files.write_json(folder / "tests.json", sets)
    results.keep_tests(tmp_path / "kept.json", [folder], note="a note")
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert kept["about"]["commands"] == ["command"]
    assert kept["about"]["note"] == "a note"
    one = kept["models"]["mine_40"]
    assert one["sets"] == sets and one["model"] == "m"
    assert one["tests"]["sets"]["held-out"]["pairs"] == 40
    assert (tmp_path / "kept_reliability.png").stat().st_size > 10_000


def test_commands_name_data_and_models_by_variables():
    for name in (real.MODELS, *real.TEXTS):
        about = json.loads((results.FOLDER / f"{name}.json").read_text())["about"]
        assert about["commands"] and about["date"] and about["versions"]
        assert all("$DATA/" in command for command in about["commands"])
