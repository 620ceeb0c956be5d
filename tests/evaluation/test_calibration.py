"""The expected calibration error, by hand and by the loop over bins."""

import numpy as np
import pytest

from rlhf_jax.evaluation import calibration, statistics

ece = calibration.expected_calibration_error


def test_an_error_worked_by_hand():
    # (0.5, 0.6]: confidence 0.6, one of two right; (0.9, 1]: 1.0 and right.
    assert ece([0.6, 0.6, 1.0, 1.0], [1, 0, 1, 1]) == pytest.approx(0.1 * 2 / 4)
    assert ece([1.0, 1.0], [0, 0]) == 1.0
    assert ece([0.0], [0]) == 0.0


def test_the_error_is_the_loops(rng):
    confidences = rng.random(200)
    correct = rng.random(200) < confidences**2
    total = 0.0
    for b in range(7):
        inside = (confidences > b / 7) & (confidences <= (b + 1) / 7)
        if inside.any():
            gap = correct[inside].mean() - confidences[inside].mean()
            total += inside.mean() * abs(gap)
    assert ece(confidences, correct, bins=7) == pytest.approx(total, rel=1e-12)


def test_the_order_of_items_does_not_matter_and_one_bin_is_the_bias(rng):
    confidences, correct = rng.random(50), rng.integers(0, 2, 50)
    order = rng.permutation(50)
    assert ece(confidences[order], correct[order]) == pytest.approx(
        ece(confidences, correct), rel=1e-12
    )
    bias = abs(correct.mean() - confidences.mean())
    assert ece(confidences, correct, bins=1) == pytest.approx(bias, rel=1e-12)


@pytest.mark.parametrize("confidences", [[1.5], [-0.1], [np.nan], []])
def test_what_is_no_probability_is_refused(confidences):
    with pytest.raises(ValueError, match="confidences are probabilities"):
        ece(confidences, np.zeros(len(confidences)))


def test_equally_full_bins_by_hand():
    found = calibration.reliability([0.9, 0.6, 0.7, 0.8], [1, 0, 1, 0], bins=2)
    np.testing.assert_allclose(found.confidence, [0.65, 0.85])
    np.testing.assert_allclose(found.accuracy, [0.5, 0.5])
    np.testing.assert_array_equal(found.count, [2, 2])
    assert ece([0.9, 0.6, 0.7, 0.8], [1, 0, 1, 0], bins=2, equal_mass=True) == (
        pytest.approx((0.15 + 0.35) / 2)
    )


def test_equally_full_bins_are_those_of_array_split_without_ties(rng):
    confidences, correct = rng.random(60), rng.integers(0, 2, 60)
    parts = np.array_split(np.argsort(confidences), 6)
    found = calibration.reliability(confidences, correct, bins=6)
    np.testing.assert_allclose(found.confidence, [confidences[p].mean() for p in parts])
    np.testing.assert_allclose(found.accuracy, [correct[p].mean() for p in parts])


def test_items_of_equal_confidence_share_a_bin_in_any_order(rng):
    confidences, correct = rng.integers(5, 9, 40) / 10, rng.integers(0, 2, 40)
    found = calibration.reliability(confidences, correct, bins=10)
    assert len(found.count) <= 4 and found.count.sum() == 40
    assert (np.diff(found.confidence) > 0).all()
    order = rng.permutation(40)
    turned = calibration.reliability(confidences[order], correct[order], bins=10)
    for one, other in zip(found, turned, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)
    assert len(calibration.reliability([0.5, 0.7], [1, 1], bins=10).count) == 2


def test_quality_by_hand():
    """σ(log 3) = ¾: one pair right, one wrong, one tie."""
    found = calibration.preference_quality([np.log(3), -np.log(3), 0.0], bins=1)
    assert found.accuracy == pytest.approx(1 / 3)
    assert found.nll == pytest.approx((np.log(4 / 3) + np.log(4) + np.log(2)) / 3)
    assert found.brier == pytest.approx((1 / 16 + 9 / 16 + 1 / 4) / 3)
    assert found.ece == pytest.approx(abs(1.5 - 2.0) / 3)
    assert (found.ties, found.pairs) == (1, 3)


def test_a_soft_preference_is_the_mixture_of_both_labels(rng):
    margins, p = rng.normal(size=30), rng.random()
    soft = calibration.preference_quality(margins, preference=p, bins=4)
    one = calibration.preference_quality(margins)
    other = calibration.preference_quality(-margins)
    for name in ("accuracy", "nll", "brier"):
        mixed = p * getattr(one, name) + (1 - p) * getattr(other, name)
        assert getattr(soft, name) == pytest.approx(mixed, rel=1e-12)
    turned = calibration.preference_quality(-margins, preference=1 - p, bins=4)
    np.testing.assert_allclose(turned, soft, rtol=1e-12)


