"""Coordinate search: what it asks for, what it chooses, how its grids grow."""

import dataclasses
import math

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from rlhf_jax.studies import coordinate_search
from rlhf_jax.studies.coordinate_search import ODDS, WHOLE, Line


@dataclasses.dataclass(frozen=True)
class Setting:
    rate: float = 1.0
    share: float = 0.5
    every: int = 10


START = Setting()
RATES = Line("rate", (0.25, 0.5, 1.0, 2.0, 4.0))
SHARES = Line("share", (0.1, 0.25, 0.5, 0.75, 0.9), ODDS, 1e-6, 1 - 1e-6)
EVERY = Line("every", (5, 10, 20), WHOLE, 2, 49)


def search(worth, lines, *, limit=4):
    """(path, the settings in the order they were measured), each as soon as asked for.

    worth(setting) -> a number, of a single unit, or ().
    """
    found, order = {}, []
    while True:
        path = coordinate_search.follow(START, lines, found.get, limit=limit)
        if not path.wanted:
            return path, order
        for setting in path.wanted:
            value = worth(setting)
            found[setting] = value if value == () else (value,)
            order.append(setting)


def hill(at, field="rate"):
    """A function of one field, largest at `at`."""
    return lambda setting: -abs(math.log(getattr(setting, field) / at))


def values(path, step=0):
    """The grid of a step, as it was in the end."""
    return [getattr(s, path.steps[step].field) for s in path.steps[step].settings]


# What is asked for


def test_a_whole_grid_is_asked_for_at_once_and_nothing_of_the_next_line():
    path = coordinate_search.follow(START, (RATES, SHARES), {}.get)
    assert path.wanted == tuple(Setting(rate=rate) for rate in RATES.grid)
    assert path.ahead == (SHARES,) and path.chosen is None


def test_what_is_measured_is_not_asked_for_again():
    found = {Setting(rate=1.0): (0.5,)}
    path = coordinate_search.follow(START, (RATES,), found.get)
    assert path.wanted == tuple(Setting(rate=r) for r in RATES.grid if r != 1.0)


def test_lines_follow_one_another_at_the_best_setting_so_far():
    def worth(s):
        return hill(0.5)(s) + hill(20, "every")(s) - abs(s.share - 0.75)

    path, order = search(worth, (RATES, SHARES, EVERY))
    assert path.chosen == Setting(0.5, 0.75, 20)
    shares = [s for s in order if s.share != START.share]
    # All but the incumbent's own value, which was measured on the line before.
    assert [s.share for s in shares[:4]] == [0.1, 0.25, 0.75, 0.9]
    assert {s.rate for s in shares} == {0.5}
    assert {s.share for s in order if s.every != START.every} == {0.75}
    assert set(path.compared) == set(order) and len(order) == len(set(order))


def test_the_value_so_far_is_one_of_the_next_grid_and_stands_for_its_neighbours():
    lines = (RATES, Line("share", (0.3, 0.5 + 1e-7, 0.7), ODDS, 1e-6, 1 - 1e-6))
    path, order = search(lambda s: hill(1.0)(s) - (s.share - 0.5) ** 2, lines)
    assert values(path, 1) == [0.3, 0.5, 0.7]
    lines = (RATES, Line("share", (0.3, 0.7), ODDS, 1e-6, 1 - 1e-6))
    path, _ = search(lambda s: hill(1.0)(s) - (s.share - 0.5) ** 2, lines)
    assert values(path, 1) == [0.3, 0.5, 0.7]


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.permutations(range(12)), st.floats(0.1, 8.0), st.floats(0.1, 0.9))
def test_the_order_in_which_trials_end_changes_nothing(order, rate, share):
    def worth(s):
        return hill(rate)(s) - abs(s.share - share)

    whole, _ = search(worth, (RATES, SHARES))
    found = {}
    while (path := coordinate_search.follow(START, (RATES, SHARES), found.get)).wanted:
        # One trial at a time, in any order, with what other searches asked for beside.
        setting = path.wanted[order[len(found) % 12] % len(path.wanted)]
        found |= {setting: (worth(setting),), Setting(rate=77.0): (99.0,)}
    assert path == whole


# How a grid grows


def test_a_best_value_within_the_grid_leaves_it_alone():
    path, order = search(hill(0.9), (RATES,))
    assert path.chosen.rate == 1.0 and path.steps[0].extensions == ()
    assert len(order) == 5


@pytest.mark.parametrize(
    ("best", "grown"), [(16.0, [8.0, 16.0, 32.0]), (0.125, [0.125, 0.0625])]
)
def test_a_best_value_at_an_edge_extends_the_grid_by_its_own_ratio(best, grown):
    path, _ = search(hill(best), (RATES,))
    assert path.chosen.rate == best
    found = path.steps[0].extensions
    assert [one.value for one in found] == grown
    assert {one.why for one in found} == {"edge"}
    assert {one.side for one in found} == {"high" if best > 1 else "low"}


def test_a_tie_with_an_edge_extends_the_grid_on_its_side():
    # Two units that disagree about 4 against 2: +0.3 and −0.1, a mean of 0.1 ± 0.2.
    found = {Setting(rate=r): (0.0, 0.0) for r in RATES.grid}
    found |= {Setting(rate=2.0): (1.0, 1.0), Setting(rate=4.0): (0.7, 1.1)}
    path = coordinate_search.follow(START, (RATES,), found.get)
    assert path.wanted == (Setting(rate=8.0),)
    (one,) = path.steps[0].extensions
    assert (one.side, one.why, one.value) == ("high", "tie", 8.0)
    # A difference of 0.1 ± 0.05 is none.
    found[Setting(rate=4.0)] = (0.85, 0.95)
    path = coordinate_search.follow(START, (RATES,), found.get)
    assert path.chosen == Setting(rate=2.0) and path.steps[0].extensions == ()


