"""Axes: where a corner lies, which axes are drifts, and that a key means one thing."""

import dataclasses

import pytest

from rlhf_jax.evaluation import axes
from rlhf_jax.evaluation.axes import Axis


def _start(seed, reward, nll, kl=1e-9, skills=0.8):
    return {
        "method": "ppo", "seed": seed, "step": 0, "eval/phase": "start",
        "eval/reward": reward, "drift/text_nll": nll, "drift/kl_initial": kl,
        "tax/skills": skills,
    }  # fmt: skip


def test_a_corner_lies_beyond_the_mean_start_of_the_seeds():
    records = [_start(0, 1.0, 2.0), _start(1, 2.0, 3.0)]
    records += [{**_start(0, 9.0, 9.0), "eval/phase": "final"}]
    assert axes.corners([axes.TEXT_NLL], records) == {"drift/text_nll": (3.5, 1.5)}


def test_a_drop_and_a_kl_from_the_start_begin_at_nothing():
    found = axes.corners([axes.KL_INITIAL, axes.SKILLS], [_start(0, 1.0, 2.0)])
    assert found == {"drift/kl_initial": (30.0, 1.0), "tax/skills": (0.5, 1.0)}
    measured = dataclasses.replace(axes.KL_INITIAL, start=None)
    found = axes.corners([measured], [_start(0, 1.0, 2.0, kl=0.25)])
    assert found == {"drift/kl_initial": (30.25, 1.0)}


def test_only_axes_with_a_corner_are_drifts():
    assert axes.drifts(axes.STANDARD) == (
        axes.TEXT_NLL,
        axes.KL_INITIAL,
        axes.SKILLS,
    )
    assert "eval/reward" not in axes.corners(axes.STANDARD, [_start(0, 1.0, 2.0)])


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
