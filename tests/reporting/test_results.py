"""results.json: estimates over seeds, in its layout."""

import math

import numpy as np
import reporting_records as records

from rlhf_jax.evaluation import axes, statistics
from rlhf_jax.reporting import evaluations, results

NLL = (axes.TEXT_NLL,)
KEYS = [axis.key for axis in records.AXES]
OPTIONS = {"axes": records.AXES, "corners": records.CORNERS}


def test_both_sides_of_a_reset_are_points_and_the_last_row_is_final():
    rows = [
        records.row("er", 0, 0, "start", 0.0, 0.0),
        records.row("er", 0, 5, "before_reset", 2.0, 3.0),
        records.row("er", 0, 5, "after_reset", 1.0, 1.0),
    ]
    (run,) = evaluations.runs(rows)
    assert len(run.points(axes.TEXT_NLL)) == 3
    assert run.final["eval/phase"] == "after_reset"
    final = results.summarize(rows, axes=NLL)["methods"]["er"]["final"]
    assert final == {"step": 5, "phase": "after_reset"}


def test_claims_methods_decide_where_fronts_are_matched_and_others_are_read_there():
    rows = records.two_methods() + [
        records.row("short", 0, 0, "start", 0.0, 0.0),
        records.row("short", 0, 1, "final", 0.5, 0.25),
    ]
    options = {"axes": NLL}
    everyone = results.summarize(rows, **options)["matched"]["drift/text_nll"]
    assert (everyone["drift"]["mean"], everyone["reward"]["mean"]) == (0.25, 0.5)
    assert everyone["methods"] == ["far", "near", "short"]
    found = results.summarize(rows, **options, among=["far", "near"])
    place = found["matched"]["drift/text_nll"]
    assert (place["drift"]["mean"], place["reward"]["mean"]) == (1.0, 2.0)
    assert place["methods"] == ["far", "near"]
    short = found["methods"]["short"]
    assert short["reward_at"]["drift/text_nll"]["mean"] == 0.5
    assert short["drift_at"]["drift/text_nll"] == {
        **{"mean": None, "low": None, "high": None},
        "missing": 1,
    }


def test_attainment_is_a_curve_above_the_start_of_each_seed():
    rows = records.two_methods() + [
        {**row, "seed": 1, "drift/text_nll": row["drift/text_nll"] + 10.0}
        for row in records.two_methods()
    ]
    corners = {"drift/text_nll": (5.0 + 12.0, 0.0)}  # 12 above the mean start
    found = results.summarize(rows, axes=NLL, corners=corners)
    curve = found["attainment"]["drift/text_nll"]
    np.testing.assert_array_equal(curve["above_start"], np.arange(13.0))
    best = [at["mean"] for at in curve["methods"]["far"]]
    np.testing.assert_array_equal(best, [0, 0, 1, 1, *[3] * 9])
    assert all(a["low"] == a["high"] for a in curve["methods"]["near"])


def test_summary_has_the_layout_of_results_json():
    found = results.summarize(records.make(3), **OPTIONS, wall_seconds=1.5)
    assert found["seeds"] == 3
    assert found["wall_seconds"] == 1.5
    assert list(found["methods"]) == ["ppo", "ppo_kl", "elastic_reset"]
    for method in found["methods"].values():
        assert set(method["drift"]) == set(method["hypervolume"]) == set(KEYS)
        for estimate in (method["reward"], method["gold"], *method["drift"].values()):
            assert estimate["low"] <= estimate["mean"] <= estimate["high"]
        assert method["checkpoints"] in (4, 8)
        assert set(method["reward_at"]) == set(method["drift_at"]) == set(KEYS)
    assert found["initial"]["drift"]["tax/skills"]["mean"] == 0.0
    assert set(found["matched"]) == set(found["attainment"]) == set(KEYS)


def test_few_seeds_show_their_range_and_many_an_interval():
    few = results.summarize(records.make(3), **OPTIONS)
    rewards = few["methods"]["ppo"]["per_seed"]["reward"].values()
    assert few["interval"] == "range"
    assert few["methods"]["ppo"]["reward"]["low"] == min(rewards)
    many = results.summarize(records.make(8), **OPTIONS)
    rewards = many["methods"]["ppo"]["per_seed"]["reward"].values()
    assert many["interval"] == "t95"
    expected = statistics.t_interval(list(rewards))
    assert many["methods"]["ppo"]["reward"] == expected._asdict()


def test_a_diverged_seed_is_counted_not_hidden():
    assert results.estimate([1.0, math.nan, 3.0]) == {
        **{"mean": 2.0, "low": 1.0, "high": 3.0},
        "missing": 1,
    }
    assert results.estimate([math.inf])["mean"] is None


def test_an_axis_that_was_measured_of_the_start_alone_is_no_front():
    """The best of n has a divergence and no likelihood of human text."""
    rows = records.make(1)
    best = {"method": "best_of_4", "seed": 0, "step": 12, "eval/phase": "final"}
    best |= {"eval/reward": 2.0, "drift/kl_initial": 0.6}
    before = results.summarize(rows, **OPTIONS)["methods"]["ppo"]
    found = results.summarize([*rows, best], **OPTIONS)["methods"]
    assert found["best_of_4"]["hypervolume"]["drift/kl_initial"]["mean"] > 0
    for group in ("hypervolume", "reward_at", "drift_at"):
        assert "drift/text_nll" not in found["best_of_4"][group]
    assert found["best_of_4"]["drift"]["drift/text_nll"]["mean"] is None
    for group in ("reward_at", "drift_at"):  # nor does it match the others' fronts
        assert found["ppo"][group]["drift/text_nll"] == before[group]["drift/text_nll"]
