"""logprobs: logits to log-probabilities, entropies and divergences."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import logprobs, masking

SHAPE = (2, 3, 5)
logits_ = checks.floats(SHAPE)


@pytest.fixture
def logits(rng):
    return rng.normal(size=SHAPE).astype(np.float32)


@pytest.fixture
def other(rng):
    return rng.normal(size=SHAPE).astype(np.float32)[::-1].copy()


@pytest.fixture
def tokens(rng):
    return rng.integers(0, SHAPE[-1], SHAPE[:2])


def reference(logits, temperature):
    """log softmax in float64."""
    scaled = np.asarray(logits, np.float64) / temperature
    return scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))


def test_uniform_logits_closed_forms(tokens):
    uniform = np.full(SHAPE, 2.0, np.float32)
    close(logprobs.normalize(uniform), np.full(SHAPE, -np.log(5)))
    close(logprobs.of_tokens(uniform, tokens), np.full(SHAPE[:2], -np.log(5)))
    close(logprobs.entropy(uniform), np.full(SHAPE[:2], np.log(5)))
    close(logprobs.divergence(uniform, uniform), np.zeros(SHAPE[:2]))


def test_divergence_of_two_coins():
    half, quarter = np.log([[[0.5, 0.5]]]), np.log([[[0.25, 0.75]]])
    expected = 0.5 * np.log(2) + 0.5 * np.log(2 / 3)
    close(logprobs.divergence(half, quarter)[0, 0], expected)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_float64_oracle(logits, other, tokens, temperature):
    p, q = reference(logits, temperature), reference(other, temperature)
    picked = np.take_along_axis(p, tokens[..., None], -1)[..., 0]
    at = {"temperature": temperature}
    close(logprobs.normalize(logits, **at), p, 1e-5, 1e-6)
    close(logprobs.of_tokens(logits, tokens, **at), picked, 1e-5, 1e-6)
    close(logprobs.entropy(logits, **at), -(np.exp(p) * p).sum(-1), 1e-5, 1e-6)
    divergence = (np.exp(p) * (p - q)).sum(-1)
    close(logprobs.divergence(logits, other, **at), divergence, 1e-5, 1e-6)


def test_torch_agrees(logits, tokens):
    torch = pytest.importorskip("torch")
    flat = torch.tensor(logits.reshape(-1, 5))
    picked = -torch.nn.functional.cross_entropy(
        flat, torch.tensor(tokens.ravel()), reduction="none"
    )
    close(logprobs.of_tokens(logits, tokens).ravel(), picked.numpy(), 1e-6, 1e-6)
    entropy = torch.distributions.Categorical(logits=flat).entropy()
    close(logprobs.entropy(logits).ravel(), entropy.numpy(), 1e-6, 1e-6)


@examples
@given(logits_, st.floats(-5, 5, width=32, allow_subnormal=False))
def test_a_shift_of_all_logits_changes_nothing(logits, shift):
    tokens = np.zeros(SHAPE[:2], int)
    moved = logits + np.float32(shift)
    for fn in (
        logprobs.normalize,
        logprobs.entropy,
        lambda x: logprobs.of_tokens(x, tokens),
        lambda x: logprobs.divergence(x, logits),
    ):
        close(fn(moved), fn(logits), 1e-4, 2e-6)


@examples
@given(logits_, logits_)
def test_probabilities_sum_to_one_and_bounds_hold(p, q):
    close(np.exp(logprobs.normalize(p)).sum(-1), np.ones(SHAPE[:2]), 1e-5)
    entropy = np.asarray(logprobs.entropy(p))
    assert (entropy >= 0).all() and (entropy <= np.log(5) + 1e-5).all()
    assert (np.asarray(logprobs.divergence(p, q)) >= -1e-6).all()


def test_a_large_common_offset_keeps_the_digits():
    logits = np.array([[[8192.0, 8192.5]]], np.float32)
    expected = reference(logits - 8192.0, 1.0)[..., 0]
    close(logprobs.of_tokens(logits, np.zeros((1, 1), int)), expected)


def test_bf16_logits_give_float32(logits, tokens):
    low = jnp.asarray(logits, jnp.bfloat16)
    exact = np.asarray(low, np.float32)
    for fn in (
        logprobs.normalize,
        logprobs.entropy,
        lambda x: logprobs.of_tokens(x, tokens),
        lambda x: logprobs.divergence(x, x),
    ):
        assert fn(low).dtype == jnp.float32
        np.testing.assert_array_equal(fn(low), fn(exact))


def test_impossible_tokens_add_nothing():
    logits = np.array([[[0.0, 0.0, -np.inf]]], np.float32)
    close(logprobs.entropy(logits), [[np.log(2)]])
    wider = np.zeros((1, 1, 3), np.float32)
    close(logprobs.divergence(logits, wider), [[np.log(1.5)]])
    close(logprobs.divergence(logits, logits), [[0.0]])
    assert np.isinf(logprobs.divergence(wider, logits))
    for fn in (logprobs.entropy, lambda x: logprobs.divergence(x, wider)):
        grad = jax.grad(lambda x, fn=fn: fn(x).sum())(logits)
        assert np.isfinite(grad).all()


def test_gradient_of_a_log_prob_is_one_hot_minus_softmax(logits, tokens):
    grad = jax.grad(lambda x: logprobs.of_tokens(x, tokens).sum())(logits)
    expected = np.eye(5)[tokens] - np.exp(reference(logits, 1.0))
    close(grad, expected, 1e-5, 1e-6)


def test_gradients_are_the_numerical_ones(logits, other, tokens):
    checks.assert_gradients(logprobs.normalize, logits)
    checks.assert_gradients(lambda x: logprobs.of_tokens(x, tokens), logits)
    checks.assert_gradients(logprobs.entropy, logits)
    checks.assert_gradients(logprobs.divergence, logits, other)


def test_junk_outputs_are_cut_by_the_masked_mean(logits, tokens):
    """Junk log-probs of ignored positions, made of any logits, end at the mask."""
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    junk = np.where(mask[..., None], logits, 1e30).astype(np.float32)
    for fn in (
        lambda x: logprobs.of_tokens(x, tokens),
        logprobs.entropy,
        lambda x: logprobs.divergence(x, logits),
    ):

        def loss(x, fn=fn):
            return masking.mean(fn(x), mask)

        assert loss(junk) == loss(logits)
        checks.same(jax.grad(loss)(junk), jax.grad(loss)(logits))


def test_jit_is_eager_and_temperature_is_traced_once(logits, tokens):
    traces = []

    @jax.jit
    def compiled(logits, temperature):
        traces.append(1)
        return logprobs.of_tokens(logits, tokens, temperature=temperature)

    for temperature in (0.5, 1.0, 2.0):
        eager = logprobs.of_tokens(logits, tokens, temperature=temperature)
        close(compiled(logits, temperature), eager, 1e-6, 5e-7)
    assert len(traces) == 1
