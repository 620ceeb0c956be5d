"""Kept results: what is saved can be recomputed, and a changed number is noticed."""

import dataclasses
import json

import numpy as np
import pytest
import reporting_records

from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import (
    claims,
    families,
    plots,
    recorded,
    recoveries,
    report,
)
from rlhf_jax.reporting.sections import Section
from rlhf_jax.runtime import files

REPORT = report.Report(
    "Kept",
    axes=reporting_records.AXES,
    claims=(
        claims.Claim("elastic_reset", ("ppo", "ppo_kl"), "reward", family="Rivals"),
        claims.Claim("ppo_kl", ("ppo",), "hypervolume/drift/text_nll", secondary=True),
    ),
    sections=(recoveries.section("elastic_reset", "ppo"),),
)
MADE = {
    "command": "python -m experiments.sentiment",
    "digest": "0123abcd",
    "commit": "abc",
    "machine": "x86_64, 2 cores",
    "date": "2026-11-28T10:00:00",
    "versions": {"jax": "0.10"},
}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    for name in ("front", "curves"):
        monkeypatch.setattr(plots, name, lambda *_, **__: None)


def _run(folder, records):
    folder.mkdir()
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "metrics.jsonl").write_text(lines)
    files.write_json(folder / "config.json", MADE)
    report.write(folder, records, REPORT)
    return folder


@pytest.fixture
def kept(tmp_path):
    records = reporting_records.make(2, worlds=8)
    records[3]["eval/reward"] = float("nan")  # of PPO in 0/0, which diverged
    run = _run(tmp_path / "run", records)
    path = tmp_path / "kept.json"
    recorded.save(path, [run], note="for a test")
    return run, path


def test_a_kept_result_is_recomputed_to_the_last_digit(kept):
    _, path = kept
    found = recorded.load(path)
    assert recorded.recompute(found) == found.summary
    assert found.axes == REPORT.axes
    assert found.about["commands"] == [MADE["command"]]
    assert found.about["note"] == "for a test"


def test_it_says_what_the_report_of_the_run_said(kept):
    run, path = kept
    made = json.loads((run / "results.json").read_text())
    found = recorded.load(path).summary
    for name, method in made["methods"].items():
        mean = method["gold"]["mean"]
        assert found["methods"][name]["gold"]["mean"] == pytest.approx(mean, rel=1e-5)
    for one, two in zip(found["verdicts"], made["verdicts"], strict=True):
        for key in ("method", "other", "word", "worlds", "void", "family"):
            assert one[key] == two[key]
        assert one["mean"] == pytest.approx(two["mean"], rel=1e-3)
        assert len(one["per_unit"]) == 16
    assert found["recovery"]["reason"] == made["recovery"]["reason"]
    assert found["methods"]["ppo"]["diverged"] == ["0/0"]


def test_a_changed_number_is_noticed(kept):
    _, path = kept
    data = json.loads(path.read_text())
    data["runs"][4]["eval/reward"][1] += 0.01
    path.write_text(json.dumps(data))
    found = recorded.load(path)
    assert recorded.recompute(found) != found.summary


def test_runs_of_several_folders_are_one_result(tmp_path):
    records = reporting_records.make(1, worlds=8)
    parts = [[r for r in records if (r["world"] < 4) == first] for first in (True, 0)]
    runs = [_run(tmp_path / f"run{i}", part) for i, part in enumerate(parts)]
    found = recorded.save(tmp_path / "kept.json", runs)
    assert found.summary["worlds"] == 8
    assert [v["worlds"] for v in found.summary["verdicts"]] == [8, 8, 8]
    with pytest.raises(ValueError, match="both hold ppo, world/seed 0/0"):
        recorded.save(
            tmp_path / "twice.json", [runs[0], _run(tmp_path / "b", parts[0])]
        )


def test_a_file_has_a_line_a_run(kept):
    lines = kept[1].read_text().splitlines()
    assert sum(line.startswith('  {"method"') for line in lines) == 3 * 16
    assert axes.TEXT_NLL.key in kept[1].read_text()


def test_what_a_report_reads_of_training_is_kept(tmp_path):
    """Beside the evaluations, of every run, and never mistaken for one."""
    records = reporting_records.make(1, worlds=8)
    training = Section("training", lambda evidence: ["objective/kl"], lambda *_: ())
    about = dataclasses.replace(REPORT, sections=(training,))
    run = _run(tmp_path / "run", records)
    report.write(run, records, about)
    found = recorded.save(tmp_path / "kept.json", [run])
    logged = [r for r in found.records if "objective/kl" in r]
    assert len(logged) == 8 * 3 * 12 and "eval/reward" not in logged[0]
    given = [r["objective/kl"] for r in records if "objective/kl" in r]
    kept = [r["objective/kl"] for r in logged]
    np.testing.assert_allclose(sorted(kept), sorted(given), rtol=1e-5)
    assert recorded.recompute(found) == found.summary


def test_settings_that_were_read_as_families_are_kept_as_settings(tmp_path):
    """Every evaluation of a setting is there, and what averages said of themselves."""
    records = reporting_records.make(1, worlds=8)
    for record in records:
        if record["method"] == "ppo_kl" and record.get("eval/phase") == "final":
            record["average/ratio_0"] = 0.25
    knob = {"knob": families.Family("A knob", ("ppo_kl", "ppo"))}
    claim = claims.Claim("knob", ("elastic_reset",), "reward")
    alone = {**knob, "elastic_reset": families.Family("", ("elastic_reset",))}
    read = families.records(records, alone)
    about = report.Report(
        "Kept",
        axes=reporting_records.AXES,
        claims=(claim,),
        sections=(families.section(alone),),
    )
    run = tmp_path / "run"
    run.mkdir()
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (run / "metrics.jsonl").write_text(lines)
    files.write_json(run / "config.json", MADE)
    made = report.write(run, read, about)
    path = tmp_path / "kept.json"
    found = recorded.save(path, [run])
    assert recorded.recompute(recorded.load(path)) == found.summary
    assert {row["method"] for row in found.records} == {
        "ppo",
        "ppo_kl",
        "elastic_reset",
    }
    assert set(found.summary["methods"]) == set(made["methods"]) == set(alone)
    assert found.summary["methods"]["knob"]["checkpoints"] == 2
    ratios = [r["average/ratio_0"] for r in found.records if "average/ratio_0" in r]
    assert ratios == [0.25] * 8
