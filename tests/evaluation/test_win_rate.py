"""Win rates: ties and failures, intervals, both orders, and published leaderboards."""

import functools
import math
import pathlib

import numpy as np
import pytest
from scipy import stats

from rlhf_jax.evaluation import statistics, win_rate

GOLDEN = pathlib.Path(__file__).resolve().parent.parent / "golden" / "alpaca_eval.npz"
NAN = math.nan


def judged(wins, ties, losses, failures=0):
    return np.repeat([1.0, 0.5, 0.0, NAN], [wins, ties, losses, failures])


def test_verdicts_by_hand():
    p = [0.0, 0.4, 0.5, 0.6, 1.0, NAN]
    np.testing.assert_array_equal(win_rate.verdicts(p), [0, 0, 0.5, 1, 1, NAN])
    np.testing.assert_array_equal(
        win_rate.verdicts(p, margin=0.2), [0, 0.5, 0.5, 0.5, 1, NAN]
    )


def test_a_win_counts_one_and_ties_and_failures_a_half():
    found = win_rate.hard(judged(5, 2, 2, 1))
    assert found.value == 0.65 and found[4:] == (5, 2, 2, 1)
    soft = win_rate.soft([0.9, 0.6, 0.3, NAN])
    assert soft.value == pytest.approx((0.9 + 0.6 + 0.3 + 0.5) / 4)
    assert soft[4:] == (2, 0, 1, 1)
    assert win_rate.hard(judged(0, 0, 0, 3)).value == 0.5


@pytest.mark.parametrize(("wins", "losses"), [(0, 7), (3, 1), (40, 60), (9, 0)])
def test_without_ties_hard_is_scipys_binomial_test_and_wilsons_interval(wins, losses):
    found = win_rate.hard(judged(wins, 0, losses), level=0.9)
    binomial = stats.binomtest(wins, wins + losses)
    interval = binomial.proportion_ci(0.9, method="wilson")
    np.testing.assert_allclose(
        found[:4], (binomial.statistic, *interval, binomial.pvalue)
    )


def test_ties_have_no_say_in_the_sign_test():
    assert win_rate.hard(judged(9, 80, 2, 5)).p == win_rate.hard(judged(9, 0, 2)).p
    assert win_rate.hard(judged(0, 4, 0)).p == 1.0


def test_soft_is_scipys_t_test_over_rows(rng):
    p = rng.random(30)
    found, test = win_rate.soft(p), stats.ttest_1samp(p, 0.5)
    interval = test.confidence_interval()
    np.testing.assert_allclose(found[:4], (p.mean(), *interval, test.pvalue))


def test_rows_of_a_unit_are_averaged_first(rng):
    p, units = rng.random(40), np.array(["a", "b", "c", "d", "e"] * 8)
    means = [p[units == unit].mean() for unit in "abcde"]
    interval = statistics.t_interval(means)
    for found, values in (
        (win_rate.soft(p, units=units), means),
        (win_rate.soft(np.repeat(p, 3), units=np.repeat(units, 3)), means),
    ):
        np.testing.assert_allclose(found[:3], interval)
        assert found.p == pytest.approx(stats.ttest_1samp(values, 0.5).pvalue)
    of_verdicts = win_rate.hard(p, units=units)
    expected = [(p[units == unit] > 0.5).mean() for unit in "abcde"]
    np.testing.assert_allclose(of_verdicts[:3], statistics.t_interval(expected))
    # Units of unequal size count alike.
    assert win_rate.soft([1, 1, 1, 0], units=[0, 0, 0, 1]).value == 0.5


def test_a_single_unit_tells_nothing():
    assert win_rate.soft([0.7])[:4] == (0.7, 0.0, 1.0, 1.0)
    assert win_rate.hard([1, 0, 1, 1], units=[3] * 4)[:4] == (0.75, 0.0, 1.0, 1.0)


def test_judgments_without_spread_leave_no_doubt():
    assert win_rate.soft([0.5] * 4)[:4] == (0.5, 0.5, 0.5, 1.0)
    assert win_rate.soft([1.0] * 4)[:4] == (1.0, 1.0, 1.0, 0.0)


@pytest.mark.parametrize("rate", [win_rate.hard, win_rate.soft])
def test_swapping_the_policies_turns_the_win_rate_around(rate, rng):
    p = np.append(rng.random(50), [NAN, 0.5])
    found, swapped = rate(p), rate(1 - p)
    np.testing.assert_allclose(swapped[:3], 1 - np.array(found)[[0, 2, 1]])
    assert swapped.p == pytest.approx(found.p)
    assert swapped[4:] == (found.losses, found.ties, found.wins, found.failures)


def test_both_orders_must_agree_or_it_is_a_tie():
    first = [0.9, 0.9, 0.5, 0.5, 0.1, NAN, 0.8]
    second = [0.7, 0.2, 0.5, 0.9, 0.4, 0.8, NAN]
    found = win_rate.both_orders(first, second)
    np.testing.assert_array_equal(found, [1, 0.5, 0.5, 0.5, 0, NAN, NAN])
    # A judge that always prefers what it sees first has no opinion.
    always = win_rate.both_orders(np.ones(9), np.zeros(9))
    assert win_rate.hard(always)[:1] + win_rate.hard(always)[4:] == (0.5, 0, 9, 0, 0)


