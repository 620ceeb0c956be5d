"""Importance weights of sampled tokens: by hand, in float64, where they are ignored."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import importance_sampling, losses

CAP = 2.0


@pytest.fixture
def drawn(rng):
    """(log π, log μ, mask) of four rows."""
    logps, sampler = rng.normal(-2, 1, (2, 4, 6)).astype(np.float32)
    mask = (np.arange(6) < np.array([6, 4, 1, 0])[:, None]).astype(np.int32)
    return logps, sampler, mask


def test_weights_by_hand_are_ratios_up_to_the_cap():
    logps, sampler = np.log([[0.25, 0.5, 0.5]]), np.log([[0.5, 0.5, 0.1]])
    weights = importance_sampling.truncated(logps, sampler, np.ones((1, 3)), cap=2.0)
    np.testing.assert_allclose(weights, [[0.5, 1.0, 2.0]], rtol=1e-6)


def test_weights_are_the_formula_in_float64(drawn):
    logps, sampler, mask = drawn
    ratio = np.exp(np.float64(logps) - np.float64(sampler))
    weights = importance_sampling.truncated(logps, sampler, mask, cap=CAP)
    np.testing.assert_allclose(weights, np.minimum(ratio, CAP) * mask, rtol=1e-5)
    free = importance_sampling.truncated(logps, sampler, mask, cap=np.inf)
    np.testing.assert_allclose(free, ratio * mask, rtol=1e-5)


def test_what_the_policy_itself_drew_weighs_one(drawn):
    logps, _, mask = drawn
    weights = importance_sampling.truncated(logps, logps, mask, cap=CAP)
    np.testing.assert_array_equal(weights, mask)


def test_junk_reaches_neither_value_nor_gradient(drawn):
    logps, sampler, mask = drawn
    clean = importance_sampling.truncated(logps, sampler, mask, cap=CAP)
    for junk in (1e4, np.inf, np.nan):
        dirty = (np.where(mask, x, junk) for x in (logps, sampler))
        weights = importance_sampling.truncated(*dirty, mask, cap=CAP)
        np.testing.assert_array_equal(weights, clean)


def test_weights_are_data_without_a_gradient(drawn):
    logps, sampler, mask = drawn
    grads = jax.grad(
        lambda *given: importance_sampling.truncated(*given, mask, cap=CAP).sum(),
        argnums=(0, 1),
    )(logps, sampler)
    assert not np.any(grads)


def test_a_summary_is_of_valid_tokens():
    weights, mask = jnp.array([[0.5, 1.5], [3.0, 9.0]]), jnp.array([[1, 1], [1, 0]])
    found = importance_sampling.summary(weights, mask)
    assert {k: float(x) for k, x in found.items()} == pytest.approx(
        {"mean": 5 / 3, "min": 0.5, "max": 3.0}
    )


def test_weighted_advantages_weigh_the_clipped_loss_of_each_token(drawn, rng):
    """TRL multiplies a token's loss; for weights of at least 0 that is the same."""
    logps, sampler, mask = drawn
    old = (logps + rng.normal(0, 0.3, logps.shape)).astype(np.float32)
    gain = rng.normal(size=logps.shape).astype(np.float32)
    weights = importance_sampling.truncated(old, sampler, mask, cap=CAP)
    loss, _ = losses.ppo_clip(logps, old, gain * weights, mask, clip=0.2)
    ratio = np.exp(np.float64(logps) - old)
    tokens = -np.minimum(ratio * gain, np.clip(ratio, 0.8, 1.2) * gain)
    expected = (tokens * np.asarray(weights) * mask).sum() / mask.sum()
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
