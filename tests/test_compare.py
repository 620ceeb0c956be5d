"""Runs of one study in several worlds, pooled: the seeds of all, the claims judged."""

import json

import numpy as np
import pytest
import reporting_records

from experiments import compare, sentiment


def study(tmp_path, name, *, first, count):
    """A run folder of `count` seeds from `first` on."""
    folder = tmp_path / name
    folder.mkdir()
    rows = reporting_records.make(first + count)
    kept = [json.dumps(row) for row in rows if row["seed"] >= first]
    (folder / "metrics.jsonl").write_text("\n".join(kept) + "\n")
    (folder / "samples.jsonl").write_text("")
    return str(folder)


def test_pooled_runs_are_one_study_with_verdicts(tmp_path):
    parts = [study(tmp_path, "a", first=0, count=4)]
    parts += [study(tmp_path, "b", first=4, count=5)]
    whole = study(tmp_path, "whole", first=0, count=9)
    pages = [
        compare.run(
            compare.Config(
                runs=tuple(runs),
                pool=True,
                claims="sentiment",
                output=str(tmp_path / f"page-{len(runs)}"),
            )
        )
        for runs in (parts, [whole])
    ]
    pooled, alone = (json.loads((p / "results.json").read_text()) for p in pages)
    assert pooled["seeds"] == 9 and pooled["interval"] == "t95"
    assert set(pooled["methods"]) == {"ppo", "ppo_kl", "elastic_reset"}
    for name, method in alone["methods"].items():
        for end in ("mean", "low", "high"):
            np.testing.assert_allclose(
                pooled["methods"][name]["reward"][end], method["reward"][end]
            )
    page = (pages[0] / "report.md").read_text()
    assert "reproduced" in page and "Elastic Reset" in page
    judged = [c for c in sentiment.CLAIMS if c.others == sentiment.RIVALS]
    assert [c.group for c in judged] == ["hypervolume"] * 3 + ["reward_at"] * 3 + [
        "drift_at"
    ] * 3
    words = [[v["word"] for v in page["verdicts"]] for page in (pooled, alone)]
    assert words[0] == words[1] and "reproduced" in words[0]
    told = {v["other"] for v in pooled["verdicts"] if v["word"] != "none"}
    assert told == {"ppo", "ppo_kl"}


def test_a_seed_in_two_pooled_runs_is_refused(tmp_path):
    runs = [study(tmp_path, n, first=0, count=f) for n, f in (("a", 2), ("b", 1))]
    with pytest.raises(ValueError, match=r"a and b both hold \w+, seed 0"):
        compare.run(compare.Config(runs=tuple(runs), pool=True))


def test_claims_of_no_experiment_are_refused(tmp_path):
    run = study(tmp_path, "a", first=0, count=2)
    with pytest.raises(ValueError, match="--claims nothing: no experiment"):
        compare.run(compare.Config(runs=(run,), claims="nothing"))
