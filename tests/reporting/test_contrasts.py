"""The ablation table: paired differences of methods that differ in one part."""

import numpy as np
import pytest
import reporting_records

from experiments.sentiment import ablations
from rlhf_jax.evaluation import statistics
from rlhf_jax.reporting import contrasts, plots, report, results
from rlhf_jax.studies import methods

AXES = reporting_records.AXES
PAIRS = (
    contrasts.Contrast("resets", "elastic_reset", "ppo"),
    contrasts.Contrast("a penalty", "ppo_kl", "ppo"),
    contrasts.Contrast("what was not run", "elastic_reset", "reset_to_initial"),
)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    for name in ("front", "curves"):
        monkeypatch.setattr(plots, name, lambda *_, **__: None)


def _summary(seeds, **options):
    return results.summarize(reporting_records.make(seeds, **options), axes=AXES)


def test_differences_are_of_the_same_unit_and_in_favour_of_the_part():
    summary = _summary(3)
    rows = contrasts.table(summary, PAIRS, AXES)
    assert [row["part"] for row in rows] == ["resets", "a penalty"]
    one, two = (summary["methods"][m]["per_unit"] for m in ("elastic_reset", "ppo"))
    for name, estimate in rows[0]["differences"].items():
        gaps = [one[name][seed] - two[name][seed] for seed in ("0/0", "0/1", "0/2")]
        assert estimate == {"mean": np.mean(gaps), "low": min(gaps), "high": max(gaps)}
    # Elastic Reset was looked at more often than PPO, PPO + KL as often.
    areas = {f"hypervolume/{axis.key}" for axis in AXES}
    assert set(rows[0]["differences"]) == {"reward", "gold"}
    assert set(rows[1]["differences"]) == {"reward", "gold", *areas}


def test_eight_worlds_have_an_interval():
    summary = _summary(1, worlds=8)
    rows = contrasts.table(summary, PAIRS[:1], AXES)
    one, two = (summary["methods"][m]["per_unit"] for m in ("elastic_reset", "ppo"))
    gaps = [one["gold"][f"{w}/0"] - two["gold"][f"{w}/0"] for w in range(8)]
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


def test_a_unit_that_only_one_of_two_has_is_left_out():
    records = reporting_records.make(3)
    records = [r for r in records if (r["method"], r["seed"]) != ("ppo", 1)]
    summary = results.summarize(records, axes=AXES)
    (row,) = contrasts.table(summary, PAIRS[:1], AXES)
    two = summary["methods"]["ppo"]["per_unit"]["reward"]
    one = summary["methods"]["elastic_reset"]["per_unit"]["reward"]
    gaps = [one[seed] - two[seed] for seed in ("0/0", "0/2")]
    assert row["differences"]["reward"]["mean"] == pytest.approx(np.mean(gaps))


def test_a_diverged_unit_is_counted():
    summary = _summary(3)
    summary["methods"]["ppo"]["per_unit"]["reward"]["0/1"] = np.nan
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
