"""feedback.combining: several rewards as one, NaN where one does not apply."""

import warnings

import numpy as np
import pytest

from rlhf_jax.feedback import combining

NAN = np.nan


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def drawn(seed=0, rows=12, rewards=3, share=0.3):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(rows, rewards)) * [1, 10, 0.1]
    values[rng.random(values.shape) < share] = NAN
    values[0] = NAN
    return values


def test_a_weighted_sum_is_over_what_applies():
    values = [[1, 2, 4], [NAN, 2, 4], [1, NAN, NAN], [NAN, NAN, NAN]]
    total = combining.weighted_sum(values, [1, 0.5, -2])
    np.testing.assert_array_equal(total, [-6, -7, 1, NAN])


def test_rewards_normalised_apart_by_hand():
    """Two prompts of two: each reward is ±1/√2 in a group, whatever its scale."""
    values = np.array([[0, 0], [1, 100], [5, 7], [5, 8.0]])
    unit = 2 * [1 / np.sqrt(2)]
    weighted = np.array([-unit[0] * 3, unit[0] * 3, -unit[0] * 2, unit[0] * 2])
    scores = combining.normalize_then_sum(values, [1, 2], candidates=2)
    np.testing.assert_allclose(scores, weighted / weighted.std(ddof=1), rtol=5e-4)


def slowly(values, weights, candidates):
    """The same as TRL computes it, with loops."""
    normal = np.zeros_like(values)
    for start in range(0, len(values), candidates):
        for r in range(values.shape[1]):
            group = values[start : start + candidates, r]
            known = group[~np.isnan(group)]
            if len(known) > 1:
                z = (group - known.mean()) / (known.std(ddof=1) + 1e-4)
                normal[start : start + candidates, r] = np.nan_to_num(z)
    total = (normal * weights).sum(-1)
    total[np.isnan(values).all(-1)] = NAN
    known = total[~np.isnan(total)]
    return (total - known.mean()) / (known.std(ddof=1) + 1e-4)


@pytest.mark.parametrize("candidates", [2, 3, 4, 6])
def test_rewards_normalised_apart_with_loops(candidates):
    for seed in range(5):
        values, weights = drawn(seed), np.array([1.0, 0.5, 2.0])
        fast = combining.normalize_then_sum(values, weights, candidates=candidates)
        np.testing.assert_allclose(
            fast, slowly(values, weights, candidates), 1e-9, 1e-12
        )


# TRL 1.16 in float32: the lines of `GRPOTrainer` for normalize_then_sum, its nanstd.
TRL = [-1.0934523, 1.4280201, -0.3345678, 0.0, 0.5712, -0.5712]
TRL_VALUES = [
    [0, 3, NAN],
    [1, 5, 2],
    [2, NAN, 1],
    [NAN, NAN, NAN],
    [1, 1, 0],
    [0, 1, 0],
]


def test_rewards_normalised_apart_equal_trls():
    scores = combining.normalize_then_sum(TRL_VALUES, [1, 0.5, 2], candidates=3)
    np.testing.assert_allclose(np.nan_to_num(scores), TRL, atol=1e-6)


def test_scale_and_shift_of_a_reward_change_nothing_when_normalised():
    values = drawn(share=0)[1:9]
    weights = [1, 1, 1]
    moved = values * [1, 7, 0.5] + [0, -3, 9]
    one = combining.normalize_then_sum(values, weights, candidates=4)
    other = combining.normalize_then_sum(moved, weights, candidates=4)
    np.testing.assert_allclose(one, other, atol=5e-3)
    np.testing.assert_allclose(one.reshape(-1, 4).sum(-1), 0, atol=1e-12)


def test_equal_rewards_teach_nothing():
    scores = combining.normalize_then_sum(np.ones((4, 2)), [1, 1], candidates=2)
    np.testing.assert_array_equal(scores, np.zeros(4))


def test_moments_are_over_what_applies():
    mean, std = combining.moments([[1, NAN, NAN], [3, 5, NAN]])
    np.testing.assert_allclose(mean, [2, 5, NAN])
    np.testing.assert_allclose(std, [np.sqrt(2), 0, NAN])
