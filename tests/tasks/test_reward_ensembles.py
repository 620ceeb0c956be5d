"""Reward models of a user as one reward: names, combinations, averaged weights."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import ensembles, rewards
from rlhf_jax.studies import scoring
from rlhf_jax.studies.task import Reward
from rlhf_jax.tasks import classifiers, models, prompt_rewards, reward_ensembles

WORDS = SimpleNamespace(get_vocab=lambda: {"a": 0, "b": 1})
OTHERS = SimpleNamespace(get_vocab=lambda: {"a": 0, "c": 1})


def test_names_are_told_from_functions_and_directories():
    assert reward_ensembles.named("worst:a+b") and reward_ensembles.named("warm:a+b")
    for other in ("rewards:short", "path/to/worst", "ai:policy", print):
        assert not reward_ensembles.named(other)


def test_a_word_names_its_models_and_how_they_are_combined():
    spec = reward_ensembles.parse("uncertainty:a/x+b/y+c,weight=2")
    assert spec.sources == ("a/x", "b/y", "c")
    assert (spec.beta, spec.weight) == (math.inf, 2.0)
    assert reward_ensembles.parse("worst:a+b")[2:] == (0.0, 0.0)
    assert reward_ensembles.parse("mean:a+b")[2:] == (math.inf, 0.0)
    assert reward_ensembles.parse("entropic:a+b,beta=0.5").beta == 0.5


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("worst:a", "--reward worst:a: name two reward models or more"),
        ("mean:a+b,weight=1", "mean reads nothing besides its models, no 'weight'"),
        ("uncertainty:a+b,beta=1", "uncertainty reads weight, no 'beta'"),
        ("entropic:a+b,beta=-1", "beta=-1 is no number of at least 0"),
        ("entropic:a+b,beta=soft", "beta=soft is no number"),
    ],
)
def test_misuse_is_refused_before_anything_is_read(text, said):
    with pytest.raises(ValueError, match=said):
        prompt_rewards.check(text)


def test_combinations_are_those_of_ensembles():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)

    def combined(text):
        spec = reward_ensembles.parse(text)
        return ensembles.combined(scores, beta=spec.beta, weight=spec.weight)

    np.testing.assert_allclose(combined("mean:a+b"), scores.mean(0), atol=1e-6)
    np.testing.assert_allclose(combined("worst:a+b"), scores.min(0), atol=1e-6)
    expected = ensembles.uncertainty(scores, weight=0.5)
    np.testing.assert_allclose(combined("uncertainty:a+b"), expected, atol=1e-6)


@pytest.fixture
def task(monkeypatch):
    """π₀'s samples are the numbers 0 to 7; a model is a function of a number."""
    drawn = SimpleNamespace(tokens=np.arange(8.0), mask=np.ones(8))
    monkeypatch.setattr(scoring, "of_initial", lambda *_: drawn)
    monkeypatch.setattr(scoring, "decode", lambda *_: (["p"] * 8, list("01234567")))

    def scale(task, score, params, layout, *, raw):
        return rewards.fit(score(params, drawn.tokens, drawn.mask))

    monkeypatch.setattr(classifiers, "scale", scale)

    def loaded(source, task, layout, *, label=1, raw=False):
        slope = float(source.removeprefix("host"))
        if source.startswith("host"):
            return Reward(host=lambda p, c, **_: np.array([slope * int(x) for x in c]))
        return Reward(
            score=lambda k, tokens, mask: rewards.apply(
                rewards.fit(k * jnp.asarray(drawn.tokens)), k * tokens
            ),
            frozen=slope,
        )

    monkeypatch.setattr(classifiers, "loaded", loaded)
    return drawn


def test_members_count_alike_whatever_their_scale(task):
    """Two models outvote one that says the opposite, though it shouts."""
    expected = (task.tokens - task.tokens.mean()) / task.tokens.std()
    reward = reward_ensembles.create("mean:1+-100+1", None, None)
    said = reward.score(reward.frozen, task.tokens, task.mask)
    np.testing.assert_allclose(said, expected, atol=1e-4)
    on_host = reward_ensembles.create("mean:host1+host-100+host1", None, None)
    said = on_host.host(["p"] * 8, list("01234567"))
    np.testing.assert_allclose(said, expected, atol=1e-4)


def test_the_combination_has_mean_0_and_deviation_1_on_samples_of_the_start(task):
    for text in ("worst:1+-1", "worst:host1+host-1"):
        reward = reward_ensembles.create(text, None, None)
        if reward.host is None:
            said = np.asarray(reward.score(reward.frozen, task.tokens, task.mask))
        else:
            said = np.asarray(reward.host(["p"] * 8, list("01234567")))
            assert reward.facts == {"scaled": True}
        assert abs(said.mean()) < 1e-5 and said.std() == pytest.approx(1, abs=1e-4)
        assert said.argmax() in (3, 4)  # where neither model is at its worst


def test_models_with_and_without_the_policys_tokenizer_are_not_combined(task):
    with pytest.raises(ValueError, match="1 has the policy's tokenizer and host2 has"):
        reward_ensembles.create("mean:1+host2", None, None)


def test_averaged_weights_are_the_mean_and_unlike_models_are_named(monkeypatch):
    read = {
        "a": ("model", {"w": jnp.array([1.0, 2.0])}, WORDS),
        "b": ("model", {"w": jnp.array([3.0, 6.0])}, WORDS),
        "c": ("model", {"w": jnp.array([3.0])}, WORDS),
        "d": ("model", {"w": jnp.array([3.0, 6.0])}, OTHERS),
    }
    monkeypatch.setattr(models, "read", lambda flag, source: read[source])
    kept = []
    monkeypatch.setattr(
        classifiers, "loaded", lambda given, *_, **__: kept.append(given)
    )
    reward_ensembles.create("warm:a+b", None, None)
    np.testing.assert_array_equal(jax.device_get(kept[0][1]["w"]), [2.0, 4.0])
    for other in ("c", "d"):
        with pytest.raises(ValueError, match=f"{other} and a differ.*use mean:"):
            reward_ensembles.create(f"warm:a+{other}", None, None)
