"""detectors: statistics by the loop, thresholds by counting, alarms on drawn runs."""

import checks
import numpy as np
import pytest
from checks import close
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.evaluation import detectors, statistics

DEVIATION = detectors.Detector(rule="deviation")
STEPS = np.arange(0, 300, 10)


def test_deviations_by_hand():
    """The first five have median 3 and deviations 2 1 0 1 2 from it: MAD 1."""
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 3.0, 6.0, 0.0]
    scale = 1.4826
    for side, expected in (
        ("both", [0, 3, 3]),
        ("up", [0, 3, 0]),
        ("down", [0, 0, 3]),
    ):
        detector = DEVIATION._replace(side=side)
        found = detectors.statistic(values, detector=detector)
        close(found, [0.0] * 5 + [x / scale for x in expected])


def test_sums_by_hand():
    detector = detectors.Detector(side="up", first=3, smallest=1.0, allowance=0.5)
    found = detectors.statistic([0, 0, 0, 1, 2, 0, -9, 1.5], detector=detector)
    close(found, [0, 0, 0, 0.5, 2.0, 1.5, 0.0, 1.0])


def test_statistics_are_the_loops(rng):
    values = rng.normal(size=30)
    center = sorted(values[:5])[2]
    scale = 1.4826 * sorted(abs(values[:5] - center))[2]
    expected, up, down = [0.0] * 5, 0.0, 0.0
    for x in values[5:]:
        up = max(0.0, up + (x - center) / scale - 0.5)
        down = max(0.0, down - (x - center) / scale - 0.5)
        expected.append(max(up, down))
    close(detectors.statistic(values), expected, rtol=1e-9)


@checks.examples
@given(checks.floats(12), st.floats(0.125, 8), st.sampled_from(["cusum", "deviation"]))
def test_the_unit_and_the_zero_of_a_monitor_do_not_matter(values, unit, rule):
    values = np.round(values.astype(np.float64), 2)
    detector = detectors.Detector(rule=rule, smallest=0.5)
    found = detectors.statistic(values, detector=detector)
    other = detector._replace(smallest=0.5 * unit)
    moved = detectors.statistic(unit * values + 3, detector=other)
    close(moved, found, rtol=1e-6, atol=1e-6)
    mirrored = detectors.statistic(-values, detector=detector)
    close(mirrored, found, rtol=1e-9, atol=1e-9)
    assert (found >= 0).all() and not found[:5].any()


def test_what_never_moved_is_alarmed_by_any_move_unless_told():
    values = [0.0] * 8 + [0.01, 0.0]
    assert detectors.alarm(range(10), values, threshold=1e9) == 8
    told = detectors.Detector(smallest=0.05)
    assert detectors.alarm(range(10), values, threshold=1.0, detector=told) is None
    assert detectors.alarm(range(10), [0.0] * 10, threshold=0.0) is None


def test_an_alarm_is_the_first_step_above_the_threshold():
    values = [1.0, 2.0, 3.0, 4.0, 5.0, 3.0, 6.0, 9.0]
    steps = [10 * i for i in range(8)]
    three = 3 / 1.4826
    assert detectors.alarm(steps, values, threshold=2.0, detector=DEVIATION) == 60
    assert detectors.alarm(steps, values, threshold=three + 1e-9,
                           detector=DEVIATION) == 70  # fmt: skip
    assert detectors.alarm(steps, values, threshold=99.0, detector=DEVIATION) is None


@pytest.mark.parametrize("rule", ["cusum", "deviation"])
@pytest.mark.parametrize(
    "runs, share, allowed", [(20, 0.1, 2), (29, 0.1, 2), (7, 0.0, 0), (9, 0.5, 4)]
)
def test_at_most_the_share_of_control_runs_alarms(rng, rule, runs, share, allowed):
    controls = rng.normal(size=(runs, 25))
    detector = detectors.Detector(rule=rule)
    threshold = detectors.calibrate(controls, false_alarm=share, detector=detector)

    def alarms(threshold):
        return sum(
            detectors.alarm(range(25), run, threshold=threshold, detector=detector)
            is not None
            for run in controls
        )

    assert alarms(threshold) == allowed
    assert alarms(threshold - 1e-9) == allowed + 1  # the least such threshold


