"""Best of n in a report: gains on the best of 1, Gao's form, the fall of gold."""

import math

import numpy as np
import pytest
import reporting_records as records

from rlhf_jax.evaluation import best_of_n as estimator
from rlhf_jax.reporting import best_of_n, report
from rlhf_jax.reporting.sections import Evidence

COUNTS = (1, 2, 4, 8, 16, 32, 64)
ALPHA, BETA = 0.6, 0.2  # gold peaks at d = 1.5, n of about 23


def looks(seed, *, counts=COUNTS, start=3.0, noise=0.0, gold=True):
    """Records of a seed whose gold follows the form, up to noise in its halves."""
    rows = []
    for n in counts:
        d = math.sqrt(estimator.kl_bound(n))
        value = start + d * (ALPHA - BETA * d)
        row = {"eval/reward": d, "eval/ties": 0.01 * n}
        if gold:
            row |= {"eval/gold": value, "eval/gold_a": value + noise * (n == 8)}
            row["eval/gold_b"] = value - noise * (n == 8)
        rows.append({"method": f"best_of_{n}", "world": 0, "seed": seed, **row})
    return rows


def test_the_form_is_found_and_gold_falls_from_its_peak_by_what_it_lost():
    found = best_of_n.gains(looks(0) + looks(1, start=5.0))
    assert found["n"] == list(COUNTS) and found["relative"]
    assert found["gold"][0]["mean"] == 0  # on the best of 1, whatever that is
    fit = found["fit"]
    assert fit["alpha"]["value"] == pytest.approx(ALPHA)
    assert fit["beta"]["value"] == pytest.approx(BETA)
    assert fit["peak"]["value"] == pytest.approx(1.5)
    assert fit["r2"] == pytest.approx(1) and fit["units"] == 2
    assert fit["extrapolation"]["error"] == pytest.approx(0, abs=1e-9)
    gold = np.array([one["mean"] for one in found["gold"]])
    assert found["fall"]["mean"] == pytest.approx(gold.max() - gold[-1])
    assert found["ties"][-1] == pytest.approx(0.64)


def test_a_lucky_half_is_not_read_where_it_was_chosen():
    calm = best_of_n.gains(looks(0))["fall"]["mean"]
    lucky = best_of_n.gains(looks(0, noise=9.0))["fall"]["mean"]
    # Half a picks n = 8, where half b is 9 lower; b picks the true peak, which both
    # halves share.
    assert lucky < calm


def test_without_the_best_of_one_nothing_is_relative_and_nothing_fitted():
    found = best_of_n.gains(looks(0, counts=COUNTS[1:]))
    assert not found["relative"] and "fit" not in found
    assert found["gold"][0]["mean"] > 3


def test_gold_is_in_deviations_where_they_are_known():
    rows = looks(0)
    known = {"mismatch/gold_sd": 4.0, "mismatch/correlation": 0.25}
    found = best_of_n.gains([{**row, **known} for row in rows])
    assert found["fit"]["alpha"]["value"] == pytest.approx(ALPHA / 4)
    assert found["correlation"]["mean"] == 0.25
    evidence = Evidence(rows, [], {"interval": "range", "worlds": 1}, [], None)
    text = "\n".join(best_of_n.render(found, evidence))
    assert "gold (sd) gained" in text and "by ρ = 0.25 [0.25, 0.25]" in text
    bare = [{k: v for k, v in row.items() if k != "eval/ties"} for row in rows]
    assert "ties" not in best_of_n.gains(bare)


def test_a_proxy_alone_is_shown_alone():
    found = best_of_n.gains(looks(0, gold=False))
    assert "gold" not in found and "proxy" in found
    assert best_of_n.gains([{"method": "ppo", "eval/reward": 1.0}]) is None


def test_the_page_says_where_gold_peaks_and_has_a_picture(tmp_path):
    rows = looks(0) + looks(1, start=5.0)
    about = report.Report("Sentiment", axes=records.AXES)
    summary = {"interval": "range", "worlds": 1}
    evidence = Evidence(rows, [], summary, [], about)
    text = "\n\n".join(best_of_n.SECTION.render(best_of_n.compute(evidence), evidence))
    assert "| 64 | 1.78 |" in text
    assert "at d = 1.5 [1.5, 1.5], within what was measured" in text
    assert best_of_n.pictures(["ppo"]) == report.PICTURES
    both = best_of_n.pictures(["ppo", "best_of_4"])
    (picture,) = best_of_n.pictures(["best_of_4", "best_of_1"])
    assert both == (*report.PICTURES, picture)
    path = tmp_path / picture.file
    picture.draw(rows, path, about)
    assert path.stat().st_size > 20_000
    assert list(best_of_n.SECTION.render(None, evidence)) == []
