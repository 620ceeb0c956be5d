"""models.responses: packed candidates and log-probs in parts are the same numbers."""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import config, decoder, responses
from rlhf_jax.types import Rollout

G, K, P, T, V = 3, 4, 7, 6, 61
SHAPES = {
    "two layers": {},
    "a window": {"window": 5},
    "a window in every second of eight layers": {
        "layers": 8,
        "window": 4,
        "windowed": (True, False) * 4,
    },
}


def model(layers=2, **changes):
    shape = {"width": 32, "heads": 4, "kv_heads": 2, "hidden": 48, "max_length": 40}
    shape |= {"vocab_size": V, "layers": layers, **changes}
    return decoder.Decoder(config.llama(**shape))


@functools.cache
def params(name):
    tokens = jnp.zeros((1, 2), jnp.int32)
    return model(**SHAPES[name]).init(jax.random.key(0), tokens)["params"]


def rollout():
    """Ragged prompts and responses, K of them to each prompt; some are empty."""
    rng = np.random.default_rng(0)
    prompts, prompt_lengths = rng.integers(0, V, (G, P)), rng.integers(1, P + 1, G)
    prompt_mask = np.arange(P) >= P - prompt_lengths[:, None]
    mask = np.arange(T) < rng.integers(0, T + 1, G * K)[:, None]
    answers = rng.integers(0, V, (G * K, T))
    tokens = np.concatenate([np.repeat(prompts, K, 0), answers], axis=1)
    whole = np.concatenate([np.repeat(prompt_mask, K, 0), mask], axis=1)
    parts = tokens, whole.astype(np.int32), mask.astype(np.int32)
    return Rollout(*map(jnp.asarray, parts), None, None, None)


def total(params, weights, *, name, copies=1):
    """Σ w·log π over the valid response tokens."""
    data = rollout()
    given = model(**SHAPES[name]), params
    hidden = responses.states(*given, data, copies=copies)
    logps = responses.logps_of_states(*given, hidden, responses.tokens(data))
    return (weights * data.response_mask * logps).sum()


WEIGHTS = np.random.default_rng(1).normal(size=(G * K, T)).astype(np.float32)


@pytest.mark.parametrize("name", SHAPES)
def test_a_prompt_read_once_gives_its_candidates_the_same_value_and_gradient(name):
    """float32 sums in another order; gradients here are as large as 10."""
    grad = jax.value_and_grad(total)
    alone = grad(params(name), WEIGHTS, name=name)
    packed = grad(params(name), WEIGHTS, name=name, copies=K)
    jax.tree.map(lambda a, b: checks.close(a, b, 1e-4, 5e-5), alone, packed)


def test_packed_candidates_do_not_see_each_other():
    """The states of one candidate are the same whatever the others say."""
    data, name = rollout(), "two layers"
    other = data._replace(tokens=data.tokens.at[1, P:].add(1) % V)
    first, second = (
        responses.states(model(), params(name), x, copies=K) for x in (data, other)
    )
    checks.same(first[0], second[0])
    checks.same(first[2:], second[2:])
    assert (first[1] != second[1]).any()


def test_log_probs_in_parts_are_those_at_once_and_so_is_the_gradient(monkeypatch):
    grad, name = jax.value_and_grad(total), "two layers"
    whole = grad(params(name), WEIGHTS, name=name)
    monkeypatch.setattr(responses, "_LOGITS", 2 * G * K * V)  # two positions at a time
    parts = grad(params(name), WEIGHTS, name=name)
    jax.tree.map(lambda a, b: checks.close(a, b, 1e-5, 1e-5), whole, parts)


def test_parts_hold_no_more_logits_than_asked_for(monkeypatch):
    """5 positions at 3 at a time are two parts, the second one padded."""
    seen = []

    def fn(x):
        seen.append(x.shape)
        return x[..., 0]

    monkeypatch.setattr(responses, "_LOGITS", 3 * 4 * 10)
    x = jnp.arange(40.0).reshape(4, 5, 2)
    checks.same(responses.in_parts(fn, (x,), 10), x[..., 0])
    assert set(seen) == {(4, 3, 2)}
