"""Runs: what belongs to one, where it starts, and its final measure."""

import numpy as np
import pytest
import reporting_records as records

from rlhf_jax.evaluation import axes
from rlhf_jax.evaluation.units import Unit
from rlhf_jax.reporting import evaluations

NLL = axes.TEXT_NLL


def _cyclic(last="final"):
    """Two resets; the last full cycle goes 1 → 3 → 5 over steps 4, 6 and 8."""
    looks = [
        (0, "start", 0.0), (4, "before_reset", 4.0), (4, "after_reset", 1.0),
        (6, "train", 3.0), (8, "before_reset", 5.0), (8, "after_reset", 2.0),
        (10, last, 7.0),
    ]  # fmt: skip
    rows = [records.row("er", 0, step, phase, r, r) for step, phase, r in looks]
    (run,) = evaluations.runs(rows)
    return run


def test_a_method_that_was_only_evaluated_at_its_end_starts_where_the_others_do():
    rows = records.two_methods() + [records.row("averaged", 0, 2, "final", 1.5, 0.5)]
    run = next(r for r in evaluations.runs(rows) if r.method == "averaged")
    assert run.rows[0]["method"] == "far" and run.looks == 1
    np.testing.assert_array_equal(run.values(NLL), [0.0, 0.5])


def test_training_records_are_no_evaluations():
    for run in evaluations.runs(records.make(1)):
        assert all("eval/reward" in row for row in run.rows)
        steps = [row["step"] for row in run.rows]
        assert steps == sorted(steps)


def test_runs_of_two_worlds_are_two_units():
    found = evaluations.runs(records.make(2, worlds=2))
    assert {run.unit for run in found} == {Unit(w, s) for w in (0, 1) for s in (0, 1)}
    by_method = evaluations.by_method(found)
    assert [len(group) for group in by_method.values()] == [4, 4, 4]


def test_gains_are_since_the_start_of_their_own_half():
    points = [[(2.0, 1.0), (3.0, -1.0)], [(2.5, 2.0), (3.25, 0.5)]]
    (run,) = evaluations.runs(records.halved("ppo", 0, points))
    one, two = run.gains(NLL)
    np.testing.assert_array_equal((one, two), [[0, 0.5], [0, 0.25]])
    one, two = run.gains(axes.REWARD)
    np.testing.assert_array_equal((one, two), [[0, 1.0], [0, 1.5]])


def test_a_reset_begins_the_next_cycle():
    np.testing.assert_array_equal(_cyclic().cycle, [0, 0, 1, 1, 1, 2, 2])


def test_the_final_measure_of_a_run_with_resets_is_the_mean_of_its_last_full_cycle():
    run = _cyclic()
    # ∫ over steps 4 to 8: (1 + 3)/2·2 + (3 + 5)/2·2 = 12, over 4 steps.
    assert run.final(axes.REWARD) == 3.0
    assert run.values(axes.REWARD)[-1] == 7.0


def test_the_only_reset_ends_the_first_and_only_full_cycle():
    looks = [(0, "start", 0), (4, "before_reset", 4), (4, "after_reset", 1)]
    looks.append((6, "final", 9))
    rows = [records.row("er", 0, step, phase, r, r) for step, phase, r in looks]
    (run,) = evaluations.runs(rows)
    assert run.final(axes.REWARD) == 2.0


def test_the_final_measure_of_any_other_run_is_its_end():
    run = evaluations.runs(records.two_methods())[0]
    assert run.final(axes.REWARD) == 3.0


def test_what_may_have_been_picked_on_half_a_is_reported_by_half_b():
    rows = records.halved("stopped", 0, [[(0, 0), (0, 0)], [(1, 5), (2, 3)]])
    (run,) = evaluations.runs(rows)
    assert run.final(axes.REWARD) == 3.0 and run.final(NLL) == 2.0


@pytest.mark.parametrize(
    ("value", "lost"), [(np.nan, True), (np.inf, True), (1, False)]
)
def test_a_run_with_a_number_that_is_not_finite_has_diverged(value, lost):
    rows = records.two_methods()
    rows[1]["drift/text_nll"] = value
    run = evaluations.runs(rows)[0]
    assert run.diverged((axes.REWARD, NLL, axes.SKILLS)) == lost


def test_trials_are_pooled_without_a_line_between_them():
    one, two = (evaluations.runs(records.two_methods())[:1] for _ in range(2))
    (run,) = evaluations.pooled([one, two])
    assert len(run.rows) == 6
    np.testing.assert_array_equal(run.cycle, [0, 0, 0, 1, 1, 1])
