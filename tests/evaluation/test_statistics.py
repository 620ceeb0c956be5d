import itertools
import math

import hypothesis
import numpy as np
import pytest
import scipy.stats
from hypothesis import strategies as st

from rlhf_jax.evaluation import statistics

SETTINGS = hypothesis.settings(max_examples=40, deadline=None)
VALUES = st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=9)


def _with(mean, half, n=10):
    """n differences whose 95% t-interval is mean ± half."""
    base = np.linspace(-1.0, 1.0, n)
    spread = half * n**0.5 / scipy.stats.t.ppf(0.975, n - 1)
    return mean + base * spread / base.std(ddof=1)


def test_t_interval_of_two_values_by_hand():
    # s/√n = 1 for (−1, 1) and t_{.975, 1} = tan(0.475 π)
    mean, low, high = statistics.t_interval([-1.0, 1.0])
    assert mean == 0.0
    assert high == -low == pytest.approx(math.tan(0.475 * math.pi))


@SETTINGS
@hypothesis.given(VALUES)
def test_t_interval_agrees_with_scipy(values):
    hypothesis.assume(np.std(values) > 1e-3)
    expected = scipy.stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    interval = statistics.t_interval(values)
    np.testing.assert_allclose(interval[1:], expected, rtol=1e-9, atol=1e-12)


def test_t_interval_of_one_world_is_infinite():
    assert statistics.t_interval([0.3]) == (0.3, -math.inf, math.inf)


def test_t_interval_covers_the_truth_as_often_as_it_says(rng):
    draws = 4000
    data = rng.normal(0.7, 2.0, size=(draws, 8))
    bounds = np.array([statistics.t_interval(row) for row in data])
    covered = np.mean((bounds[:, 1] <= 0.7) & (0.7 <= bounds[:, 2]))
    assert abs(covered - 0.95) < 4 * (0.95 * 0.05 / draws) ** 0.5


@SETTINGS
@hypothesis.given(VALUES)
def test_sign_flip_counts_all_sign_patterns(values):
    values = np.round(np.array(values) * 8) / 8  # sums are exact, so ties are
    observed = abs(values.sum())
    signs = itertools.product([-1, 1], repeat=len(values))
    expected = np.mean([abs(np.dot(s, values)) >= observed for s in signs])
    assert statistics.sign_flip(values) == expected


def test_sign_flip_cannot_go_below_its_floor():
    assert statistics.sign_flip([1.0, 2.0, 3.0, 4.0, 5.0]) == 0.0625
    assert statistics.sign_flip(np.ones(10)) == 2 / 2**10


def test_sign_flip_survives_rounding_of_ties():
    values = np.array([0.1, 0.2, 0.3])  # 0.1 + 0.2 is not quite 0.3
    assert statistics.sign_flip(values) == 0.25
    assert statistics.sign_flip([0.3, -0.1, -0.2]) == 1.0


def test_sign_flip_is_valid_under_the_null(rng):
    draws = 2000
    ps = [statistics.sign_flip(row) for row in rng.normal(size=(draws, 8))]
    rejected = np.mean(np.array(ps) <= 0.05)
    assert rejected < 0.05 + 4 * (0.05 * 0.95 / draws) ** 0.5


def test_holm_worked_by_hand():
    # sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04, running maximum .06
    np.testing.assert_allclose(
        statistics.holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02]
    )
    np.testing.assert_array_equal(statistics.holm([0.9, 0.8]), [1.0, 1.0])
    assert statistics.holm([]).shape == (0,)


@SETTINGS
@hypothesis.given(
    st.lists(st.floats(0, 1), min_size=1, max_size=6), st.randoms(use_true_random=False)
)
def test_holm_follows_its_values_and_lies_between_p_and_bonferroni(ps, random):
    ps = np.array(ps)
    order = list(range(len(ps)))
    random.shuffle(order)
    adjusted = statistics.holm(ps)
    np.testing.assert_allclose(statistics.holm(ps[order]), adjusted[order])
    assert (adjusted >= ps).all()
    assert (adjusted <= np.minimum(len(ps) * ps, 1.0) + 1e-12).all()


def test_trend_of_straight_lines_is_their_slope(rng):
    slopes = np.array([1.0, 2.0, 3.0, 2.0, 1.0, 2.0, 3.0, 2.0])
    values = rng.normal(size=(8, 1)) + slopes[:, None] * np.array([0.0, 1.0, 4.0])
    found = statistics.trend(values, positions=[0, 1, 4])
    np.testing.assert_allclose(found.slope, statistics.t_interval(slopes))
    assert found.p == 2 / 2**8
    np.testing.assert_allclose([s.mean for s in found.steps], [2.0, 6.0])
    assert found.step_ps == (2 / 2**8, 2 / 2**8)


def test_trend_can_hold_while_a_step_fails(rng):
    values = np.array([0.0, 2.0, 1.5, 4.0]) + 0.1 * rng.normal(size=(8, 4))
    found = statistics.trend(values)
    assert found.slope.low > 0
    assert found.steps[1].high < 0


def test_signs_are_drawn_beyond_twenty_worlds_and_always_the_same(rng):
    values = rng.normal(0.3, 1.0, 21)
    drawn = statistics.sign_flip(values)
    assert drawn == statistics.sign_flip(values)
    # Exact by the normal limit to a few standard errors of 10⁵ draws.
    z = abs(values.sum()) / np.sqrt((values**2).sum())
    assert abs(drawn - 2 * scipy.stats.norm.sf(z)) < 0.02
    assert statistics.sign_flip(np.ones(25)) == 1 / (100_000 + 1)


