"""Recovery after a reset: closed forms, a slow loop, censoring, and who came first."""

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from rlhf_jax.evaluation import recovery

SETTINGS = hypothesis.settings(max_examples=60, deadline=None)
# Multiples of ½ and a share of ½: targets are exact.
SCORES = st.lists(st.integers(-2, 6).map(lambda x: x / 2), min_size=4, max_size=20)


@st.composite
def traces(draw):
    scores = draw(SCORES)
    places = st.integers(0, len(scores) - 1)
    resets = draw(st.lists(places, unique=True, max_size=4))
    return np.array(scores), sorted(resets)


def _slow(scores, resets, origin, share, window):
    """The definition, an iteration at a time."""
    rows = []
    for reset in resets:
        before = [r for r in resets if r < reset]
        later = [r for r in resets if r > reset]
        first = max([r + 1 for r in before] + [reset - window + 1, 0])
        level = sum(scores[t] for t in range(first, reset + 1)) / (reset + 1 - first)
        last = min(later + [len(scores) - 1])
        if last == reset or level <= origin:
            continue
        steps, regained = 0, False
        for t in range(reset + 1, last + 1):
            if scores[t] >= origin + share * (level - origin):
                regained = True
                break
            steps += 1
        rows.append((reset, steps, last - reset, regained))
    return rows


def test_a_recovery_worked_by_hand():
    #         0    1    2    3  | 4    5    6    7 | 8    9
    scores = [0.0, 1.0, 2.0, 3.0, 1.0, 1.7, 1.8, 2.5, 0.0, 1.0]
    first, second = recovery.after_resets(scores, [3, 7], window=3)
    assert first == (3, 2.0, 1.8, 2, 4, True)
    assert second[:2] == (7, pytest.approx(2.0))
    assert (second.steps, second.watched, second.regained) == (2, 2, False)


def test_a_policy_that_lost_nothing_is_back_at_once():
    (found,) = recovery.after_resets([1.0] * 6, [2])
    assert (found.steps, found.regained) == (0, True)


def test_the_level_never_reaches_over_the_reset_before():
    scores = [4.0, 4.0, 1.0, 0.5, 0.9]
    assert recovery.after_resets(scores, [1, 2], window=3)[1].level == 1.0


def test_a_share_of_the_gain_is_regained_wherever_the_scale_has_its_zero():
    scores = np.array([0.0, 1.0, 2.0, 0.5, 1.5, 2.0])
    plain = recovery.after_resets(scores, [2])
    moved = recovery.after_resets(scores + 7.0, [2], origin=7.0)
    assert [x[3:] for x in plain] == [x[3:] for x in moved]
    # Of the number itself 90% is regained at once, far from zero.
    assert recovery.after_resets(scores + 7.0, [2])[0].steps == 0


@SETTINGS
@hypothesis.given(traces(), st.integers(1, 4))
def test_recoveries_are_those_of_the_loop(trace, window):
    scores, resets = trace
    found = recovery.after_resets(scores, resets, share=0.5, window=window)
    rows = [(r.reset, r.steps, r.watched, r.regained) for r in found]
    assert rows == _slow(scores, resets, 0.0, 0.5, window)


@SETTINGS
@hypothesis.given(traces())
def test_a_recovery_knows_no_future_and_no_scale(trace):
    scores, resets = trace
    found = recovery.after_resets(scores, resets, share=0.5)
    assert recovery.after_resets(4 * scores, resets, share=0.5) == [
        r._replace(level=4 * r.level, target=4 * r.target) for r in found
    ]
    longer = np.append(scores, [9.0, 9.0])
    for now, then in zip(
        found, recovery.after_resets(longer, resets, share=0.5), strict=False
    ):
        if now.regained:
            assert then.steps == now.steps and then.reset == now.reset
        elif then.reset == now.reset:
            assert then.steps >= now.steps


def test_resets_that_say_nothing_have_no_entry():
    scores = [-1.0, 0.0, 2.0, 2.0]
    assert recovery.after_resets(scores, [0]) == []  # nothing was gained
    assert recovery.after_resets(scores, [3]) == []  # nothing follows
    assert recovery.after_resets(scores, []) == []


def _made(steps, watched, regained, reset=5):
    return recovery.Recovery(reset, 1.0, 0.9, steps, watched, regained)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (_made(2, 8, True), _made(5, 8, True), 1),
        (_made(5, 8, True), _made(2, 8, True), -1),
        (_made(5, 8, True), _made(5, 8, True), 0),
        (_made(7, 8, True), _made(8, 8, False), 1),  # censored: later than any seen
        (_made(8, 8, False), _made(0, 8, True), -1),
        (_made(8, 8, False), _made(8, 8, False), None),
    ],
)
def test_who_came_back_first(one, other, expected):
    assert recovery.earlier(one, other) == expected


def test_the_restricted_mean_is_observed_and_bounds_the_true_one(rng):
    assert recovery.restricted([_made(2, 8, True), _made(8, 8, False)]) == 5.0
    true = rng.geometric(0.2, size=500)
    seen = [_made(int(min(t, 6)), 6, bool(t < 6)) for t in true]
    assert recovery.restricted(seen) == np.minimum(true, 6).mean() <= true.mean()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: recovery.after_resets([0.0, np.nan], [0]), "finite"),
        (lambda: recovery.after_resets(np.zeros((2, 2)), [0]), "finite, .N."),
        (lambda: recovery.after_resets([0.0, 1.0], [2]), "outside of 2"),
        (lambda: recovery.after_resets([0.0, 1.0], [-1]), "outside of 2"),
        (lambda: recovery.after_resets([0.0, 1.0], [0], share=0.0), "share"),
        (lambda: recovery.after_resets([0.0, 1.0], [0], window=0), "window"),
        (lambda: recovery.restricted([]), "no reset"),
        (
            lambda: recovery.earlier(_made(1, 8, True), _made(1, 7, True)),
            "same reset",
        ),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match="(?s)" + message):
        call()
