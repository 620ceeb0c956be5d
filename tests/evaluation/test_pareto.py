import functools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from rlhf_jax.evaluation import pareto

# Few distinct values, so that ties and duplicates are common.
_NUMBER = (st.integers(-3, 3) | st.floats(-5, 5, width=16)).map(lambda x: x + 0.0)
POINTS = st.lists(st.tuples(_NUMBER, _NUMBER), min_size=1, max_size=12).map(np.array)
SETTINGS = hypothesis.settings(max_examples=60, deadline=None)
CORNER = (2.0, -1.0)


def _dominates(a, b):
    return a[0] <= b[0] and a[1] >= b[1] and (a[0] < b[0] or a[1] > b[1])


@SETTINGS
@hypothesis.given(POINTS)
def test_members_are_exactly_the_points_nobody_dominates(points):
    expected = [not any(_dominates(q, p) for q in points) for p in points]
    np.testing.assert_array_equal(pareto.members(points), expected)


@SETTINGS
@hypothesis.given(POINTS)
def test_front_ascends_strictly_and_holds_each_value_once(points):
    front = pareto.front(points)
    assert (np.diff(front, axis=0) > 0).all()
    kept = {tuple(p) for p in points[pareto.members(points)]}
    assert {tuple(p) for p in front} == kept


@SETTINGS
@hypothesis.given(POINTS, st.randoms(use_true_random=False))
def test_front_and_hypervolume_do_not_depend_on_order_or_duplicates(points, random):
    order = list(range(len(points))) * 2
    random.shuffle(order)
    np.testing.assert_array_equal(pareto.front(points[order]), pareto.front(points))
    assert pareto.hypervolume(points[order], CORNER) == pytest.approx(
        pareto.hypervolume(points, CORNER), abs=1e-12
    )


@SETTINGS
@hypothesis.given(POINTS, POINTS)
def test_more_points_never_shrink_the_hypervolume(points, more):
    before = pareto.hypervolume(points, CORNER)
    after = pareto.hypervolume(np.concatenate([points, more]), CORNER)
    assert after >= before - 1e-12
    assert before >= 0.0


@SETTINGS
@hypothesis.given(st.lists(st.tuples(st.integers(-4, 4), st.integers(-4, 4))))
def test_hypervolume_counts_the_grid_cells_that_are_dominated(points):
    points = np.array(points, float).reshape(-1, 2)
    cells = 0
    for drift in range(-4, 2):
        for reward in range(-1, 4):
            # The unit cell [drift, drift+1] × [reward, reward+1].
            cells += any(p[0] <= drift and p[1] >= reward + 1 for p in points)
    assert pareto.hypervolume(points, (2, -1)) == pytest.approx(cells, abs=1e-9)


def test_hypervolume_agrees_with_monte_carlo(rng):
    points = rng.normal(size=(20, 2))
    corner, low, high, n = (1.5, -1.5), -4.0, 4.0, 40_000
    draws = np.stack([rng.uniform(low, corner[0], n), rng.uniform(corner[1], high, n)])
    covered = ((points[:, :1] <= draws[0]) & (points[:, 1:] >= draws[1])).any(0)
    area = (corner[0] - low) * (high - corner[1])
    error = area * covered.std() / n**0.5
    assert abs(pareto.hypervolume(points, corner) - area * covered.mean()) < 4 * error


def test_hypervolume_of_a_staircase_worked_by_hand():
    points = [(0, 1), (1, 3), (2, 2), (3, 4)]  # (2, 2) is dominated
    # to drift 5 above reward 0: 1·1 + 3·2 + 4·2
    assert pareto.hypervolume(points, (5, 0)) == 15.0


def test_points_on_or_beyond_the_corner_add_nothing():
    inside = [(1.0, 1.0)]
    beyond = [(2.0, 9.0), (3.0, 9.0), (0.0, 0.0), (-1.0, -5.0)]
    assert pareto.hypervolume(beyond, (2.0, 0.0)) == 0.0
    assert pareto.hypervolume(inside + beyond, (2.0, 0.0)) == 1.0
    assert pareto.hypervolume([], (2.0, 0.0)) == 0.0


def test_a_diverged_checkpoint_is_no_point():
    points = [(np.nan, 9.0), (1.0, np.nan), (1.0, 1.0), (np.inf, 5.0)]
    assert pareto.members(points).tolist() == [False, False, True, True]
    assert pareto.hypervolume(points, (2.0, 0.0)) == 1.0


@SETTINGS
@hypothesis.given(POINTS, _NUMBER)
def test_attainment_is_the_best_reward_within_the_drift(points, drift):
    near = points[points[:, 0] <= drift, 1]
    expected = near.max() if len(near) else np.nan
    np.testing.assert_equal(float(pareto.attainment(points, drift)), expected)


