"""The picture of the comparisons: dots of units and worlds, what was tested."""

import matplotlib.image
import numpy as np
import pytest
import reporting_records as records

from rlhf_jax.reporting import claims, dots, evaluations, figure_style, report

REPORT = report.Report("Dots", axes=records.AXES)
PRIMARY = claims.Claim("elastic_reset", ("ppo", "ppo_kl"), "reward")
BESIDE = claims.Claim("elastic_reset", ("ppo",), "gold", secondary=True)


def _findings(*declared, **options):
    runs = evaluations.runs(records.make(2, **options))
    return claims.judge(declared, runs, axes=records.AXES)


@pytest.fixture
def drawn(monkeypatch):
    """What was drawn in the one panel: (x, y) of every line, texts, the note."""
    found = {}

    def finish(sheet, groups, path, title, note):
        (panel,) = sheet.axes
        found["lines"] = [line.get_xydata() for line in panel.get_lines()]
        found["texts"] = [text.get_text().strip() for text in panel.texts]
        found["ticks"] = [label.get_text() for label in panel.get_yticklabels()]
        found["note"], found["keys"] = note, [k.get_label() for k in groups[0]]
        return path

    monkeypatch.setattr(figure_style, "finish", finish)
    return found


def test_every_unit_and_every_world_is_a_dot_at_its_difference(drawn):
    findings = _findings(PRIMARY, BESIDE, worlds=8)
    dots.differences(findings, "x.png", REPORT)
    sizes = sorted(len(line) for line in drawn["lines"])
    assert sizes.count(16) == 2 and sizes.count(8) == 2  # units and worlds, twice
    gaps = sorted(findings[0].differences.values())
    dotted = [sorted(line[:, 0]) for line in drawn["lines"] if len(line) == 16]
    assert any(np.allclose(x, gaps) for x in dotted)
    assert drawn["texts"] == [f.verdict.word for f in findings[:2]]
    assert drawn["ticks"][1] == "Elastic reset is better than PPO"  # on top
    assert "95% interval" in drawn["keys"]


def test_seeds_of_one_world_are_dots_without_an_interval(drawn):
    dots.differences(_findings(PRIMARY), "x.png", REPORT)
    assert drawn["texts"] == [] and "95% interval" not in drawn["keys"]
    assert "mean of a world" not in drawn["keys"]
    assert sorted(len(line) for line in drawn["lines"])[-1] == 2


def test_without_a_primary_comparison_there_is_no_picture(tmp_path):
    assert dots.differences(_findings(BESIDE), tmp_path / "x.png", REPORT) is None
    assert not (tmp_path / "x.png").exists()


def test_it_is_a_picture(tmp_path):
    path = dots.differences(_findings(PRIMARY, worlds=8), tmp_path / "x.png", REPORT)
    assert matplotlib.image.imread(path).shape[1] > 1000
