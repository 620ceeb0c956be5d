"""Runs: what belongs to one, and where it starts."""

import numpy as np
import reporting_records as records

from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import evaluations


def test_a_method_that_was_only_evaluated_at_its_end_starts_where_the_others_do():
    rows = records.two_methods() + [records.row("averaged", 0, 2, "final", 1.5, 0.5)]
    run = next(r for r in evaluations.runs(rows) if r.method == "averaged")
    assert run.start["method"] == "far"
    np.testing.assert_array_equal(run.points(axes.TEXT_NLL), [(0, 0), (0.5, 1.5)])


def test_training_records_are_no_evaluations():
    for run in evaluations.runs(records.make(1)):
        assert all("eval/reward" in row for row in run.rows)
        assert [row["step"] for row in run.rows] == sorted(
            row["step"] for row in run.rows
        )


def test_a_half_with_harder_texts_has_not_drifted():
    points = [[(2.0, 0.0), (3.0, 0.0)], [(2.5, 1.0), (3.5, 1.0)]]
    (run,) = evaluations.runs(records.halved("ppo", 0, points))
    for half in run.halves(axes.TEXT_NLL):
        np.testing.assert_array_equal(half, [2.5, 3.0])
    np.testing.assert_array_equal(
        run.picked(axes.REWARD, axes.TEXT_NLL, [2.4, 2.5, 3.0]), [np.nan, 0, 1]
    )
