"""Position bias and repetition: judges whose bias is known."""

import math

import numpy as np
import pytest
from scipy import stats

from rlhf_jax.evaluation import position_bias

NAN = float("nan")


def test_a_bias_by_hand():
    # Consistent, first slot twice, second slot twice, a tie in one order.
    p_ab = [0.9, 0.9, 0.4, 0.5]
    p_ba = [0.2, 0.6, 0.1, 0.8]
    found = position_bias.measure(p_ab, p_ba)
    # |0.9 − 0.8|, |0.9 − 0.4|, |0.4 − 0.9|, |0.5 − 0.2|
    assert found.gap == pytest.approx(0.35) and found.pairs == 4
    assert found.beyond == 0.75
    assert (found.consistent, found.same_slot, found.first) == (0.25, 0.5, 0.5)
    assert found.fairness == 0 and found.p == 1


@pytest.mark.parametrize(("p", "first", "fairness"), [(0.9, 1, -1), (0.2, 0, 1)])
def test_a_judge_of_positions_prefers_the_same_slot_always(p, first, fairness):
    found = position_bias.measure(np.full(40, p), np.full(40, p))
    assert (found.same_slot, found.first, found.consistent) == (1, first, 0)
    assert found.fairness == fairness and found.beyond == 1
    assert found.gap == pytest.approx(abs(2 * p - 1))
    assert found.p == pytest.approx(2 * 0.5**40)


def test_a_judge_of_texts_has_none(rng):
    p = rng.random(200)
    found = position_bias.measure(p, 1 - p)
    assert (found.gap, found.beyond, found.same_slot, found.fairness) == (0, 0, 0, 0)
    assert found.consistent == 1 and math.isnan(found.first) and found.p == 1


def test_measures_are_those_of_the_loop(rng):
    p_ab, p_ba = rng.random((2, 300))
    first = second = consistent = 0
    for a, b in zip(p_ab.tolist(), p_ba.tolist(), strict=True):
        first += a > 0.5 and b > 0.5
        second += a < 0.5 and b < 0.5
        consistent += (a > 0.5) != (b > 0.5)
    found = position_bias.measure(p_ab, p_ba, beyond=0.3)
    assert found.consistent == consistent / 300
    assert found.same_slot == (first + second) / 300
    assert found.first == first / (first + second)
    assert found.fairness == (second - first) / 300
    assert found.beyond == np.mean(np.abs(p_ab + p_ba - 1) > 0.3)
    tail = sum(math.comb(first + second, k) for k in range(min(first, second) + 1))
    expected = min(1.0, 2 * tail / 2 ** (first + second))
    assert found.p == pytest.approx(expected, rel=1e-9)


def test_exchanging_the_slots_turns_fairness_around(rng):
    p_ab, p_ba = rng.random((2, 50)) ** 2
    found = position_bias.measure(p_ab, p_ba)
    other = position_bias.measure(1 - p_ab, 1 - p_ba)
    assert other.fairness == -found.fairness != 0
    assert other.first == pytest.approx(1 - found.first)
    assert other.gap == pytest.approx(found.gap) and other.p == pytest.approx(found.p)


def test_a_gap_of_just_the_bound_in_float32_is_not_beyond():
    p_ab, p_ba = np.float32([0.6, 0.7]), np.float32([0.5, 0.2])
    assert position_bias.measure(p_ab, p_ba).beyond == 0


def test_unanswered_rows_are_left_out():
    found = position_bias.measure([0.9, NAN, 0.3], [0.8, 0.9, NAN])
    assert found == position_bias.measure([0.9], [0.8]) and found.pairs == 1


@pytest.mark.parametrize(("p_ab", "p_ba"), [([], []), ([NAN], [0.5]), ([1.5], [0.5])])
def test_what_is_no_judgment_in_both_orders_is_refused(p_ab, p_ba):
    with pytest.raises(ValueError, match="probabilities in both orders"):
        position_bias.measure(p_ab, p_ba)


def test_the_test_of_a_fair_coin_rejects_at_its_level(rng):
    slots = np.where(rng.random((400, 60)) < 0.5, 0.9, 0.1)
    rejected = np.mean([position_bias.measure(p, p).p < 0.05 for p in slots])
    # Of a discrete test, at most 5% but for 4 standard errors.
    exact = 2 * stats.binom.cdf(stats.binom.ppf(0.025, 60, 0.5) - 1, 60, 0.5)
    assert abs(rejected - exact) < 4 * (exact * (1 - exact) / 400) ** 0.5


def test_stability_by_hand():
    p = [[0.9, 0.8, 0.7, 0.6], [0.9, 0.8, 0.2, 0.1], [0.5, 0.5, 0.1, 0.9]]
    assert position_bias.repetition_stability(p) == pytest.approx((1 + 0.5 + 0.5) / 3)
    left = [[0.9, NAN, 0.7], [0.9, NAN, NAN]]
    assert position_bias.repetition_stability(left) == 1


def test_stability_does_not_know_which_answer_is_which(rng):
    p = rng.random((30, 5))
    found = position_bias.repetition_stability(p)
    assert found == position_bias.repetition_stability(1 - p[:, ::-1])
    loop = [max((row > 0.5).sum(), (row < 0.5).sum()) / 5 for row in p]
    assert found == pytest.approx(np.mean(loop), rel=1e-12)


@pytest.mark.parametrize("p", [[[0.9], [0.1]], [[0.9, NAN]], np.zeros((0, 2)), [0.9]])
def test_single_answers_have_no_stability(p):
    with pytest.raises(ValueError, match="two answers|repetitions are"):
        position_bias.repetition_stability(p)
