"""The expected calibration error, by hand and by the loop over bins."""

import numpy as np
import pytest

from rlhf_jax.evaluation import calibration

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
