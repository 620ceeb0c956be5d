"""results.json: estimates over worlds, in its layout."""

import math

import numpy as np
import reporting_records as records

from rlhf_jax.evaluation import axes, statistics
from rlhf_jax.evaluation.units import Unit
from rlhf_jax.reporting import results

KEYS = [axis.key for axis in records.AXES]


def _summary(seeds, **options):
    return results.summarize(records.make(seeds, **options), axes=records.AXES)


def test_summary_has_the_layout_of_results_json():
    rows = records.make(3)
    found = results.summarize(rows, axes=records.AXES, wall_seconds=1.5)
    assert (found["worlds"], found["seeds"], found["wall_seconds"]) == (1, 3, 1.5)
    assert found["units"] == ["0/0", "0/1", "0/2"]
    assert list(found["methods"]) == ["ppo", "ppo_kl", "elastic_reset"]
    for method in found["methods"].values():
        assert set(method["drift"]) == set(method["hypervolume"]) == set(KEYS)
        for estimate in (method["reward"], method["gold"], *method["drift"].values()):
            assert estimate["low"] <= estimate["mean"] <= estimate["high"]
        assert method["checkpoints"] in (4, 8)
        assert set(method["per_unit"]["reward"]) == {"0/0", "0/1", "0/2"}
    assert found["initial"]["drift"]["tax/skills"]["mean"] == 0.0
    assert found["corners"] == {axis.key: axis.corner for axis in records.AXES}


def test_the_last_row_is_final_and_resets_are_counted():
    rows = [
        records.row("er", 0, 0, "start", 0.0, 0.0),
        records.row("er", 0, 5, "before_reset", 2.0, 3.0),
        records.row("er", 0, 5, "after_reset", 1.0, 1.0),
    ]
    final = results.summarize(rows, axes=(axes.TEXT_NLL,))["methods"]["er"]["final"]
    assert final == {"step": 5, "phase": "after_reset", "cycles": 1}


def test_seeds_of_one_world_show_their_range_whatever_their_number():
    found = _summary(9)
    rewards = found["methods"]["ppo"]["per_unit"]["reward"].values()
    assert found["interval"] == "range"
    assert found["methods"]["ppo"]["reward"]["low"] == min(rewards)


def test_eight_worlds_have_an_interval_over_worlds():
    assert _summary(1, worlds=7)["interval"] == "range"
    found = _summary(2, worlds=8)
    assert found["interval"] == "t95" and found["seeds"] == 2
    per_unit = found["methods"]["ppo"]["per_unit"]["reward"]
    means = [np.mean([per_unit[f"{w}/{s}"] for s in (0, 1)]) for w in range(8)]
    expected = statistics.t_interval(means)._asdict()
    assert found["methods"]["ppo"]["reward"] == expected


def test_a_diverged_unit_is_counted_not_hidden():
    values = {Unit(0, 0): 1.0, Unit(0, 1): math.nan, Unit(0, 2): 3.0}
    expected = {"mean": 2.0, "low": 1.0, "high": 3.0, "missing": 1}
    assert results.estimate(values) == expected
    assert results.estimate({Unit(0, 0): math.inf})["mean"] is None
    rows = records.make(1, worlds=3)
    for row in rows:
        if (row["method"], row["world"]) == ("ppo", 1) and row["step"] > 6:
            row |= {"eval/reward": math.nan} if "eval/reward" in row else {}
    found = results.summarize(rows, axes=records.AXES)["methods"]
    assert found["ppo"]["diverged"] == ["1/0"] and found["ppo_kl"]["diverged"] == []
    assert found["ppo"]["gold"]["missing"] == 1  # every endpoint of the unit is void


def test_an_axis_that_was_not_measured_is_no_front():
    """The best of n has a divergence and no likelihood of human text."""
    best = {"method": "best_of_4", "seed": 0, "step": 12, "eval/phase": "final"}
    best |= {"eval/reward": 2.0, "drift/kl_initial": 0.6}
    rows = [*records.make(1), best]
    found = results.summarize(rows, axes=records.AXES)["methods"]["best_of_4"]
    assert found["hypervolume"] == {} and found["checkpoints"] == 1
    assert found["drift"]["drift/text_nll"]["mean"] is None
    assert found["drift"]["drift/kl_initial"]["mean"] == 0.6