@SETTINGS
@hypothesis.given(POINTS, _NUMBER)
def test_least_drift_is_the_least_drift_with_the_reward(points, reward):
    good = points[points[:, 1] >= reward, 0]
    expected = good.min() if len(good) else np.nan
    np.testing.assert_equal(float(pareto.least_drift(points, reward)), expected)


@SETTINGS
@hypothesis.given(POINTS, _NUMBER)
def test_picks_name_the_nearest_of_the_best_points_within_the_drift(points, drift):
    near = [(-reward, d, i) for i, (d, reward) in enumerate(points) if d <= drift]
    expected = min(near)[2] if near else -1
    assert pareto.picks(points, drift) == expected


@SETTINGS
@hypothesis.given(POINTS, _NUMBER)
def test_least_picks_name_the_best_of_the_nearest_points_with_the_reward(points, r):
    good = [(d, -reward, i) for i, (d, reward) in enumerate(points) if reward >= r]
    expected = min(good)[2] if good else -1
    assert pareto.least_picks(points, r) == expected


def test_crossed_reads_the_other_half_and_averages():
    a, b = np.array([1.0, 5.0, 9.0]), np.array([2.0, 4.0, 30.0])
    assert pareto.crossed(1, 0, a, b) == (4.0 + 1.0) / 2
    np.testing.assert_array_equal(
        pareto.crossed([0, 2, -1], [2, 2, 0], a, b), [(2 + 9) / 2, (30 + 9) / 2, np.nan]
    )


@SETTINGS
@hypothesis.given(POINTS, _NUMBER)
def test_crossed_of_equal_halves_is_the_plain_reading(points, drift):
    index = pareto.picks(points, drift)
    found = pareto.crossed(index, index, points[:, 1], points[:, 1])
    np.testing.assert_equal(float(found), float(pareto.attainment(points, drift)))


def test_a_reward_read_on_the_other_half_is_not_optimistic(rng):
    draws, plain, crossed = 2000, [], []
    for half_a, half_b in rng.normal(size=(draws, 2, 20)):
        sides = [np.stack([np.zeros(20), half], -1) for half in (half_a, half_b)]
        chosen = [pareto.picks(side, 0.0) for side in sides]
        crossed.append(pareto.crossed(*chosen, half_a, half_b))
        plain.append((half_a + half_b).max() / 2)
    # The true reward of all 20 is 0.
    assert np.mean(plain) > 1.0
    assert abs(np.mean(crossed)) < 4 * np.std(crossed) / draws**0.5


def test_minus_zero_is_zero():
    assert pareto.front([(0.0, 1.0), (-0.0, 1.0)]).shape == (1, 2)


def test_attainment_does_not_interpolate():
    points = [(0.0, 0.0), (2.0, 4.0)]
    np.testing.assert_array_equal(
        pareto.attainment(points, [[-1.0, 0.0], [1.999, 2.0]]), [[np.nan, 0], [0, 4]]
    )


def test_fronts_are_matched_where_all_of_them_reach():
    one, other = [(0, 0), (4, 3), (9, 2)], [(0, 0), (2, 1)]
    assert pareto.matched([one, other]) == (2.0, 1.0)
    # The last point of `one` is dominated: it does not stretch what can be compared.
    assert pareto.matched([one]) == (4.0, 3.0)


def test_split_half_of_equal_halves_is_the_measure_itself(rng):
    points = rng.normal(size=(9, 2))
    measure = functools.partial(pareto.hypervolume, reference=(1.0, -1.0))
    assert pareto.split_half(measure, points, points) == pytest.approx(measure(points))


def test_split_half_picks_on_one_half_and_reads_on_the_other():
    half_a = np.array([(1.0, 5.0), (1.0, 0.0)])  # its member is the first
    half_b = np.array([(1.0, 2.0), (1.0, 3.0)])  # its member is the second
    measure = functools.partial(pareto.attainment, drifts=1.0)
    assert pareto.split_half(measure, half_a, half_b) == (2.0 + 0.0) / 2


def test_split_half_is_less_optimistic_than_the_plain_front(rng):
    truth = np.zeros((20, 2))
    measure = functools.partial(pareto.attainment, drifts=10.0)
    halves = rng.normal(size=(400, 2, 20, 2)) + truth
    plain = np.mean([measure(h.mean(0)) for h in halves])
    split = [pareto.split_half(measure, *h) for h in halves]
    error = np.std(split) / len(split) ** 0.5
    # The true best reward is 0. The plain reading takes the largest of 20 noises; the
    # split one keeps only the choice among the few members of a front.
    assert plain > 1.0
    assert np.mean(split) < 0.75 * plain
    assert np.mean(split) > -4 * error


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pareto.front(np.zeros((3, 3))), "points must be"),
        (lambda: pareto.hypervolume([(0, 0)], (np.nan, 0)), "reference"),
        (lambda: pareto.split_half(len, [(0, 0)], [(0, 0), (1, 1)]), "halves"),
        (lambda: pareto.crossed(0, 0, [1.0], [1.0, 2.0]), "halves"),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
