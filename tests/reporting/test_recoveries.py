"""Recovery in two arms: what is paired, and what is censored."""

import numpy as np
import pytest

from rlhf_jax.evaluation import recovery, statistics
from rlhf_jax.reporting import plots, recoveries, report

EVERY, STEPS = 6, 20
ARMS = ("elastic_reset", "reset_to_initial")
REPORT = report.Report("Recovery", sections=(recoveries.section(*ARMS),))


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    for name in ("front", "curves"):
        monkeypatch.setattr(plots, name, lambda *_, **__: None)


def _arm(method, seed, lost, rate):
    """A proxy that rises by `rate`, and by 1 a time at first; a reset takes `lost`."""
    score, rows = 0.0, []
    rows.append(
        {"method": method, "seed": seed, "step": 0, "eval/phase": "start"}
        | {"eval/reward": 0.0, "drift/text_nll": 2.0, "drift/kl_initial": 0.0}
    )
    for iteration in range(STEPS):
        reset = iteration > 0 and iteration % EVERY == 0
        rows.append(
            {"method": method, "seed": seed, "step": iteration + 1}
            | {"objective/scores": score, "reset/reset": float(reset)}
        )
        score = (
            score * (1 - lost) if reset else score + (1.0 if iteration < 7 else rate)
        )
    rows.append({**rows[0], "step": STEPS, "eval/phase": "final"})
    return rows


def _records(seeds, slow=0.5):
    rows = []
    for seed in range(seeds):
        rows += _arm("elastic_reset", seed, 0.3, 1.0 + 0.1 * seed)
        rows += _arm("reset_to_initial", seed, 1.0, slow)
    return rows


def _compare(records):
    return recoveries.compare(records, *ARMS)


def test_arms_are_paired_by_seed_and_reset():
    found = _compare(_records(2))
    assert found["reason"] == "" and set(found["difference"]) == {"0/0", "0/1"}
    first, second, third = found["resets"]
    assert [r["iteration"] for r in found["resets"]] == [6, 12, 18]
    assert (first["watched"], third["watched"]) == (6, 1)
    # Level (4 + 5 + 6)/3 = 5, target 4.5: from 6·0.7 = 4.2 one step; from 0 in halves
    # never within 6.
    assert first["method"]["per_unit"] == {"0/0": 1, "0/1": 1}
    assert first["method"]["regained"] == first["units"] == 2
    assert first["other"]["per_unit"]["0/0"] == 6 and first["other"]["regained"] == 0
    assert (first["first"], first["later"], first["unknown"]) == (2, 0, 0)
    assert third["other"]["regained"] == 0


def test_the_difference_is_of_restricted_means():
    records = _records(1)
    found = _compare(records)
    means = []
    for method in ARMS:
        scores = [
            r["objective/scores"]
            for r in records
            if r["method"] == method and "objective/scores" in r
        ]
        means.append(recovery.restricted(recovery.after_resets(scores, [6, 12, 18])))
    assert found["difference"]["0/0"] == pytest.approx(means[1] - means[0])


def test_eight_worlds_have_an_interval():
    records = [{**row, "world": row["seed"], "seed": 0} for row in _records(8)]
    found = _compare(records)
    gaps = list(found["difference"].values())
    assert found["estimate"] == statistics.t_interval(gaps)._asdict()
    assert found["estimate"]["low"] > 0


def test_turning_the_arms_round_turns_the_difference():
    records = _records(2)
    there = _compare(records)
    back = recoveries.compare(records, "reset_to_initial", "elastic_reset")
    assert back["difference"] == {k: -v for k, v in there["difference"].items()}
    assert back["resets"][0]["later"] == there["resets"][0]["first"]


def test_the_gain_over_the_start_is_what_is_regained():
    records = _records(1)
    for row in records:
        for name in ("objective/scores", "eval/reward"):
            if name in row:
                row[name] += 50.0
    assert _compare(records)["resets"] == _compare(_records(1))["resets"]


def test_an_arm_that_was_not_run_is_no_comparison():
    records = [r for r in _records(1) if r["method"] == "elastic_reset"]
    assert _compare(records) is None


def _without_resets(records):
    for row in records:
        row.pop("reset/reset", None)


def _another_calendar(records):
    for row in records:
        if row["method"] == "reset_to_initial" and row["step"] == 7:
            row["reset/reset"] = 0.0


def _diverge(records):
    records[5]["objective/scores"] = np.nan


def _never_gain(records):
    for row in records:
        row |= {"objective/scores": -1.0} if "objective/scores" in row else {}


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_without_resets, "there was no reset"),
        (_another_calendar, "unit 0/0 was not reset at the same iterations"),
        (_diverge, "not finite in unit 0/0"),
        (_never_gain, "no reset followed a gain"),
    ],
)
def test_arms_that_cannot_be_compared_say_why(spoil, reason):
    records = _records(1)
    spoil(records)
    assert reason in _compare(records)["reason"]


def test_the_page_tells_times_and_censoring_in_words(tmp_path):
    found = report.write(tmp_path, _records(2), REPORT)
    text = (tmp_path / "report.md").read_text()
    assert text.count("## Recovery after a reset") == 1
    line = next(x for x in text.splitlines() if x.startswith("| 7, watched"))
    assert line == (
        "| 7, watched for 6 | 1 [1, 1] | 6 [6, 6] | 2 and 0 of 2 | Elastic reset 2 |"
    )
    assert "Reset to initial − Elastic reset = " in text
    assert set(found["recovery"]["difference"]) == {"0/0", "0/1"}


def test_a_page_of_one_arm_has_no_such_section(tmp_path):
    records = [r for r in _records(1) if r["method"] == "elastic_reset"]
    report.write(tmp_path, records, REPORT)
    assert "Recovery" not in (tmp_path / "report.md").read_text().split("\n", 1)[1]
