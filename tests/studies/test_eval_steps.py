"""When policies are looked at: as often for every method, both sides of each reset."""

import hypothesis
import pytest
from hypothesis import strategies as st

from rlhf_jax.studies import eval_steps

SETTINGS = hypothesis.settings(max_examples=80, deadline=None)


@st.composite
def calendars(draw):
    steps = draw(st.integers(4, 60))
    places = st.integers(0, steps - 1)
    resets = draw(st.lists(places, unique=True, max_size=steps // 4))
    least = 2 * len(resets) + (steps - 1 not in resets)
    return steps, sorted(resets), draw(st.integers(least, steps))


def _measured(steps, resets, asked):
    """How many evaluations the loop makes after the start: two around a reset."""
    return sum(2 if step - 1 in resets else 1 for step in asked if step)


def test_the_regular_schedule_by_hand():
    assert eval_steps.regular(50, [14, 28, 42], 17) == {
        *(0, 17, 34, 50),
        *(15, 29, 43),
        *(2, 4, 8),
    }
    assert eval_steps.regular(6, [], 0) == {0, 6}
    assert eval_steps.regular(5, [4], 100) == {0, 5}


def test_looks_by_hand():
    # The end, then the middles of 0–16, 0–8, 8–16.
    assert eval_steps.looks(16, [], 4) == {0, 16, 8, 4, 12}
    # Two around the reset after step 8, the end, and the middles of 0–8, 8–16.
    assert eval_steps.looks(16, [7], 5) == {0, 8, 16, 4, 12}
    # A reset that ends the run has two sides as well.
    assert eval_steps.looks(16, [15], 3) == {0, 16, 8}


@SETTINGS
@hypothesis.given(calendars())
def test_every_calendar_is_looked_at_as_often(calendar):
    steps, resets, count = calendar
    asked = eval_steps.looks(steps, resets, count)
    assert _measured(steps, resets, asked) == count
    assert {0, steps, *(reset + 1 for reset in resets)} <= asked
    assert all(0 <= step <= steps for step in asked)


@SETTINGS
@hypothesis.given(calendars())
def test_gaps_are_no_wider_than_they_need_be(calendar):
    steps, resets, count = calendar
    asked = sorted(eval_steps.looks(steps, resets, count))
    needed = {0, steps, *(reset + 1 for reset in resets)}
    widths = [(b - a, a, b) for a, b in zip(asked, asked[1:], strict=False)]
    added = [step for step in asked if step not in needed]
    for step in added:  # a look stands in a gap that was as wide as any left
        before = max(s for s in asked if s < step)
        after = min(s for s in asked if s > step)
        assert after - before >= max(width for width, *_ in widths)


@SETTINGS
@hypothesis.given(calendars(), st.integers(0, 20))
def test_the_regular_schedule_keeps_to_the_run_and_misses_no_reset(calendar, every):
    steps, resets, _ = calendar
    asked = eval_steps.regular(steps, resets, every)
    assert {0, steps, *(reset + 1 for reset in resets)} <= asked
    assert all(0 <= step <= steps for step in asked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, [], 11), "11 looks at 10 steps"),
        ((20, [4, 8, 12], 6), "3 resets.*are 7 looks, more than 6"),
        ((4, [], 0), "are 1 looks, more than 0"),
    ],
)
def test_looks_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        eval_steps.looks(*arguments)


def test_the_first_method_whose_looks_cannot_be_is_named():
    calendars = {"ppo": [], "elastic_reset": [4, 8, 12]}
    eval_steps.check(20, calendars, 7)
    with pytest.raises(ValueError, match=r"^--looks 6: elastic_reset: 3 resets"):
        eval_steps.check(20, calendars, 6)
    with pytest.raises(ValueError, match=r"^--looks 21: ppo: 21 looks at 20 steps"):
        eval_steps.check(20, calendars, 21)


def test_without_looks_nothing_is_refused():
    eval_steps.check(20, {"elastic_reset": [4, 8, 12]}, 0)


@SETTINGS
@hypothesis.given(calendars(), st.integers(1, 70))
def test_what_is_checked_is_what_is_looked_at(calendar, count):
    steps, resets, _ = calendar

    def refused(call, *arguments):
        try:
            call(*arguments)
        except ValueError:
            return True
        return False

    looks = refused(eval_steps.looks, steps, resets, count)
    assert refused(eval_steps.check, steps, {"a": resets}, count) == looks