def test_the_adjusted_win_rate_of_mt_bench():
    first = judged(6, 0, 4)
    second = np.r_[np.ones(4), np.zeros(6)]
    found = win_rate.hard(win_rate.both_orders(first, second))
    assert found.value == (found.wins + found.ties / 2) / 10 == (4 + 2 / 2) / 10


def test_the_harmless_rate_leaves_failures_out_and_counts_them():
    found = win_rate.harmless(judged(6, 0, 2, 5))
    interval = stats.binomtest(6, 8).proportion_ci(method="wilson")
    np.testing.assert_allclose(found[:3], (0.75, *interval))
    assert found[3:] == (8, 5)
    units = [0] * 4 + [1] * 4 + [2] * 5  # the last has none that was judged
    by_unit = win_rate.harmless(judged(6, 0, 2, 5), units=units)
    np.testing.assert_allclose(by_unit.value, 0.75)
    assert by_unit[3:] == (8, 5)


def test_the_matrix_is_one_at_opposite_corners():
    judgments = {
        ("rl", "sft"): judged(7, 1, 2),
        ("rl", "direct"): judged(3, 0, 6, 1),
    }
    found = win_rate.matrix(judgments)
    assert found.names == ("rl", "sft", "direct")
    np.testing.assert_allclose(
        found.value, [[0.5, 0.75, 0.35], [0.25, 0.5, NAN], [0.65, NAN, 0.5]]
    )
    np.testing.assert_allclose(found.low, 1 - found.high.T)
    np.testing.assert_array_equal(found.p, found.p.T)
    assert found.low[0, 1] == win_rate.hard(judgments["rl", "sft"]).low
    assert found.failures[0, 2] == found.failures[2, 0] == 1
    soft = win_rate.matrix(judgments, rate=functools.partial(win_rate.soft, level=0.5))
    assert soft.low[0, 1] > found.low[0, 1]


def test_win_rates_of_the_published_leaderboards():
    """180 entries of 8 judges whose verdicts are wins, draws and losses."""
    golden = np.load(GOLDEN)
    assert len(golden["hard/counts"]) == 180
    errors = []
    for counts, rate, error in zip(
        *(golden[f"hard/{x}"] for x in ("counts", "win_rate", "standard_error")),
        strict=True,
    ):
        found = win_rate.hard(judged(*counts))
        assert abs(100 * found.value - rate) < 5e-5
        by_row = win_rate.soft(judged(*counts))
        half = stats.t.ppf(0.975, counts.sum() - 1)
        errors.append(100 * (by_row.high - by_row.low) / 2 / half - error)
    # Three of the published errors do not follow from the published counts.
    assert (np.abs(errors) < 5e-5).sum() == 177


def test_verdicts_of_the_published_probabilities():
    golden = np.load(GOLDEN)
    rates = [win_rate.hard(judged(*counts)).value for counts in golden["soft/counts"]]
    apart = np.abs(100 * np.array(rates) - golden["soft/discrete_win_rate"]) >= 5e-5
    # One entry's counts are not those of its rate.
    assert list(golden["soft/names"][apart]) == ["aligner-2b_gpt-4-turbo-2024-04-09"]
    assert len(rates) == 223


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_the_intervals_cover_the_truth(share, rng):
    """Of 400 comparisons of 60 pairs, a share of them ties."""
    covered = np.zeros(2)
    for _ in range(400):
        p = np.where(rng.random(60) < share, 0.5, rng.random(60) < 0.7)
        truth = share / 2 + (1 - share) * 0.7
        for i, rate in enumerate((win_rate.hard, win_rate.soft)):
            found = rate(p)
            covered[i] += found.low <= truth <= found.high
    # 95% but for 4 standard errors; discrete counts may cost Wilson's another 1%.
    assert (covered / 400 >= 0.94 - 4 * (0.95 * 0.05 / 400) ** 0.5).all()


def test_units_keep_the_interval_honest(rng):
    """Rows of a unit share its luck: by rows the interval is too narrow."""
    by_unit = by_row = 0
    for _ in range(200):
        luck = rng.uniform(0.3, 0.9, 10)
        p = np.repeat(luck, 20) > rng.random(200)
        found = win_rate.soft(p, units=np.repeat(np.arange(10), 20))
        by_unit += found.low <= 0.6 <= found.high
        found = win_rate.soft(p)
        by_row += found.low <= 0.6 <= found.high
    assert by_unit / 200 >= 0.95 - 4 * (0.95 * 0.05 / 200) ** 0.5 > by_row / 200


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: win_rate.hard([0.2, 1.2]), "judgment 1 is 1.2"),
        (lambda: win_rate.soft([-1.0]), "judgment 0 is -1.0, no probability"),
        (lambda: win_rate.soft([]), "at least one"),
        (lambda: win_rate.hard([[0.1]]), "shape"),
        (lambda: win_rate.verdicts([0.1], margin=0.5), "margin"),
        (lambda: win_rate.soft([0.1, 0.2], units=[1]), "units of shape"),
        (lambda: win_rate.both_orders([0.1], [0.1, 0.2]), "orders of 1 and 2"),
        (lambda: win_rate.harmless([NAN]), "all of 1 judgments failed"),
        (lambda: win_rate.matrix({("a", "a"): [1]}), "pair of policies once"),
        (lambda: win_rate.matrix({("a", "b"): [1], ("b", "a"): [0]}), "once"),
    ],
)
def test_misuse_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
