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


def test_minus_zero_is_zero():
    assert pareto.front([(0.0, 1.0), (-0.0, 1.0)]).shape == (1, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pareto.front(np.zeros((3, 3))), "points must be"),
        (lambda: pareto.hypervolume([(0, 0)], (np.nan, 0)), "reference"),
    ],
)
def test_misuse_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
