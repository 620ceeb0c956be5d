"""A reward model on a preference set, against closed forms."""

import json

import numpy as np
import pytest
from scipy import special, stats

from rlhf_jax.evaluation import calibration, preference_sets, statistics

SCORES = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0], [1.0, 0.0]])
LENGTHS = np.array([[10, 4], [7, 7], [2, 9], [3, 5]])


def test_a_tie_is_wrong_for_accuracy_and_half_right_for_agreement():
    found = preference_sets.measure(SCORES, LENGTHS)
    assert found["pairs"] == 4 and found["ties"] == 1
    assert found["accuracy"]["mean"] == 0.5
    assert found["agreement"]["mean"] == 0.625
    low, high = statistics.wilson(0.5, 4)[1:]
    assert (found["accuracy"]["low"], found["accuracy"]["high"]) == (low, high)


def test_strata_are_by_the_difference_in_length_and_add_up():
    length = preference_sets.measure(SCORES, LENGTHS)["length"]
    shorter, alike, longer = length["by_sign"]
    assert [s["pairs"] for s in length["by_sign"]] == [2, 1, 1]
    assert [s["accuracy"]["mean"] for s in (shorter, alike, longer)] == [0.5, 0, 1]
    assert shorter["lower"] is None and longer["upper"] is None
    assert sum(s["pairs"] for s in length["by_quantile"]) == 4
    assert length["accuracy_of_length"]["mean"] == 0.25  # the one longer chosen answer
    x, y = SCORES.ravel(), LENGTHS.ravel()
    assert length["correlation"] == pytest.approx(stats.pearsonr(x, y)[0])
    x, y = SCORES @ [1, -1], LENGTHS @ [1, -1]
    expected = pytest.approx(stats.pearsonr(x, y)[0])
    assert length["correlation_of_differences"] == expected


def test_scores_of_length_alone_correlate_with_it_wholly():
    length = preference_sets.measure(3.0 * LENGTHS, LENGTHS)["length"]
    assert length["correlation"] == pytest.approx(1)
    same = preference_sets.measure(np.zeros((4, 2)), LENGTHS)
    assert same["length"]["correlation"] is None
    assert same["accuracy"]["mean"] == 0 and same["agreement"]["mean"] == 0.5


def test_a_temperature_of_the_same_pairs_mends_what_was_too_sure(rng):
    truth = rng.normal(size=2000)
    right = rng.uniform(size=2000) < special.expit(truth)
    margins = 3 * np.where(right, truth, -truth)  # three times too sure
    scores = np.stack([margins, np.zeros(2000)], axis=1)
    lengths = rng.integers(1, 9, (2000, 2))
    heat = calibration.temperature(margins)
    assert heat == pytest.approx(3, rel=0.15)
    found = preference_sets.measure(scores, lengths, temperature=heat)
    scaled = found["scaled"]
    for name in ("nll", "brier", "ece"):
        assert scaled[name] < found[name]
    assert scaled["nll"] == pytest.approx(np.logaddexp(0, -margins / heat).mean())
    for one in (found, scaled):
        diagram = one["reliability"]
        gap = np.subtract(diagram["accuracy"], diagram["confidence"])
        assert np.abs(gap) @ diagram["count"] / 2000 == pytest.approx(one["ece"])


def test_the_temperature_is_that_of_the_first_set_alone(rng):
    sets = {
        name: {"scores": k * rng.normal(size=(80, 2)) + [k / 2, 0], "lengths": lengths}
        for k, name in enumerate(("own", "other"), 1)
        for lengths in [rng.integers(1, 9, (80, 2))]
    }
    found = preference_sets.measure_all(sets)
    heat = calibration.temperature(sets["own"]["scores"] @ [1, -1])
    assert found["temperature"] == heat
    for name, one in sets.items():
        assert found["sets"][name] == preference_sets.measure(**one, temperature=heat)
    certain = {"own": {"scores": [[1.0, 0.0]], "lengths": [[3, 4]]}}
    assert preference_sets.measure_all(certain)["sets"]["own"]["scaled"] is None
    opposed = {"own": {"scores": [[0.0, 1.0]], "lengths": [[3, 4]]}}
    assert preference_sets.measure_all(opposed)["temperature"] is None


@pytest.mark.parametrize("heat", [None, 0.0, np.nan])
def test_nothing_is_scaled_without_a_temperature_that_can(heat):
    assert preference_sets.measure(SCORES, LENGTHS, temperature=heat)["scaled"] is None


def test_an_endless_temperature_leaves_a_coin():
    scaled = preference_sets.measure(SCORES, LENGTHS, temperature=np.inf)["scaled"]
    assert scaled["nll"] == pytest.approx(np.log(2)) and scaled["ece"] == 0


def test_soft_labels_count_by_their_share():
    found = preference_sets.measure(SCORES, LENGTHS, preference=[0.9, 0.5, 0.2, 1.0])
    assert found["accuracy"]["mean"] == pytest.approx((0.9 + 0 + 0.8 + 1) / 4)


def test_it_is_json():
    found = preference_sets.measure(SCORES, LENGTHS, temperature=2.0)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("scores", "lengths", "why"),
    [
        (SCORES[:, 0], LENGTHS, r"scores must be finite, \[N, 2\]"),
        (SCORES * np.nan, LENGTHS, "scores must be finite"),
        (SCORES, LENGTHS[:3], "of the same pairs"),
    ],
)
def test_what_is_no_pair_is_refused(scores, lengths, why):
    with pytest.raises(ValueError, match=why):
        preference_sets.measure(scores, lengths)
