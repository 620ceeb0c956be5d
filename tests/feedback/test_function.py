"""feedback.function: every wrong reward is named, with its place and what to do."""

import sys
import textwrap

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.feedback import function

COMPLETIONS = ["one", "two words", "and three words"]
PROMPTS = ["a", "b", "c"]

MODULE = """
    import math

    LIMIT = 3

    def length(prompts, completions, **columns):
        return [len(text.split()) for text in completions]

    def graded(prompts, completions, *, grade, **columns):
        return [g / 2 for g in grade]

    def fails(prompts, completions, **columns):
        return [math.sqrt(-len(text)) for text in completions]

    class Counter:
        def __call__(self, prompts, completions, **columns):
            return [1.0] * len(completions)

    counter = Counter()
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current folder, with a module of reward functions that no other test has."""
    (tmp_path / "my_rewards.py").write_text(textwrap.dedent(MODULE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    sys.modules.pop("my_rewards", None)


def refused(call, *parts):
    with pytest.raises(ValueError) as error:
        call()
    for part in parts:
        assert part in str(error.value)
    return error.value


# Loading.


def test_a_function_of_the_current_folder(folder):
    score = function.load("my_rewards:length")
    scores = score(PROMPTS, COMPLETIONS)
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, [1, 2, 3])


def test_columns_reach_the_function_by_name(folder):
    score = function.load("my_rewards:graded")
    scores = score(PROMPTS, COMPLETIONS, grade=[1, 2, 3], unused=["x", "y", "z"])
    np.testing.assert_array_equal(scores, [0.5, 1.0, 1.5])


def test_anything_callable_will_do(folder):
    np.testing.assert_array_equal(
        function.load("my_rewards:counter")(PROMPTS, COMPLETIONS), [1, 1, 1]
    )


@pytest.mark.parametrize("name", ["my_rewards", "my_rewards:", ":length", ""])
def test_a_name_without_both_parts(folder, name):
    refused(lambda: function.load(name), f"--reward {name}", "module:function")


@pytest.mark.parametrize(
    "module, missing",
    [
        ("no_such_module", "no_such_module"),
        ("no_such_package.rewards", "no_such_package"),
        ("json.no_such_part", "json.no_such_part"),
    ],
)
def test_a_module_that_is_not_there(folder, module, missing):
    refused(
        lambda: function.load(f"{module}:f"),
        f"--reward {module}:f",
        f"no module {missing!r}",
        "in this folder",
    )


def test_a_function_that_is_not_there(folder):
    refused(
        lambda: function.load("my_rewards:lenght"),
        "--reward my_rewards:lenght",
        "my_rewards.py",
        "no function 'lenght'",
        "def lenght(prompts, completions, **columns)",
    )


def test_something_that_is_not_a_function(folder):
    refused(
        lambda: function.load("my_rewards:LIMIT"), "'LIMIT' is not a function", "int"
    )


# Calling.


def test_a_function_that_raises_is_named_with_its_line(folder):
    error = refused(
        lambda: function.load("my_rewards:fails")(PROMPTS, COMPLETIONS, grade=[1] * 3),
        "the reward my_rewards:fails raised ValueError",
        "my_rewards.py, line 13",
        "3 completions",
        "'one'",
        "['grade']",
    )
    assert isinstance(error.__cause__, ValueError)


def test_a_function_may_raise_on_no_completions():
    def picky(prompts, completions, **columns):
        raise KeyError("nothing")

    refused(lambda: function.checked(picky, "picky")([], []), "picky raised KeyError")


def test_a_stop_by_the_user_is_not_an_error_of_the_reward():
    def stopped(prompts, completions, **columns):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        function.checked(stopped, "stopped")(PROMPTS, COMPLETIONS)


# Values.

WRONG = [float("nan"), float("inf"), "0.5", b"1", None, [1.0], 1j, 1e39, 10**400]


@pytest.mark.parametrize("value", WRONG, ids=lambda value: repr(value)[:8])
def test_a_value_that_is_no_finite_number(value):
    """1e39 is finite, but not in float32, which is what a loss will read."""
    refused(
        lambda: function.check([1.0, value, 2.0], COMPLETIONS, "r"),
        f"the reward r returned {value!r} for completion 1, 'two words'",
        "finite number",
    )


def test_none_is_nan_where_a_reward_is_one_of_several():
    scores = function.check([None, 1.0, None], COMPLETIONS, "r", optional=True)
    np.testing.assert_array_equal(scores, [np.nan, 1, np.nan])
    given = [1.0, float("nan"), 2.0]
    refused(
        lambda: function.check(given, COMPLETIONS, "r", optional=True),
        "returned nan for completion 1",
        "or None where it does not apply",
    )


def test_none_is_said_to_be_the_only_reward():
    refused(
        lambda: function.check([None, 1.0, 2.0], COMPLETIONS, "r"), "the only reward"
    )


@pytest.mark.parametrize("result", [[], [1.0, 2.0], [1.0] * 4, np.ones(6)])
def test_a_wrong_count(result):
    refused(
        lambda: function.check(result, COMPLETIONS, "r"),
        f"returned {len(result)} values for 3 completions",
        "one float for each",
    )


@pytest.mark.parametrize("result", [None, 1.5, "abc", b"abc", {"a": 1, "b": 2, "c": 3}])
def test_what_is_not_a_list_of_numbers(result):
    refused(
        lambda: function.check(result, COMPLETIONS, "r"),
        f"returned {type(result).__name__}",
        "3 numbers",
    )


def test_a_column_of_rows_is_not_one_number_a_completion():
    refused(
        lambda: function.check(np.ones((3, 1)), COMPLETIONS, "r"), "for completion 0"
    )


@pytest.mark.parametrize(
    "result",
    [
        [1, 2.5, True],
        (1, 2.5, 1),
        np.array([1, 2.5, 1]),
        [np.float64(1), np.float32(2.5), np.int64(1)],
        [np.array(1), np.array(2.5), np.array(1)],
        jnp.array([1, 2.5, 1]),
        (x for x in (1, 2.5, 1)),
    ],
    ids=["list", "tuple", "numpy", "numpy scalars", "0-d arrays", "jax", "generator"],
)
def test_numbers_of_any_kind_become_float32(result):
    scores = function.check(result, COMPLETIONS, "r")
    assert scores.dtype == np.float32 and scores.shape == (3,)
    np.testing.assert_array_equal(scores, [1.0, 2.5, 1.0])


def test_torch_numbers_too():
    torch = pytest.importorskip("torch")
    scores = function.check(torch.tensor([1.0, 2.5, 1.0]), COMPLETIONS, "r")
    np.testing.assert_array_equal(scores, [1.0, 2.5, 1.0])
