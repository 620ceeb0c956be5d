"""scoring: what several rewards say of rows, as one and apart."""

import types

import numpy as np
import pytest

from rlhf_jax.runtime import loop
from rlhf_jax.studies import scoring
from rlhf_jax.studies.task import Parts, Reward

# Three rows: prompts of two tokens, responses of up to three.
ROLLOUT = types.SimpleNamespace(
    tokens=np.array([[1, 2, 3, 4, 0], [0, 5, 6, 0, 0], [1, 1, 7, 8, 9]]),
    mask=np.array([[1, 1, 1, 1, 0], [0, 1, 1, 0, 0], [1, 1, 1, 1, 1]]),
    response_mask=np.array([[1, 1, 0], [1, 0, 0], [1, 1, 1]]),
)
TEXTS = ["p", "q", "r"], ["one", "two", "three"]
COLUMNS = {"grade": [3.0, None, 1.0]}


def grade(prompts, completions, *, grade, completion_ids):
    return [np.nan if g is None else g for g in grade]


def count(prompts, completions, *, grade, completion_ids):
    return [len(ids) for ids in completion_ids]


def never(prompts, completions, **columns):
    return [np.nan] * len(prompts)


LENGTH = Reward(arrays=lambda rollout: rollout.response_mask.sum(-1))


def several(*rewards, weights=None, **how):
    names = tuple(f"r{i}" for i in range(len(rewards)))
    weights = weights or (1.0,) * len(rewards)
    made = [x if isinstance(x, Reward) else Reward(host=x) for x in rewards]
    return Reward(parts=Parts(tuple(made), names, weights, **how))


def of_rows(reward):
    return scoring.of_rows(reward, None, ROLLOUT, lambda: TEXTS, COLUMNS)


def test_token_ids_are_those_of_the_response():
    assert scoring.completion_ids(ROLLOUT) == [[3, 4], [6], [7, 8, 9]]


def test_several_rewards_are_summed_by_weight_and_logged_apart():
    reward = several(grade, count, LENGTH, never, weights=(2.0, 1.0, -1.0, 9.0))
    total, logged = of_rows(reward)
    np.testing.assert_allclose(total, [6, 0, 2])
    assert logged == pytest.approx(
        {
            "rewards/r0/mean": 2,
            "rewards/r0/std": np.sqrt(2),
            "rewards/r1/mean": 2,
            "rewards/r1/std": 1,
            "rewards/r2/mean": 2,
            "rewards/r2/std": 1,
        }
    )


def test_one_reward_has_nothing_apart():
    total, logged = of_rows(Reward(host=count))
    np.testing.assert_array_equal(total, [2, 1, 3])
    assert logged == {}


def test_texts_are_asked_for_once():
    asked = []

    def texts():
        asked.append(1)
        return TEXTS

    reward = several(count, count, never)
    scoring.of_rows(reward, None, ROLLOUT, texts, COLUMNS)
    assert asked == [1]


def test_a_row_that_no_reward_applies_to_is_named():
    with pytest.raises(loop.Unscored, match="no reward applies to completion 1, 'two'"):
        of_rows(several(grade, never))


def test_a_model_that_is_not_finite_does_not_pass_as_not_applicable():
    broken = Reward(arrays=lambda rollout: np.array([0, np.nan, 1]))
    with pytest.raises(loop.Unscored, match="r1 is nan for completion 1, 'two'"):
        of_rows(several(count, broken))


@pytest.mark.parametrize("kind", [ValueError, OSError])
def test_a_function_that_fails_leaves_the_iteration_undone(kind):
    def fails(prompts, completions, **columns):
        raise kind("no answer")

    with pytest.raises(loop.Unscored, match="no answer") as error:
        of_rows(Reward(host=fails))
    assert isinstance(error.value.__cause__, kind)