def test_quality_is_that_of_the_loss_the_reward_model_is_trained_with(rng):
    from rlhf_jax import losses

    chosen, rejected = rng.normal(size=(2, 50)).astype(np.float32)
    p = rng.random(50).astype(np.float32)
    loss, _ = losses.bradley_terry(chosen, rejected, preference=p)
    found = calibration.preference_quality(chosen - rejected, preference=p)
    assert found.nll == pytest.approx(float(loss), rel=1e-5)


def test_calibrated_margins_are_calibrated(rng):
    margins = rng.normal(size=40_000) * 2
    labels = (rng.random(40_000) < 1 / (1 + np.exp(-margins))).astype(float)
    found = calibration.preference_quality(margins, preference=labels)
    assert found.ece < 0.02
    assert calibration.temperature(margins, preference=labels) == pytest.approx(
        1.0, abs=0.05
    )


def test_the_temperature_is_the_minimum_of_the_nll(rng):
    from scipy import optimize

    margins = rng.normal(size=80) + 0.3
    for p in (None, rng.random(80) * 0.5 + 0.5):

        def nll(t, p=p):
            return calibration.preference_quality(margins / t, preference=p).nll

        best = optimize.minimize_scalar(
            nll, bounds=(0.05, 50), method="bounded", options={"xatol": 1e-9}
        )
        found = calibration.temperature(margins, preference=p)
        assert found == pytest.approx(best.x, rel=1e-4)
        assert nll(found) <= best.fun + 1e-12
    scaled = calibration.temperature(1e-6 * margins)
    assert scaled == pytest.approx(1e-6 * calibration.temperature(margins), rel=1e-6)


def test_two_kinds_of_pairs_have_a_temperature_in_closed_form():
    """Three right, one wrong, all of margin 2: σ(2/T) = ¾."""
    found = calibration.temperature([2.0, 2.0, 2.0, -2.0])
    assert found == pytest.approx(2 / np.log(3), rel=1e-9)
    assert calibration.temperature([2.0], preference=[0.75]) == pytest.approx(found)


def test_the_temperature_at_its_ends():
    assert calibration.temperature([1.0, 3.0, 0.0]) == 0.0
    assert calibration.temperature([1.0, -3.0], preference=[1, 0]) == 0.0
    assert calibration.temperature([-1.0, -2.0]) == np.inf
    assert calibration.temperature([1.0, -1.0]) == np.inf
    assert np.isnan(calibration.temperature([0.0, 0.0]))


def test_strata_are_the_loops(rng):
    margins, lengths = rng.normal(size=90), rng.integers(-3, 4, 90)
    shorter, equal, longer = calibration.by_strata(margins, lengths, edges=(-0.5, 0.5))
    for stratum, part in (
        (shorter, lengths < 0), (equal, lengths == 0), (longer, lengths > 0)
    ):  # fmt: skip
        assert stratum.pairs == part.sum()
        share = (margins[part] > 0).mean()
        expected = statistics.wilson(share, part.sum())
        np.testing.assert_allclose(stratum.accuracy, expected, rtol=1e-12)
    assert shorter.lower == -np.inf and longer.upper == np.inf


def test_strata_by_quantiles_are_equally_full_and_make_up_the_whole(rng):
    margins = rng.normal(size=100)
    strata = calibration.by_strata(
        margins, rng.random(100), quantiles=(0.25, 0.5, 0.75)
    )
    assert [s.pairs for s in strata] == [25] * 4
    whole = np.mean([s.accuracy.mean for s in strata])
    assert whole == pytest.approx(calibration.preference_quality(margins).accuracy)
    empty, _ = calibration.by_strata([1.0], [1.0], edges=[0.0])
    assert empty.pairs == 0 and np.isnan(empty.accuracy.mean)
    assert empty.accuracy[1:] == (0.0, 1.0)


def test_what_is_no_pair_is_refused():
    for margins in ([], [np.nan], [[1.0]]):
        with pytest.raises(ValueError, match="margins must be finite"):
            calibration.preference_quality(margins)
    for preference in (1.5, [0.5, 0.5], np.nan):
        with pytest.raises(ValueError, match="preferences are probabilities"):
            calibration.temperature([1.0], preference=preference)
    with pytest.raises(ValueError, match="either edges or quantiles"):
        calibration.by_strata([1.0], [1.0])
    with pytest.raises(ValueError, match="edges must ascend"):
        calibration.by_strata([1.0], [1.0], edges=[1, 0])
    with pytest.raises(ValueError, match="one for each of 1 pairs"):
        calibration.by_strata([1.0], [1.0, 2.0], edges=[0])
    with pytest.raises(ValueError, match="bins=0"):
        calibration.reliability([0.5], [1], bins=0)
