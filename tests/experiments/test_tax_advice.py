"""Which average to keep: shares, their intervals, and a choice that cannot flatter."""

import numpy as np
import pytest

from experiments.alignment_tax.two_models import advice, measured, merges
from experiments.alignment_tax.two_models import page as pages
from experiments.alignment_tax.two_models import report as reports
from rlhf_jax.benchmarks import suites

COUNT = 400
ONES, ZEROS = np.ones(COUNT), np.zeros(COUNT)


def change(before, after, p):
    return suites.Change("acc", before, after, 0.0, 0.0, p, None, None)


def reading(items, reward):
    """A `Reading` of one suite of right and wrong answers, and of prompts."""
    metrics = {"acc": float(np.mean(items))}
    suite = suites.Measured(metrics, {"acc": np.asarray(items)}, "acc", None)
    return measured.Reading({"quiz": suite}, None, reward, np.abs(reward))


def coins(share, seed):
    return (np.random.default_rng(seed).random(COUNT) < share).astype(float)


def test_shares_by_hand():
    found = advice.shares(ONES, ZEROS, [0.25 * ONES, ONES, -0.5 * ONES])
    np.testing.assert_allclose([x.mean for x in found], [0.25, 1.0, -0.5])
    np.testing.assert_allclose(found[0], (0.25, 0.25, 0.25))


def test_shares_do_not_depend_on_scale_or_sign(rng):
    before, after, point = coins(0.8, 0), coins(0.5, 1), coins(0.7, 2)
    plain = advice.shares(before, after, [point])[0]
    turned = advice.shares(3 - 2 * before, 3 - 2 * after, [3 - 2 * point])[0]
    np.testing.assert_allclose(plain, turned, rtol=1e-9)
    assert plain.low < plain.mean < plain.high


def test_shares_cover_the_truth_about_95_times_in_100():
    """0.8 → 0.5 with half of it returned, over 40 draws of items."""
    hits = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        draws = rng.random((3, 300))
        scores = (draws < np.array([[0.8], [0.5], [0.65]])).astype(float)
        share = advice.shares(scores[0], scores[1], [scores[2]], seed=seed)[0]
        hits += share.low <= 0.5 <= share.high
    assert hits / 40 >= 0.95 - 4 * (0.95 * 0.05 / 40) ** 0.5


def test_a_share_of_no_difference_has_no_bounds():
    before, after = coins(0.5, 0), coins(0.5, 1)
    share = advice.shares(before, after, [coins(0.5, 2)])[0]
    assert share.low == -np.inf and share.high == np.inf
    assert "no bound" in pages.share(share._asdict())
    nothing = advice.shares(ONES, ONES, [ZEROS])[0]
    assert np.isnan(nothing.mean) and pages.share(nothing._asdict()) == "–"


def test_suites_lose_only_after_the_correction():
    changes = {
        "lost": change(0.8, 0.5, 0.001),
        "perhaps": change(0.8, 0.7, 0.04),
        "gained": change(0.5, 0.8, 0.001),
    }
    p_values, lost = advice.taxed(changes)
    assert lost == ("lost", "perhaps")
    assert p_values["perhaps"] == pytest.approx(0.04)
    changes["second"] = change(0.8, 0.7, 0.03)
    p_values, lost = advice.taxed(changes)
    assert p_values["second"] == pytest.approx(0.06) and lost == ("lost",)
    assert advice.taxed({}) == ({}, ())


def planted():
    """A point that returns everything on half A and nothing on half B, and others."""
    lucky = np.where(np.arange(COUNT) % 2 == 0, 1.0, 0.0)
    scores = {
        "before": ONES,
        "after": ZEROS,
        "lucky": lucky,
        "steady": 0.6 * ONES,
        "dear": ONES,
    }
    rewards = {
        "before": ZEROS,
        "after": ONES,
        "lucky": 0.97 * ONES,
        "steady": 0.95 * ONES,
        "dear": 0.4 * ONES,
    }
    return scores, rewards


def test_advice_picks_on_one_half_and_reads_on_the_other():
    scores, rewards = planted()
    found = advice.pick(scores, rewards, pay=0.1, averages=[])
    assert found.point == "lucky"  # half A cannot tell
    assert found.returned.mean == pytest.approx(0.0)  # half B can
    assert found.paid.mean == pytest.approx(0.03)


def test_advice_does_not_pay_more_than_it_may():
    scores, rewards = planted()
    del scores["lucky"], rewards["lucky"]
    assert advice.pick(scores, rewards, pay=0.1, averages=[]).point == "steady"
    assert advice.pick(scores, rewards, pay=0.7, averages=[]).point == "dear"
    found = advice.pick(scores, rewards, pay=0.01, averages=[])
    assert found.point is None and "1% of the reward on half A" in found.reason


def test_without_a_reward_the_least_averaging_that_returns_half_is_named():
    scores = {
        "before": ONES, "after": ZEROS,
        "ma_0.9": 0.1 * ONES, "ma_0.7": 0.55 * ONES, "ma_0.5": 0.9 * ONES,
    }  # fmt: skip
    averages = ["ma_0.9", "ma_0.7", "ma_0.5"]
    found = advice.pick(scores, None, pay=0.1, averages=averages)
    assert found.point == "ma_0.7" and found.paid is None
    assert advice.pick(scores, None, pay=0.1, averages=averages[:1]).point is None


def test_a_reward_that_was_not_gained_has_no_price():
    scores, rewards = planted()
    rewards["after"] = -ONES
    found = advice.pick(scores, rewards, pay=0.1, averages=[])
    assert found.point is None and "earns no more reward" in found.reason


@pytest.mark.parametrize("lost", [True, False])
def test_without_a_tax_nothing_is_advised(lost):
    point = merges.named("ma_0.8")
    readings = {
        "before": reading(coins(0.8, 0), coins(0.2, 1)),
        "after": reading(coins(0.4 if lost else 0.8, 2), coins(0.9, 3)),
        "ma_0.8": reading(coins(0.75, 4), coins(0.88, 5)),
    }
    results = reports.summarize(readings, [point], pay=0.2)
    results["scaled"], results["axis"] = False, "reward"
    found, text = results["advice"], pages.sentence(results)
    if lost:
        assert found["point"] == "ma_0.8" and text.startswith("Keep 20% of the start")
        assert "of the reward gained" in text
        assert results["points"][2]["returned"]["mean"] > 0.5
    else:
        assert found["point"] is None and "nothing is advised" in text
        assert results["points"][2]["returned"] is None
