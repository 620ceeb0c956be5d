"""Two models on the same items: McNemar's test and the paired bootstrap."""

import math

import numpy as np
import pytest
from scipy import stats

from rlhf_jax.evaluation import paired


def answers(lost, gained, both=5, neither=5):
    """(before, after) with so many items of each kind."""
    kinds = [(1, 0)] * lost + [(0, 1)] * gained + [(1, 1)] * both + [(0, 0)] * neither
    return np.array(kinds).T


def test_mcnemar_by_hand():
    # All of 5 changed answers were lost: 2 · 2⁻⁵.
    found = paired.mcnemar(*answers(5, 0))
    assert found[:2] == (5, 0) and found.p == pytest.approx(2 / 32)
    assert paired.mcnemar(*answers(3, 3)).p == pytest.approx(1.0)
    assert paired.mcnemar(*answers(0, 0)).p == 1.0


@pytest.mark.parametrize(("lost", "gained"), [(1, 4), (7, 2), (30, 12)])
def test_mcnemar_is_the_binomial_tail(lost, gained):
    total = lost + gained
    tail = sum(math.comb(total, k) for k in range(min(lost, gained) + 1)) / 2**total
    found = paired.mcnemar(*answers(lost, gained))
    assert found.p == pytest.approx(min(1.0, 2 * tail), rel=1e-9)


def test_items_on_which_models_agree_say_nothing():
    before, after = answers(6, 2)
    more = answers(6, 2, both=90, neither=70)
    assert paired.mcnemar(before, after) == paired.mcnemar(*more)
    swapped = paired.mcnemar(after, before)
    assert swapped == (2, 6, paired.mcnemar(before, after).p)


def test_the_interval_is_scipys_of_the_differences(rng):
    before, after = rng.random((2, 40))
    found = paired.bootstrap(before, after, draws=4000)
    assert found.value == pytest.approx((after - before).mean(), rel=1e-12)
    interval = stats.bootstrap(
        (after - before,), np.mean, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    # Both are quantiles of 4000 draws: 4 standard errors, for a normal distribution.
    error = (after - before).std() / 40**0.5
    room = 4 * error * (2 * 0.025 * 0.975 / 4000) ** 0.5 / stats.norm.pdf(1.96)
    np.testing.assert_allclose((found.low, found.high), interval, atol=room)


def test_a_constant_gain_is_certain_and_none_is_none():
    before = np.arange(10.0)
    found = paired.bootstrap(before, before + 0.5, draws=999)
    np.testing.assert_allclose(found[:3], 0.5, rtol=1e-12)
    assert found.p == pytest.approx(2 / 1000)
    assert paired.bootstrap(before, before, draws=99) == (0.0, 0.0, 0.0, 1.0)


def test_swapping_the_models_turns_the_interval_around(rng):
    before, after = rng.random((2, 30))
    found = paired.bootstrap(before, after, draws=999)
    swapped = paired.bootstrap(after, before, draws=999)
    np.testing.assert_allclose(swapped[:3], (-found.value, -found.high, -found.low))
    assert swapped.p == found.p


def test_a_statistic_of_means_is_resampled(rng):
    parts = rng.random((2, 50, 2)) + [0.0, 1.0]

    def ratio(mean):
        return mean[0] / mean[1]

    found = paired.bootstrap(*parts, statistic=ratio, draws=999)
    means = parts.mean(1)
    assert found.value == pytest.approx(ratio(means[1]) - ratio(means[0]))
    assert found.low < found.value < found.high


def test_a_single_item_tells_nothing():
    assert paired.bootstrap([0.0], [1.0]) == (1.0, -np.inf, np.inf, 1.0)


@pytest.mark.parametrize(("before", "after"), [([1, 0], [1]), ([], [])])
def test_other_questions_are_refused(before, after):
    for test in (paired.mcnemar, paired.bootstrap):
        with pytest.raises(ValueError, match="the same questions"):
            test(before, after)


def test_the_interval_covers_the_truth(rng):
    """Of 100 comparisons of 100 items each, with items that differ in difficulty."""
    inside = 0
    for _ in range(100):
        difficulty = rng.normal(size=100)
        before, after = difficulty + rng.normal(size=(2, 100)) + [[0.0], [0.3]]
        found = paired.bootstrap(before, after, draws=200)
        inside += found.low <= 0.3 <= found.high
    # 95% but for 4 standard errors, and the percentile bootstrap's own 1%.
    assert inside / 100 >= 0.94 - 4 * (0.95 * 0.05 / 100) ** 0.5
