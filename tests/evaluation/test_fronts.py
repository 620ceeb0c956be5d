"""Fronts: interpolation within cycles, split-half readings, worked by hand."""

import numpy as np
import pytest

from rlhf_jax.evaluation import fronts
from rlhf_jax.evaluation.fronts import Path


def _path(drift, reward, cycle=None):
    cycle = [0] * len(drift) if cycle is None else cycle
    return Path(np.array(drift, float), np.array(reward, float), np.array(cycle))


LINE = _path([0, 2, 4], [0, 2, 6])


@pytest.mark.parametrize(
    ("drift", "reward"), [(0, 0), (1, 1), (2, 2), (3, 4), (4, 6), (9, 6)]
)
def test_between_two_looks_a_path_is_a_line_and_beyond_its_end_flat(drift, reward):
    assert fronts.pick(LINE, drift).read(LINE.reward) == reward


def test_nothing_is_read_across_a_reset():
    drift, reward = [0, 4, 1, 3], [0, 4, 3, 5]
    whole = _path(drift, reward)
    reset = _path(drift, reward, cycle=[0, 0, 1, 1])
    # At drift 2: the line from (1, 3) to (3, 5), in either case.
    assert fronts.pick(reset, 2).read(reset.reward) == 4
    # At drift 1.5 the jump back from (4, 4) to (1, 3) would offer nothing better; with
    # a reset that lands lower it would.
    low = _path([0, 4, 1], [0, 8, 0], cycle=[0, 0, 1])
    assert fronts.pick(low, 2).read(low.reward) == 4  # (0, 0) to (4, 8)
    joined = _path([2, 4, 0], [0, 8, 6])
    apart = joined._replace(cycle=np.array([0, 0, 1]))
    assert fronts.pick(joined, 2).read(joined.reward) == 7  # half way back
    assert fronts.pick(apart, 2).read(apart.reward) == 6
    assert whole.cycle.sum() == 0


def test_the_best_reward_within_a_drift_not_the_last():
    path = _path([0, 1, 2], [0, 5, 3])
    assert fronts.pick(path, 2).read(path.reward) == 5
    assert fronts.pick(path, 0.5).read(path.reward) == 2.5


def test_two_looks_at_one_drift():
    path = _path([0, 1, 1], [0, 1, 4])
    assert fronts.pick(path, 1).read(path.reward) == 4


def test_a_drift_below_every_look_is_refused():
    with pytest.raises(ValueError, match="no point of the path"):
        fronts.pick(LINE, -1)


def test_a_reading_is_picked_on_one_half_and_read_on_the_other():
    one, two = _path([0, 1, 2], [0, 3, 1]), _path([0, 1, 2], [0, 1, 2])
    # At drift 2 half A picks its second look, worth 1 on B; B its third, worth 1 on A.
    found = fronts.read((one, two), 2, (one.reward, two.reward))
    assert found == (1 + 1) / 2


def test_a_pick_between_two_looks_is_read_between_them_on_the_other_half():
    one, two = _path([0, 2], [0, 2]), _path([0, 4], [0, 8])
    # At drift 1 A picks half way, worth 4 on B; B a quarter of the way, 0.5 on A.
    assert fronts.read((one, two), 1, (one.reward, two.reward)) == (4 + 0.5) / 2


def test_gold_is_read_where_the_proxy_is_best():
    gold = np.array([0.4, 0.9, 0.1])
    assert fronts.read((LINE, LINE), 4, (gold, gold)) == pytest.approx(0.1)
    assert fronts.read((LINE, LINE), 3, (gold, gold)) == pytest.approx(0.5)


def test_hypervolume_of_a_triangle_and_a_plateau():
    path = _path([0, 1], [0, 2])
    # 1·2/2 below the line, then 2 up to the corner.
    area = fronts.hypervolume((path, path), 3.0)
    assert area == pytest.approx(1 + 4, rel=1e-3)
    assert fronts.hypervolume((path, path), 1.0) == pytest.approx(1, rel=1e-3)


def test_noise_alone_covers_nothing_on_average(rng):
    """A maximum over noisy looks would be positive."""
    areas = []
    for _ in range(400):
        looks = rng.normal(0, 1, (2, 9))
        looks[:, 0] = 0
        drift = np.linspace(0, 1, 9)
        halves = [_path(drift, reward) for reward in looks]
        areas.append(fronts.hypervolume(halves, 1.0))
    assert abs(np.mean(areas)) < 4 * np.std(areas) / 400**0.5


def test_a_run_that_never_left_its_start_covers_nothing():
    path = _path([0, 0, 0], [0, 0, 0])
    assert fronts.hypervolume((path, path), 1.0) == 0.0


def test_a_pair_is_matched_on_the_range_that_both_reach():
    near, far = _path([0, 1], [0, 1]), _path([0, 4], [0, 8])
    values = [(p.reward, p.reward) for p in (near, far)]
    one, other = fronts.matched((near, near), (far, far), values)
    mean = np.mean(fronts.LEVELS)
    assert (one, other) == (pytest.approx(mean), pytest.approx(2 * mean))


def test_a_pair_of_which_one_never_moved_is_read_at_the_start():
    still, moved = _path([0, 0], [0, 0]), _path([0, 4], [0, 8])
    values = [(p.reward, p.reward) for p in (still, moved)]
    assert fronts.matched((still, still), (moved, moved), values) == (0.0, 0.0)


def _sampled(path, drift):
    """Best reward at drift ≤ d over 4,001 points of every segment: the loop."""
    best = -np.inf
    for i in range(len(path.drift)):
        j = i + 1 if i + 1 < len(path.drift) else i
        j = i if path.cycle[i] != path.cycle[j] else j
        for share in np.linspace(0, 1, 4001):
            x = path.drift[i] + share * (path.drift[j] - path.drift[i])
            y = path.reward[i] + share * (path.reward[j] - path.reward[i])
            if x <= drift + 1e-12:
                best = max(best, y)
    return best


def test_picks_are_those_of_a_loop_over_points_of_the_path(rng):
    for _ in range(4):
        drift, reward = rng.normal(0, 1, (2, 5))
        path = _path(drift, reward, cycle=np.cumsum(rng.random(5) < 0.3))
        for at in rng.uniform(drift.min(), drift.max() + 0.5, 3):
            found = fronts.pick(path, at).read(path.reward)
            assert found == pytest.approx(_sampled(path, at), abs=5e-3)


def test_readings_scale_with_reward_and_do_not_care_for_the_unit_of_drift(rng):
    drift, reward = np.abs(rng.normal(0, 1, (2, 2, 6))).cumsum(-1)
    halves = [_path(d - d[0], r - r[0]) for d, r in zip(drift, reward, strict=True)]
    other = [_path(10 * h.drift, 3 * h.reward) for h in halves]
    one, ten = fronts.hypervolume(halves, 2.0), fronts.hypervolume(other, 20.0)
    assert ten == pytest.approx(30 * one)
    values = [[h.reward for h in pair] for pair in (halves, other)]
    found = fronts.matched(halves, halves, (values[0], values[0]))
    tenfold = fronts.matched(other, other, (values[1], values[1]))
    np.testing.assert_allclose(tenfold, 3 * np.array(found))
