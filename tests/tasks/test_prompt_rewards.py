"""prompt_rewards: one reward or several, by name or as objects."""

import json
import pathlib
import sys

import numpy as np
import pytest

from experiments import rl
from rlhf_jax.cli import library, presets
from rlhf_jax.tasks import prompt_rewards

PROMPTS = ["a", [{"role": "user", "content": "b"}], "c"]
TEXTS = ["one", "two", "three"]


def length(completions, **columns):
    return [len(str(text)) for text in completions]


def sometimes(prompts, completions, **columns):
    return [None if prompt == "a" else 1.0 for prompt in prompts]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "pr_rewards.py").write_text(
        "def one(completions, **columns):\n    return [1.0] * len(completions)\n"
        "class Two:\n    pass\n"
    )
    yield tmp_path
    sys.modules.pop("pr_rewards", None)


class Model:
    def apply(self):
        raise AssertionError


RESULT = library.Result(Model(), {}, None, pathlib.Path("run"), {}, [])


@pytest.mark.parametrize(
    ("given", "count"),
    [
        ("rewards:short", 1),
        (length, 1),
        (["a", length], 2),
        (("a", "b", "c"), 3),
        ((Model(), {}, None), 1),  # a model, its weights and its tokenizer
        (RESULT, 1),
        ([RESULT, (Model(), {}, None), length], 3),
        ([], 0),
        ((), 0),
    ],
)
def test_what_is_one_reward_and_what_are_several(given, count):
    found = prompt_rewards.listed(given)
    assert isinstance(found, tuple) and len(found) == count
    if count == 1:
        assert found[0] is given


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (("rewards:short",), ("short",)),
        (("a.b:short", "c:short", "short"), ("short", "short_2", "short_3")),
        (("runs/x.1/model/", "other/Qwen2.5"), ("model", "Qwen2.5")),
        (("tests.x:test.<locals>.polite", "x:f_2", "f"), ("polite", "f_2", "f")),
    ],
)
def test_names_for_metrics(names, short):
    assert prompt_rewards.short_names(names) == short


def test_one_reward_is_itself():
    (reward,) = [prompt_rewards.several((length,), ("r",), task=None, layout=None)]
    assert reward.parts is None
    assert reward.host(PROMPTS[:1], ["one"]).tolist() == [3]
    reward = prompt_rewards.several((sometimes,), ("r",), task=None, layout=None)
    with pytest.raises(ValueError, match="it is the only reward"):
        reward.host(PROMPTS, TEXTS)


def test_several_rewards_have_weights_and_may_not_apply():
    given, names = (length, sometimes), ("t:length", "t:sometimes")
    reward = prompt_rewards.several(given, names, (2, 3), task=None, layout=None)
    assert reward.parts.weights == (2, 3)
    assert reward.parts.names == ("length", "sometimes")
    said = reward.parts.rewards[1].host(PROMPTS, TEXTS)
    np.testing.assert_array_equal(said, [np.nan, 1, 1])
    same = prompt_rewards.several(given, names, task=None, layout=None)
    assert same.parts.weights == (1, 1) and not same.parts.normalized


def test_functions_are_imported_before_anything_else(folder):
    (one, other, directory) = prompt_rewards.imported(["pr_rewards:one", length, "d"])
    assert one.__name__ == "one" and other is length and directory == "d"
    for name, said in (
        ("pr_rewards:two", "no function 'two'"),
        ("pr_rewards:Two", "Two is a class"),
        ("./pr_rewards:one", "did you mean pr_rewards:one"),
    ):
        with pytest.raises(ValueError, match=f"--reward {name}: .*{said}"):
            prompt_rewards.imported(("d", name))


def test_objects_in_a_list_have_names():
    config = library.configure(rl.CONFIG, {"reward": [length, "a:b", RESULT]})
    named = library.names(config)
    assert named.reward == (f"{__name__}:length", "a:b", "run/model")
    assert config.reward[0] is length
    plain = library.configure(rl.CONFIG, {"reward": ["a:b", "c"]})
    assert library.names(plain) == plain


@pytest.mark.parametrize("reward", ["a:b", ["a:b", "c"]])
def test_a_config_of_one_reward_or_several_is_read_back(tmp_path, reward):
    saved = {"config": {"reward": reward, "steps": 3}}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    words = ["--config", str(tmp_path), "--steps", "4"]
    config, rest = presets.default(rl.CONFIG, words, None)
    assert config.reward == (reward if isinstance(reward, str) else tuple(reward))
    assert rest == words[2:]