def test_units_that_differ_alike_make_no_tie():
    """The error is that of paired differences, not of each mean."""
    found = {Setting(rate=r): (0.0, 9.0) for r in RATES.grid}
    found[Setting(rate=1.0)] = (0.1, 9.1)
    path = coordinate_search.follow(START, (RATES,), found.get)
    assert path.chosen == Setting(rate=1.0)


def test_of_a_single_unit_equals_alone_are_a_tie():
    found = {Setting(rate=r): (0.0,) for r in RATES.grid}
    found[Setting(rate=1.0)] = (1e-9,)
    assert coordinate_search.follow(START, (RATES,), found.get).chosen.rate == 1.0
    found[Setting(rate=4.0)] = (1e-9,)
    path = coordinate_search.follow(START, (RATES,), found.get)
    assert path.wanted == (Setting(rate=8.0),)


def test_where_nothing_matters_a_grid_grows_to_its_limit_on_both_sides():
    path, order = search(lambda s: 0.0, (RATES,), limit=2)
    assert values(path) == [2.0**n for n in range(-4, 5)] and len(order) == 9
    ends = [one for one in path.steps[0].extensions if one.value is None]
    assert {(one.side, one.why) for one in ends} == {("low", "tie"), ("high", "tie")}
    assert path.chosen == START  # what is no better changes nothing


def test_a_limit_that_was_reached_is_told():
    path, _ = search(hill(1e9), (RATES,), limit=3)
    assert path.chosen.rate == 32.0
    assert [one.value for one in path.steps[0].extensions] == [8.0, 16.0, 32.0, None]
    path, _ = search(hill(1e9), (RATES,), limit=0)
    assert path.chosen.rate == 4.0
    assert [one.value for one in path.steps[0].extensions] == [None]


def test_shares_grow_by_the_ratio_of_their_odds_and_stay_below_1():
    path, _ = search(lambda s: s.share, (SHARES,), limit=4)
    grown = [one.value for one in path.steps[0].extensions[:-1]]
    odds = [9 * 3**n for n in (1, 2, 3, 4)]
    np.testing.assert_allclose(grown, [o / (1 + o) for o in odds], rtol=1e-5)
    path, _ = search(lambda s: -s.share, (SHARES,), limit=2)
    assert values(path)[:2] == pytest.approx([1 / 82, 1 / 28], rel=1e-5)


def test_intervals_are_whole_and_stay_where_a_run_is_reset():
    path, _ = search(hill(1000, "every"), (EVERY,))
    assert values(path) == [5, 10, 20, 40, 49]
    assert all(isinstance(value, int) for value in values(path))
    path, _ = search(hill(0.1, "every"), (EVERY,))
    assert values(path) == [2, 5, 10, 20]
    close = Line("every", (1, 2), WHOLE, 1, 9)
    path, _ = search(hill(1000, "every"), (close,))
    assert values(path) == [1, 2, 4, 8, 9]


def test_close_intervals_grow_by_one_at_least():
    path, _ = search(hill(1000, "every"), (Line("every", (10, 11), WHOLE, 1, 99),))
    assert values(path)[2:] == [12, 13, 14, 15]


def test_one_value_is_where_a_parameter_stays():
    path, order = search(lambda s: 0.0, (Line("rate", (3.0,)), SHARES))
    assert {s.rate for s in order} == {3.0} and path.steps[0].extensions == ()


# Failures


def test_failures_are_never_chosen_and_no_tie():
    def worth(setting):
        return () if setting.rate > 2.0 else setting.rate

    path, _ = search(worth, (RATES,))
    assert path.chosen.rate == 2.0 and path.steps[0].extensions == ()


def test_where_every_setting_failed_nothing_is_chosen_nor_asked_for():
    path, order = search(lambda s: (), (RATES, SHARES))
    assert path.chosen is None and path.wanted == () and len(order) == 5
    assert path.ahead == (SHARES,)


@hypothesis.settings(max_examples=40, deadline=None)
@hypothesis.given(
    st.lists(
        st.just(()) | st.just((float("nan"),)) | st.integers(-3, 3).map(lambda x: (x,))
    )
)
def test_the_first_of_the_largest_is_chosen_and_no_failure(outcomes):
    fine = [x[0] for x in outcomes if x and x[0] == x[0]]
    best = coordinate_search.choose(outcomes)
    if not fine:
        assert best is None
    else:
        assert outcomes[best] == (max(fine),)
        assert all(x != (max(fine),) for x in outcomes[:best])
        for own, outcome in enumerate(outcomes):
            chosen = coordinate_search.choose(outcomes, own)
            assert chosen == (own if outcome == outcomes[best] else best)


def test_mean_and_error_are_worked_by_hand():
    assert coordinate_search.mean_and_error((1.0, 3.0)) == pytest.approx((2.0, 1.0))
    assert coordinate_search.mean_and_error((5.0,)) == (5.0, 0.0)
    found = coordinate_search.mean_and_error((1.0, 2.0, 3.0))
    assert found == pytest.approx((2.0, 1 / math.sqrt(3)))


def test_numbers_keep_six_digits_and_whole_ones_all():
    tidy = coordinate_search.tidy
    assert tidy(1 / 3) == 0.333333 and tidy(3 * 0.1) == 0.3
    assert tidy(tidy(2 / 3)) == tidy(2 / 3)
    assert tidy(12_345_678) == 12_345_678 and isinstance(tidy(7), int)
