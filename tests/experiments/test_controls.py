"""Negative controls of the sentiment study: counted over runs, and able to fail."""

import pytest

from experiments.sentiment import controls


def runs(method, *series):
    """Records of one run of the method for each series of golds, on worlds 0, 1, ..."""
    return [
        {"method": method, "world": world, "seed": 0, "step": step, "eval/gold": gold}
        for world, golds in enumerate(series)
        for step, gold in enumerate(golds)
    ]


@pytest.mark.parametrize(
    ("method", "passes", "fails"),
    [
        ("ppo_gold", (0.2, 0.5, 0.48), (0.2, 0.5, 0.3)),
        ("ppo_random", (0.2, 0.22, 0.1), (0.2, 0.3, 0.3)),
        ("sft_placebo", (0.2, 0.25, 0.2), (0.2, 0.2, 0.05)),
    ],
)
def test_a_control_passes_if_it_holds_in_nine_runs_of_ten(method, passes, fails):
    for failing, fine in ((0, True), (1, True), (2, False)):
        records = runs(method, *[passes] * (10 - failing), *[fails] * failing)
        ((name, should, happened, passed),) = controls.judge(records)
        assert (name, should) == controls.GOLD_CONTROLS[method][:2]
        assert happened.startswith(f"in {10 - failing} of 10 runs; in the mean ")
        assert passed is fine


def test_the_means_are_of_starts_peaks_and_ends():
    records = runs("ppo_gold", (0.1, 0.5, 0.4), (0.3, 0.7, 0.7))
    ((_, _, happened, _),) = controls.judge(records)
    assert happened == "in 1 of 2 runs; in the mean 0.200 → peak 0.600 → 0.550"


def test_a_gold_reward_that_never_rises_fails():
    ((*_, passed),) = controls.judge(runs("ppo_gold", (0.3, 0.3, 0.3)))
    assert not passed


def test_what_was_not_run_is_not_listed():
    assert controls.judge(runs("ppo", (0.1, 0.2))) == []
