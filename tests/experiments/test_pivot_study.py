"""A study of the game end to end on a made-up language; stopping costs nothing.

Slow: about twenty programs are compiled.
"""

import json
import shutil

import jax
import numpy as np
import pytest
import small_game
import small_study

from experiments import pivot_translation
from experiments.pivot_translation import options, sections
from rlhf_jax.runtime import loop, parallel
from rlhf_jax.studies import runner
from rlhf_jax.studies.interfaces import Run, Unit

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(folder of parallel text, cache): agents are pretrained once."""
    home = tmp_path_factory.mktemp("game")
    return small_game.write(home / "data"), home / "cache"


@pytest.fixture(autouse=True)
def shared(monkeypatch):
    small_game.share(monkeypatch)


@pytest.fixture(scope="module")
def whole(made, tmp_path_factory):
    """The folder of an uninterrupted study."""
    data, cache = made
    place = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patched:
        small_game.share(patched)
        config = small_game.config(data, output=str(place), cache=str(cache))
        return pivot_translation.run(config)


def test_the_folder_holds_what_is_documented(whole):
    names = {path.name for path in whole.iterdir()}
    assert {"config.json", "metrics.jsonl", "samples.jsonl", "results.json"} <= names
    for name in ("front.png", "curves.png"):
        assert (whole / name).read_bytes().startswith(b"\x89PNG")
    text = (whole / "report.md").read_text()
    for part in ("## At the best BLEU-De", "## At the end", "extra supervision"):
        assert part in text
    results = json.loads((whole / "results.json").read_text())
    assert set(results["methods"]) == set(small_game.METHODS)
    for method in results["methods"].values():
        assert set(method["drift"]) == {axis.key for axis in sections.AXES}
    budget = results["budget"]
    assert budget["reinforce"]["gradient_steps"] == 6
    assert budget["sil"]["gradient_steps"] == 6 + 3  # one generation of 2 and 1


def test_samples_hold_both_languages_of_every_evaluation(whole):
    rows = small_study.lines(whole, "samples.jsonl")
    texts = {"prompt", "completion", "english", "german", "output"}
    place = {"method", "seed", "step", "phase"}
    assert all(set(row) == texts | place for row in rows)
    evaluations = [r for r in small_study.lines(whole) if "eval/phase" in r]
    assert len(rows) == 8 * len(evaluations)


def of(folder, method, kind):
    return [
        r
        for r in small_study.lines(folder)
        if r["method"] == repr(method) and kind in r
    ]


def test_methods_of_a_seed_begin_with_the_same_messages(whole):
    names = ("frozen_sender", "reinforce", "s2p_1", "sil", "elastic_reset")
    first = [of(whole, name, "objective/scores")[0] for name in names]
    for metric in ("objective/scores", "response/tokens", "objective/entropy"):
        assert len({row[metric] for row in first}) == 1


def test_a_frozen_sender_says_the_same_to_the_end(whole):
    rows = of(whole, "frozen_sender", "eval/phase")
    assert {row["drift/bleu_en"] for row in rows} == {"0.0"}
    assert len({row["drift/message_nll"] for row in rows}) == 1
    assert len({row["drift/text_nll"] for row in rows}) == 1


def test_resets_and_handovers_are_measured_on_both_sides(whole):
    for name, step in (("elastic_reset", 4), ("sil", 3)):
        phases = [
            row["eval/phase"]
            for row in of(whole, name, "eval/phase")
            if int(row["step"]) == step
        ]
        assert phases == ["'before_reset'", "'after_reset'"], name


def test_test_sentences_are_read_at_the_end_of_every_method(whole):
    for name in small_game.METHODS:
        assert len(of(whole, name, "test/bleu_de")) == 1, name
    for name in ("reinforce", "sil", "elastic_reset"):
        assert len(of(whole, name, "best/bleu_de")) == 1


def test_an_average_keeps_the_receiver_of_the_run(whole, made):
    config = small_game.config(made[0], output=str(whole), cache=str(made[1]))
    layout = parallel.data(1)
    task = pivot_translation.make_task(config, small_game.setting(made[1], layout))
    study = options.study(config, task)
    ends = {
        name: runner.policy(study, whole, layout, Run(name, Unit(0, 0)))
        for name in ("reinforce", "reinforce_ma50")
    }
    same = [ends[name]["receiver"] for name in ends]
    jax.tree.map(np.testing.assert_array_equal, *same)
    half = jax.tree.map(
        lambda a, b: 0.5 * a + 0.5 * b,
        task.params["sender"],
        ends["reinforce"]["sender"],
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, 1e-6, 1e-7),
        ends["reinforce_ma50"]["sender"],
        half,
    )


@pytest.mark.parametrize("checks", [1, 9, 20, 27])
def test_a_study_that_was_stopped_and_resumed_is_the_study(
    checks, whole, made, tmp_path, monkeypatch
):
    small_study.without_report(monkeypatch)
    data, cache = made
    rest = {"output": str(tmp_path / "run"), "cache": str(cache)}
    with monkeypatch.context() as patched:
        patched.setattr(loop, "Signals", lambda: small_study.StopAfter(checks))
        with pytest.raises(loop.Interrupted) as stop:
            pivot_translation.run(small_game.config(data, **rest))
    assert stop.value.folder == tmp_path / "run"
    pivot_translation.run(small_game.config(data, resume=True, **rest))
    small_study.assert_same(tmp_path / "run", whole)


def test_resuming_a_finished_study_changes_nothing(whole, made, tmp_path):
    copy = shutil.copytree(whole, tmp_path / "copy")
    config = small_game.config(
        made[0], output=str(copy), cache=str(made[1]), resume=True
    )
    pivot_translation.run(config)
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (copy / name).read_bytes() == (whole / name).read_bytes()


def test_what_a_sweep_chose_is_what_a_study_runs_and_says(made, whole, tmp_path):
    data, cache = made
    chosen = {
        "reinforce": {"learning_rate": 5e-3},
        "elastic_reset": {"learning_rate": 5e-4, "weight": 0.5, "every": 2},
        "reinforce_ma50": {"learning_rate": 1e-3},
    }
    file = tmp_path / "results.json"
    values = {name: {"values": one} for name, one in chosen.items()}
    file.write_text(json.dumps({"chosen": values}))
    config = small_game.config(
        data,
        cache=str(cache),
        methods=tuple(chosen),
        num_evals=6,
        tuned=str(file),
        output=str(tmp_path / "run"),
    )
    folder = pivot_translation.run(config)
    text = (folder / "report.md").read_text()
    assert f"Tuned by {file}: reinforce: --rl.learning-rate 0.005;" in text
    assert "reinforce_ma50: --rl.learning-rate 0.001." in text

    def rates(method):
        rows = of(folder, method, "optim/learning_rate")
        return [float(row["optim/learning_rate"]) for row in rows]

    assert rates("reinforce")[0] == pytest.approx(5e-3)
    assert rates("reinforce_for_reinforce_ma50")[0] == pytest.approx(1e-3)
    assert "reinforce_for_reinforce_ma50" not in text
    resets = [
        float(r["reset/reset"]) for r in of(folder, "elastic_reset", "reset/reset")
    ]
    assert resets == [0, 0, 1, 0, 1, 0]
    assert rates("elastic_reset") == [
        float(row["optim/learning_rate"])
        for row in of(whole, "elastic_reset", "optim/learning_rate")
    ]


def test_text_that_is_nowhere_is_one_error(made, tmp_path):
    config = small_game.config(
        tmp_path / "nothing", output=str(tmp_path / "run"), cache=str(made[1])
    )
    with pytest.raises(ValueError, match="nothing: neither a folder, nor a file"):
        pivot_translation.run(config)
