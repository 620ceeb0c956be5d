"""When policies are evaluated: as often for every method, both sides of each reset."""

import dataclasses
import fractions

import hypothesis
import pytest
from hypothesis import strategies as st

from rlhf_jax.studies import eval_steps, methods
from rlhf_jax.studies.interfaces import Method, Schedule, Study, Unit

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


def test_evaluations_by_count_by_hand():
    # The end, then the middles of 0–16, 0–8, 8–16.
    assert eval_steps.spaced(16, [], 4) == {0, 16, 8, 4, 12}
    # Two around the reset after step 8, the end, and the middles of 0–8, 8–16.
    assert eval_steps.spaced(16, [7], 5) == {0, 8, 16, 4, 12}
    # A reset that ends the run has two sides as well.
    assert eval_steps.spaced(16, [15], 3) == {0, 16, 8}


@SETTINGS
@hypothesis.given(calendars())
def test_every_calendar_is_evaluated_as_often(calendar):
    steps, resets, count = calendar
    asked = eval_steps.spaced(steps, resets, count)
    assert _measured(steps, resets, asked) == count
    assert {0, steps, *(reset + 1 for reset in resets)} <= asked
    assert all(0 <= step <= steps for step in asked)


@SETTINGS
@hypothesis.given(calendars())
def test_gaps_are_no_wider_than_they_need_be(calendar):
    steps, resets, count = calendar
    asked = sorted(eval_steps.spaced(steps, resets, count))
    needed = {0, steps, *(reset + 1 for reset in resets)}
    widths = [(b - a, a, b) for a, b in zip(asked, asked[1:], strict=False)]
    added = [step for step in asked if step not in needed]
    for step in added:  # an evaluation stands in a gap that was as wide as any left
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
        ((10, [], 11), "11 evaluations of 10 steps"),
        ((20, [4, 8, 12], 6), "3 resets.*are 7 evaluations, more than 6"),
        ((4, [], 0), "are 1 evaluations, more than 0"),
    ],
)
def test_counts_that_cannot_be_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        eval_steps.spaced(*arguments)


def test_the_first_method_whose_count_cannot_be_is_named():
    calendars = {"ppo": [], "elastic_reset": [4, 8, 12]}
    eval_steps.check(20, calendars, 7)
    with pytest.raises(ValueError, match=r"^--num-evals 6: elastic_reset: 3 resets"):
        eval_steps.check(20, calendars, 6)
    with pytest.raises(ValueError, match=r"^--num-evals 21: ppo: 21 evaluations of"):
        eval_steps.check(20, calendars, 21)


def test_without_a_count_nothing_is_refused():
    eval_steps.check(20, {"elastic_reset": [4, 8, 12]}, 0)


@SETTINGS
@hypothesis.given(calendars(), st.integers(1, 70))
def test_what_is_checked_is_what_is_evaluated(calendar, count):
    steps, resets, _ = calendar

    def refused(call, *arguments):
        try:
            call(*arguments)
        except ValueError:
            return True
        return False

    spaced = refused(eval_steps.spaced, steps, resets, count)
    assert refused(eval_steps.check, steps, {"a": resets}, count) == spaced


def test_by_default_all_methods_are_evaluated_alike_and_as_often():
    """Around the resets of any of them, whether or not they are reset themselves."""
    alike = eval_steps.alike(20, 5, reset_every=6)
    every = [[6, 12, 18], [7, 14]]
    expected = eval_steps.regular(20, {6, 7, 12, 14, 18}, 5)
    assert alike([6, 12, 18], every) == expected
    assert alike([], every) > alike([7, 14], every) > expected
    # Both sides of a reset are two looks: all methods have as many.
    looks = {len(alike(r, every)) + len(r) for r in ([], [7, 14], [6, 12, 18])}
    assert looks == {len(expected) + 3}
    counted = eval_steps.by_count(20, 7)
    assert counted([], every) == eval_steps.spaced(20, [], 7)
    assert counted([7, 14], every) == eval_steps.spaced(20, [7, 14], 7)


def schedule(**changes):
    evaluations = eval_steps.alike(20, 5)
    return Schedule(steps=20, evaluations=evaluations, **changes)


def test_calendars_by_hand():
    every6 = schedule(reset_every=6)
    assert list(eval_steps.at_intervals(every6)) == [6, 12, 18]
    assert list(eval_steps.at_intervals(every6, 9)) == [9, 18]
    first = schedule(reset_every=6, reset_first=True)
    assert list(eval_steps.at_intervals(first)) == [0, 6, 12, 18]
    assert eval_steps.at_multiples(every6) == (5, 11, 17)
    assert eval_steps.at_multiples(schedule()) == ()


def test_a_single_run_is_evaluated_every_so_many_steps_and_around_its_resets():
    evaluations = eval_steps.at_every(10, 4)
    assert evaluations([], []) == {0, 4, 8, 10}
    assert evaluations([5], []) == {0, 4, 6, 8, 10}
    assert eval_steps.at_every(10, 0)([5], []) == {0, 6, 10}


def test_passes_over_the_rows_are_completed_in_the_step_that_takes_the_last_row():
    """40 rows by 16 are 2.5 steps a pass: passes are over in steps 3, 5 and 8."""
    epoch = fractions.Fraction(40, 16)
    assert eval_steps.epochs(9, epoch) == {3, 5, 8}
    assert eval_steps.at_epochs(9, epoch)([5], []) == {0, 3, 5, 6, 8, 9}
    assert eval_steps.epochs(2, epoch) == frozenset()
    many = eval_steps.epochs(2, fractions.Fraction(1, 4))  # 4 passes a step
    assert many == {1, 2}


@pytest.mark.parametrize(("count", "rows"), [(40, 16), (7, 7), (9, 4), (5, 16)])
def test_passes_over_the_rows_against_rows_counted_one_by_one(count, rows):
    completed = set()
    for row in range(20 * rows):
        if row % count == count - 1:
            completed.add(row // rows + 1)
    assert eval_steps.epochs(20, fractions.Fraction(count, rows)) == completed


def test_resets_that_never_come_are_refused():
    rows = {name: methods.METHODS[name] for name in ("ppo", "elastic_reset")}
    eval_steps.check_resets(schedule(reset_every=6), rows, 0)
    for every in (0, 20):
        with pytest.raises(ValueError, match=f"--rl.reset-every {every} .*elastic"):
            eval_steps.check_resets(schedule(reset_every=every), rows, 0)
    with pytest.raises(ValueError, match="--num-evals 6: elastic_reset"):
        eval_steps.check_resets(schedule(reset_every=6), rows, 6)


def test_a_method_measured_at_its_end_needs_no_looks_around_resets():
    schedule = Schedule(20, eval_steps.by_count(20, 1), reset_every=4)
    row = Method("", "", train=lambda *_: None, resets=eval_steps.at_intervals)
    with pytest.raises(ValueError, match="--num-evals 1: often"):
        eval_steps.check_resets(schedule, {"often": row}, 1)
    once = dataclasses.replace(row, at_end=True)
    eval_steps.check_resets(schedule, {"once": once}, 1)
    study = Study({"once": once}, (Unit(0, 0),), schedule, ())
    assert study.evaluations("once") == {20}
