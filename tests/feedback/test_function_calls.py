"""feedback.function: what a reward function is called with, how long, and as what."""

import asyncio
import sys
import time

import numpy as np
import pytest

from rlhf_jax.feedback import function

COMPLETIONS, PROMPTS = ["one", "two words"], ["a", "b"]
GIVEN = {"grade": [3, 4], function.IDS: [[1], [2, 3]]}


def called(reward, **how):
    return function.checked(reward, "r", **how)(PROMPTS, COMPLETIONS, **GIVEN)


def named_ids(completions, completion_ids, grade):
    assert completions == COMPLETIONS and grade == [3, 4]
    return [len(ids) for ids in completion_ids]


def any_ids(prompts, completions, **columns):
    assert sorted(columns) == ["completion_ids", "grade"]
    return [len(ids) for ids in columns["completion_ids"]]


def positional_ids(asked, answers, completion_ids, grade):
    return [len(ids) for ids in completion_ids]


async def coroutine(completions, completion_ids, **columns):
    await asyncio.sleep(0)
    return [len(ids) for ids in completion_ids]


def generator(completion_ids, completions, **columns):
    yield from map(len, completion_ids)


@pytest.mark.parametrize(
    "reward", [named_ids, any_ids, positional_ids, coroutine, generator]
)
@pytest.mark.parametrize("timeout", [0, 60])
def test_token_ids_reach_those_who_take_them(reward, timeout):
    np.testing.assert_array_equal(called(reward, timeout=timeout), [1, 2])


def test_those_who_name_no_token_ids_are_called_without():
    assert called(lambda prompts, completions, grade: grade).tolist() == [3, 4]


def test_a_coroutine_is_awaited_where_a_loop_runs_already():
    async def notebook():
        return called(coroutine)

    np.testing.assert_array_equal(asyncio.run(notebook()), [1, 2])


@pytest.mark.parametrize("timeout", [0, 60])
@pytest.mark.parametrize(
    ("raise_", "said"),
    [
        (lambda: sys.exit(3), r"r called sys.exit\(3\) \(in .*calls.py, line"),
        (sys.exit, r"r called sys.exit\(\) \(in"),
        (lambda: [][0], "r raised IndexError: list index out of range"),
    ],
)
def test_what_a_call_raises_is_a_line(raise_, said, timeout):
    def reward(completions, **columns):
        raise_()

    with pytest.raises(ValueError, match=said):
        called(reward, timeout=timeout)


def test_a_generator_that_raises_is_named_with_its_line():
    def reward(completions, **columns):
        yield 1.0
        raise KeyError("x")

    with pytest.raises(ValueError, match="r raised KeyError: 'x' .*_calls.py, line"):
        called(reward)


def test_a_column_that_is_missing_is_named_with_the_function():
    def reward(completions, answer, **columns):
        return [0.0] * len(completions)

    said = "missing 1 required .*'answer'.*calls.py, line .*columns \\['grade'\\]"
    with pytest.raises(ValueError, match=said):
        called(reward)


def test_a_call_that_takes_too_long_is_given_up():
    def reward(completions, **columns):
        time.sleep(60)

    started = time.monotonic()
    with pytest.raises(ValueError, match=r"r took longer than 0.05 s \(--reward-time"):
        called(reward, timeout=0.05)
    assert time.monotonic() - started < 30


class Reward:
    def __call__(self, prompts, completions, **columns):
        return [1.0] * len(completions)


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        (Reward, "Reward is a class; name an instance"),
        (3.0, "not a function but of type float"),
        (lambda text: 0.0, r"it takes \(text\); a reward is called with"),
        (lambda completions, log_metric: 0, r"asks for log_metric, .*log_metric=None"),
    ],
)
def test_what_cannot_be_a_reward_is_refused_before_a_call(reward, said):
    with pytest.raises(ValueError, match=f"--reward m:f: .*{said}"):
        function.checked(reward, "m:f")


def test_what_trl_alone_gives_may_have_a_default():
    reward = lambda completions, trainer_state=None: [0.0] * 2  # noqa: E731
    assert called(lambda completions, **kw: reward(completions)).tolist() == [0, 0]
    function.checked(reward, "r")
