"""The ablation table: paired differences of methods that differ in one part."""

import numpy as np
import pytest
import reporting_records

from experiments.sentiment import ablations
from rlhf_jax.evaluation import statistics
from rlhf_jax.reporting import contrasts, plots, report, results
from rlhf_jax.studies import methods

AXES, CORNERS = reporting_records.AXES, reporting_records.CORNERS
PAIRS = (
    contrasts.Contrast("resets", "elastic_reset", "ppo"),
    contrasts.Contrast("a penalty", "ppo_kl", "ppo"),
    contrasts.Contrast("what was not run", "elastic_reset", "reset_to_initial"),
)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    for name in ("front", "curves"):
        monkeypatch.setattr(plots, name, lambda *_, **__: None)


def _summary(seeds):
    return results.summarize(reporting_records.make(seeds), axes=AXES, corners=CORNERS)


def test_differences_are_of_the_same_seed_and_in_favour_of_the_part():
    summary = _summary(3)
    rows = contrasts.table(summary, PAIRS, AXES)
    assert [row["part"] for row in rows] == ["resets", "a penalty"]
    one, two = (summary["methods"][m]["per_seed"] for m in ("elastic_reset", "ppo"))
    for name, estimate in rows[0]["differences"].items():
        gaps = [one[name][seed] - two[name][seed] for seed in ("0", "1", "2")]
        assert estimate == {"mean": np.mean(gaps), "low": min(gaps), "high": max(gaps)}
    names = {"reward", "gold", *(f"hypervolume/{axis.key}" for axis in AXES)}
    assert set(rows[0]["differences"]) == names


def test_eight_seeds_have_an_interval():
    summary = _summary(8)
    rows = contrasts.table(summary, PAIRS[:1], AXES)
    one, two = (summary["methods"][m]["per_seed"] for m in ("elastic_reset", "ppo"))
    gaps = [one["gold"][str(seed)] - two["gold"][str(seed)] for seed in range(8)]
    expected = statistics.t_interval(gaps)._asdict()
    assert rows[0]["differences"]["gold"] == expected


def test_turning_a_contrast_round_turns_its_sign():
    summary = _summary(4)
    (there,) = contrasts.table(summary, PAIRS[:1], AXES)
    (back,) = contrasts.table(
        summary, [contrasts.Contrast("none", "ppo", "elastic_reset")], AXES
    )
    for name, estimate in there["differences"].items():
        assert back["differences"][name]["mean"] == -estimate["mean"]
        assert back["differences"][name]["low"] == -estimate["high"]


def test_a_seed_that_only_one_of_two_has_is_left_out():
    records = reporting_records.make(3)
    records = [r for r in records if (r["method"], r["seed"]) != ("ppo", 1)]
    summary = results.summarize(records, axes=AXES, corners=CORNERS)
    (row,) = contrasts.table(summary, PAIRS[:1], AXES)
    two = summary["methods"]["ppo"]["per_seed"]["reward"]
    one = summary["methods"]["elastic_reset"]["per_seed"]["reward"]
    gaps = [one[seed] - two[seed] for seed in ("0", "2")]
    assert row["differences"]["reward"]["mean"] == pytest.approx(np.mean(gaps))


def test_a_diverged_seed_is_counted():
    summary = _summary(3)
    summary["methods"]["ppo"]["per_seed"]["reward"]["1"] = np.nan
    (row,) = contrasts.table(summary, PAIRS[:1], AXES)
    assert row["differences"]["reward"]["missing"] == 1


def test_the_page_has_the_table_once_and_no_verdict_in_it(tmp_path):
    about = report.Report("Parts", sections=(contrasts.section(PAIRS),))
    found = report.write(tmp_path, reporting_records.make(3), about)
    text = (tmp_path / "report.md").read_text()
    assert text.count("## Ablations") == 1
    assert "| resets | Elastic reset − PPO |" in text
    assert "what was not run" not in text
    assert len(found["contrasts"]) == 2


def test_a_page_without_pairs_has_no_such_section(tmp_path):
    about = report.Report("No parts", sections=(contrasts.section(PAIRS[2:]),))
    report.write(tmp_path, reporting_records.make(1), about)
    assert "Ablations" not in (tmp_path / "report.md").read_text()


@pytest.mark.parametrize("contrast", ablations.CONTRASTS, ids=lambda c: c.part)
def test_declared_contrasts_differ_in_few_settings(contrast):
    """Each pair is two methods of the table whose overlays are one part apart."""
    one, two = (methods.METHODS[name] for name in contrast[1:])
    keys = set(one.train.hyper) | set(two.train.hyper)
    different = {k for k in keys if one.train.hyper.get(k) != two.train.hyper.get(k)}
    assert len(different) + (one.resets != two.resets) == 1
    assert one.train.static == two.train.static and one.source == two.source