def test_equivalence_is_two_one_sided_t_tests():
    values = _with(0.02, 0.07)
    low = scipy.stats.ttest_1samp(values, -0.1, alternative="greater").pvalue
    high = scipy.stats.ttest_1samp(values, 0.1, alternative="less").pvalue
    assert statistics.equivalence(values, 0.1) == pytest.approx(max(low, high))
    assert statistics.equivalence(np.zeros(9), 0.1) == 0.0


def test_a_family_is_no_larger_than_holm_can_decide():
    assert [statistics.largest_family(n) for n in (8, 10, 15)] == [6, 25, 819]
    for worlds in (8, 10):
        size, least = statistics.largest_family(worlds), 2.0 ** (1 - worlds)
        assert statistics.holm([least] * size).max() <= 0.05
        assert statistics.holm([least] * (size + 1)).max() > 0.05


@pytest.mark.parametrize(
    ("mean", "half", "word"),
    [
        (0.20, 0.10, "reproduced"),  # [0.10, 0.30]
        (0.20, 0.19, "reproduced"),  # just above 0
        (0.20, 0.21, "undecided"),  # reaches 0, and beyond the smallest effect
        (0.08, 0.01, "better, negligibly"),
        (0.09, 0.05, "better, negligibly"),  # may be large, is not on average
        (0.00, 0.05, "not reproduced"),
        (-0.05, 0.14, "not reproduced"),  # [−0.19, 0.09]
        (-0.20, 0.10, "contradicted"),
        (-0.02, 0.01, "worse, negligibly"),
        (0.00, 0.50, "undecided"),
    ],
)
def test_verdict_words_for_a_claim_of_more(mean, half, word):
    found = statistics.verdict(_with(mean, half), 0.1)
    assert found.word == word
    np.testing.assert_allclose(
        (found.mean, found.low, found.high), (mean, mean - half, mean + half), atol=1e-9
    )
    assert (found.needed is not None) == (word == "undecided")


@pytest.mark.parametrize(
    ("mean", "half", "word"),
    [
        (0.02, 0.07, "≈"),
        (0.02, 0.12, "undecided"),
        (0.30, 0.10, "contradicted"),  # all of the interval is too large to be equal
        (-0.30, 0.10, "contradicted"),
        (0.15, 0.10, "undecided"),  # not zero, and perhaps too small to matter
        (0.08, 0.01, "≈"),  # surely not zero, and too small to matter
    ],
)
def test_verdict_words_for_a_claim_of_equality(mean, half, word):
    found = statistics.verdict(_with(mean, half), 0.1, kind="equal")
    assert found.word == word
    assert (found.p < 0.05) == (word in ("≈", "contradicted"))
    ninety = statistics.t_interval(_with(mean, half), level=0.9)
    assert (found.low, found.high) == (ninety.low, ninety.high)


def test_verdict_below_eight_worlds_is_no_test():
    found = statistics.verdict(_with(1.0, 0.1, n=7), 0.1)
    assert found.word == "no test"
    assert math.isnan(found.p)


def test_verdict_carries_the_exact_p():
    values = _with(0.2, 0.1)
    assert statistics.verdict(values, 0.1).p == statistics.sign_flip(values)


@pytest.mark.parametrize("kind", ["greater", "equal"])
def test_worlds_needed_give_the_power_they_promise(kind, rng):
    deviation, smallest, draws = 0.2, 0.1, 2000
    needed = statistics.worlds_needed(deviation, smallest, kind=kind)
    true = 0.0 if kind == "equal" else 1.5 * smallest
    words = [
        statistics.verdict(row, smallest, kind=kind).word
        for row in rng.normal(true, deviation, (draws, needed))
    ]
    hits = np.isin(words, ["reproduced", "≈"]).mean()
    assert abs(hits - 0.8) < 4 * (0.8 * 0.2 / draws) ** 0.5 + 0.02
    assert statistics.power(needed - 1, deviation, smallest, kind=kind) < 0.8


def test_worlds_needed_may_be_out_of_reach():
    assert statistics.worlds_needed(1e6, 0.1) is None
    assert statistics.worlds_needed(0.0, 0.1) == 2


def test_beating_all_takes_every_comparison():
    won, slightly, lost, open_ = (
        statistics.verdict(_with(mean, half), 0.1)
        for mean, half in ((0.2, 0.1), (0.08, 0.01), (-0.2, 0.1), (0.0, 0.5))
    )
    assert statistics.all_of([won, won]) == "reproduced"
    assert statistics.all_of([won, slightly]) == "better, negligibly"
    assert statistics.all_of([won, lost]) == "contradicted"
    assert statistics.all_of([won, open_]) == "undecided"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: statistics.verdict(np.ones(8), 0.0), "smallest effect"),
        (lambda: statistics.verdict(np.ones(8), 0.1, kind="less"), "kind"),
        (lambda: statistics.t_interval([1.0, np.nan]), "finite"),
        (lambda: statistics.holm([0.1, np.nan]), "NaN"),
        (lambda: statistics.trend(np.zeros((3, 1))), "conditions"),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