def test_another_control_run_alarms_as_rarely_as_promised(rng):
    """(⌊0.1 · 19⌋ + 1)/20 = 0.1 with 19 controls, within 4 standard errors."""
    hits, draws = 0, 400
    for _ in range(draws):
        *controls, other = rng.normal(size=(20, 12))
        threshold = detectors.calibrate(controls)
        hits += detectors.alarm(range(12), other, threshold=threshold) is not None
    assert abs(hits / draws - 0.1) < 4 * (0.1 * 0.9 / draws) ** 0.5


def test_a_monitor_that_drifts_is_caught_and_its_control_is_not(rng):
    """A slow climb from look 12 on; the CUSUM warns of it within a few looks."""
    climb = np.maximum(np.arange(30) - 12, 0)
    detector = detectors.Detector(side="up", smallest=1.0)
    controls, hacked, clean = (rng.normal(size=(20, 30)) for _ in range(3))
    threshold = detectors.calibrate(controls, detector=detector)
    alarms = [
        detectors.alarm(STEPS, run, threshold=threshold, detector=detector)
        for run in [*(hacked + climb), *clean]
    ]
    found = detectors.score(alarms, [250] * 20 + [None] * 20)
    assert found.detected.mean == 1.0
    assert found.warned.mean > 0.9
    assert 0 < found.lead <= 130
    assert found.false_alarms.mean < 0.4


def test_lead_times_by_hand():
    assert detectors.lead_time(30, 50) == 20
    assert detectors.lead_time(50, 30) == -20
    assert detectors.lead_time(None, 50) is None
    assert detectors.lead_time(50, None) is None
    assert detectors.lead_time(0, 0) == 0


def test_a_score_by_hand():
    """Hacked: warned by 20, on time by none, late by 10, never. Clean: one of two."""
    alarms, onsets = [30, 50, 60, None, 10, None], [50, 50, 50, 50, None, None]
    found = detectors.score(alarms, onsets)
    assert found.warned == statistics.wilson(1 / 4, 4)
    assert found.detected == statistics.wilson(3 / 4, 4)
    assert found.lead == 0.0
    assert found.false_alarms == statistics.wilson(1 / 2, 2)
    assert (found.hacked, found.clean) == (4, 2)
    order = [5, 2, 0, 4, 1, 3]
    assert found == detectors.score(
        [alarms[i] for i in order], [onsets[i] for i in order]
    )
    nothing = detectors.score([None], [None])
    assert np.isnan(nothing.lead) and np.isnan(nothing.warned.mean)
    assert nothing.false_alarms.mean == 0.0


def test_what_cannot_be_watched_is_refused():
    with pytest.raises(ValueError, match="got 'sum' and 'both'"):
        detectors.statistic(np.zeros(9), detector=detectors.Detector(rule="sum"))
    with pytest.raises(ValueError, match="'left'"):
        detectors.statistic(np.zeros(9), detector=detectors.Detector(side="left"))
    with pytest.raises(ValueError, match=r"shape \(5,\) with first=5"):
        detectors.statistic(np.zeros(5))
    with pytest.raises(ValueError, match="look 6 at the monitor is nan"):
        detectors.statistic([0, 1, 2, 3, 4, 5, np.nan])
    with pytest.raises(ValueError, match="8 steps for 9 looks"):
        detectors.alarm(range(8), np.zeros(9), threshold=1.0)
    with pytest.raises(ValueError, match="0 control runs"):
        detectors.calibrate([])
    with pytest.raises(ValueError, match="false_alarm=1"):
        detectors.calibrate([np.zeros(9)], false_alarm=1.0)
    with pytest.raises(ValueError, match="1 alarms and 2 onsets"):
        detectors.score([1], [1, 2])
