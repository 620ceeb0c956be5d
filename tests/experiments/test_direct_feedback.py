"""d-RLAIF: a labeler's ratings as the reward of a run, and what it does on failure."""

import functools
import io
import json

import judging_labelers
import numpy as np
import pytest
import rich.console
import small_recipes

from experiments import rl, sentiment
from rlhf_jax.feedback import labelers, prompts
from rlhf_jax.studies.task import Reward
from rlhf_jax.tasks import direct_feedback, judges

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("programs")
# Short enough for a context of 64 tokens of a letter each.
TEMPLATE = """
name = "short"
version = 1
kind = "rating"
polarity = "better"
labels = ["1", "2", "3"]
preamble = "Rate."
sample = "{context}{response}"
ending = "="
"""
RL = {"steps": 2, "rl__rows": 4, "rl__minibatches": 1, "max_new_tokens": 4}
RL |= {"data__length": 16, "data__eval_rows": 4, "algorithm": "reinforce"}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    small_recipes.model(home, template=False)
    small_recipes.lines(home / "prompts.jsonl", small_recipes.PAIRS)
    (home / "short.toml").write_text(TEMPLATE)
    return home


def judge(function):
    template = prompts.load("helpful_rating")
    return judges.Judge(judging_labelers.labeler(function), template, 0, None, None)


def by_length(prompt):
    """All mass on 10 where the response is empty, else half on 1 and half on 10."""
    empty = prompt.endswith("RESPONSE:\n\nSCORE:") or "RESPONSE: \n" in prompt
    return (1e-9,) * 9 + (1,) if empty else (0.5, *(1e-9,) * 8, 0.5)


def test_the_reward_is_the_expected_rating():
    host = direct_feedback.rated(judge(by_length))
    scores = host(["a", "a"], ["", "text"])
    np.testing.assert_allclose(scores, [1, 0], atol=1e-6)


def test_messages_are_read_as_turns():
    asked = []
    template = prompts.load("helpful_rating")
    made = judging_labelers.labeler(by_length, asked)
    host = direct_feedback.rated(judges.Judge(made, template, 0, None, None))
    turns = [{"role": "user", "content": "Say it"}]
    host([turns], [[{"role": "assistant", "content": "it"}]])
    host(["unused"], ["it"], **{"rlhf_jax.given": [turns]})
    assert asked[0] == asked[1]
    assert "CONVERSATION: Human: Say it\n" in asked[0] and "RESPONSE: it" in asked[0]


def test_a_row_without_a_rating_is_an_error_that_names_it():
    def fails(prompt):
        odd = "odd one" in prompt
        return labelers.Failure("HTTP 500, 7 times") if odd else by_length(prompt)

    host = direct_feedback.rated(judge(fails))
    said = "1 of 3 completions got no rating from a function.*completion 1, 'odd one'"
    with pytest.raises(ValueError, match=f"{said}.*HTTP 500, 7 times"):
        host(["a"] * 3, ["one", "odd one", "two"])


def test_a_run_of_rl_is_paid_by_the_initial_policy_itself(home, tmp_path, monkeypatch):
    given = []
    create = direct_feedback.create

    def noted(spec, task, layout, **how):
        reward = create(spec, task, layout, **how)
        given.append((reward, task))
        return reward

    monkeypatch.setattr(direct_feedback, "create", noted)
    words = f"ai:policy,template={home / 'short.toml'},scale=8"
    flags = {"policy": home / "model", "dataset": home / "prompts.jsonl", **RL}
    config = small_recipes.config(rl, reward=words, output=tmp_path / "run", **flags)
    console = rich.console.Console(record=True, width=300, file=io.StringIO())
    result = rl.run(config, console=console)
    said = console.export_text()
    assert "policy, prompt short, version 1 (" in said
    assert (
        "rates every completion 1 to 3, scaled to mean 0 and deviation 1 on 8" in said
    )
    ((reward, task),) = given
    assert isinstance(reward, Reward) and reward.facts["scaled"]
    measured = [r for r in result.records if "eval/phase" in r]
    assert np.isfinite([r["eval/reward"] for r in measured]).all()
    # What the run is scaled on is what the reward says of it.
    gain, bias = reward.host.args[1]
    raw = functools.partial(reward.host.args[0], ["Say red"], ["y"])()
    np.testing.assert_allclose(reward.host(["Say red"], ["y"]), gain * raw + bias)
    assert json.loads((tmp_path / "run/config.json").read_text())["config"][
        "reward"
    ].startswith("ai:policy")


def test_a_prompt_that_does_not_fit_the_labeler_stops_the_run(home, tmp_path):
    """The package's own prompt has hundreds of letters, and the context holds 64."""
    flags = {"policy": home / "model", "dataset": home / "prompts.jsonl", **RL}
    with pytest.raises(ValueError, match="got no rating from policy.*exceed the conte"):
        small_recipes.run(rl, reward="ai:policy,scale=4", output=tmp_path, **flags)


def test_experiments_refuse_what_cannot_rate_before_anything_is_loaded():
    for words, said in (("ai:m,template=nope", "no prompt 'nope'"), ("ai:", "whose")):
        flags = {"policy": "m", "dataset": "d", "reward": words}
        with pytest.raises(ValueError, match=said):
            rl.check(small_recipes.config(rl, **flags))
        with pytest.raises(ValueError, match=said):
            sentiment.check_labeler(small_recipes.config(sentiment, **flags))
    config = small_recipes.config(sentiment, reward="ai:m")
    with pytest.raises(ValueError, match="labelers of the microworld are those of"):
        sentiment.check(config)
