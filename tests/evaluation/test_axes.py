"""Axes: which axes are drifts, and that a key means one thing."""

import pytest

from rlhf_jax.evaluation import axes
from rlhf_jax.evaluation.axes import Axis


def test_only_axes_with_a_corner_are_drifts():
    assert axes.drifts(axes.STANDARD) == (
        axes.TEXT_NLL,
        axes.KL_INITIAL,
        axes.SKILLS,
    )


def test_flags_move_the_corners_of_drift_axes_alone():
    lost = Axis("drift/bleu", "BLEU lost", corner=15.0)
    score = Axis("eval/bleu", "BLEU")
    moved = axes.with_corners((lost, score, axes.SKILLS), {"bleu": 5, "text_nll": 7})
    assert [axis.corner for axis in moved] == [5.0, None, 0.5]
    assert moved[0].title == "BLEU lost"


def test_an_experiment_has_the_last_word_on_a_key_and_unknown_keys_title_themselves():
    bleu = Axis("eval/reward", "BLEU")
    assert axes.find("eval/reward", [bleu]) is bleu
    assert axes.find("eval/reward", []) is axes.REWARD
    assert axes.find("a/b", []) == Axis("a/b", "a/b")


def test_two_axes_for_one_key_are_refused():
    assert axes.by_key(axes.STANDARD)["tax/skills"] is axes.SKILLS
    with pytest.raises(ValueError, match="two axes describe 'eval/reward'"):
        axes.by_key((axes.REWARD, Axis("eval/reward", "BLEU")))


def test_an_accuracy_is_a_drop_in_points():
    axis = axes.accuracy("tax/sums", "Sums lost")
    assert axis.from_start and axis.percent and axis.scale == 100.0
    assert (axis.arrow, axis.label) == (" ↓", "Sums lost  (points of accuracy)")
