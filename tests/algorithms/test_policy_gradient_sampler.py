"""RL on what a filtered sampler drew: ratios of the policy's, weights if asked for."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.algorithms.policy_gradient import objective, update

FILTERS = {"top_k": 6, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.4}
PLAIN = tiny.config("grpo", tuple(FILTERS.items()))
CORRECTED = dataclasses.replace(PLAIN, importance_sampling_correction=0.9)
RATIO = "sampling/importance_sampling_ratio"


def drawn(config):
    """(state, Rollout, Experience) of one iteration."""
    state = tiny.start(config)
    rollout = tiny.rollout(config)(state, tiny.batch())
    scores = tiny.score(tiny.FROZEN, rollout.tokens, rollout.mask)
    return state, rollout, tiny.experience(config)(state, rollout, scores, tiny.HYPER)


def test_ratios_are_between_policies_and_the_first_is_one():
    """Whatever the sampler left out: its log-probs are no part of them."""
    _, rollout, data = drawn(PLAIN)
    valid = np.asarray(rollout.response_mask, bool)
    table = np.asarray(tiny.policy_params()["table"], np.float64)
    full = table - np.log(np.exp(table).sum(-1, keepdims=True))
    tokens = np.asarray(rollout.tokens)
    before, after = tokens[:, tiny.PROMPT - 1 : -1], tokens[:, tiny.PROMPT :]
    np.testing.assert_allclose(
        np.asarray(data.logps)[valid], full[before, after][valid], atol=1e-5
    )
    assert (rollout.sampler_logps != rollout.logps)[valid].mean() > 0.9
    assert data.weights == ()


def test_weights_are_ratios_to_what_was_sampled_from_up_to_the_cap():
    _, rollout, data = drawn(CORRECTED)
    valid = np.asarray(rollout.response_mask)
    ratio = np.exp(np.float64(rollout.logps) - np.float64(rollout.sampler_logps))
    expected = np.minimum(ratio, 0.9) * valid
    np.testing.assert_allclose(data.weights, expected, rtol=1e-5, atol=1e-7)
    assert (ratio[valid != 0] < 0.9).any() and (ratio[valid != 0] > 0.9).any()


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_responses_that_take_turns_are_the_same(algorithm):
    plain = tiny.config(algorithm, tuple(FILTERS.items()))
    state, batch = tiny.start(plain), tiny.batch()
    expected = tiny.rollout(plain)(state, batch)
    found = tiny.rollout(dataclasses.replace(plain, rows_per_slot=4))(state, batch)
    chex.assert_trees_all_equal(found, expected)


def test_turns_that_cannot_be_taken_are_refused():
    together = (("stop_axis", "seeds"),)
    with pytest.raises(ValueError, match="rows_per_slot=2 and sampling.stop_axis="):
        tiny.config(sampler_changes=together, rows_per_slot=2)
    with pytest.raises(ValueError, match="rows_per_slot=0: must be a whole number"):
        tiny.config(rows_per_slot=0)
    many = tiny.config("grpo", rows_per_slot=9)
    with pytest.raises(ValueError, match="rows_per_slot=9.* choose at most 8"):
        tiny.rollout(many)(tiny.start(many), tiny.batch())


@pytest.mark.parametrize("whitened", ["none", "minibatch"])
def test_an_update_takes_weighted_advantages_after_whitening(rng, whitened):
    config = dataclasses.replace(CORRECTED, whiten_advantages=whitened)
    _, _, data = drawn(CORRECTED)
    gain = jnp.array(rng.normal(size=data.logps.shape), jnp.float32)
    sample = objective.Sample(data, policy_gradient.Targets(gain, jnp.zeros_like(gain)))
    order = jnp.array([1, 0, 5, 4])
    part, _ = update.share(sample, order, config=config, axis_name=None)
    plain = dataclasses.replace(config, importance_sampling_correction=0.0)
    without, _ = update.share(sample, order, config=plain, axis_name=None)
    weights = np.asarray(data.weights)[order]
    np.testing.assert_allclose(
        part.targets.advantages, without.targets.advantages * weights, rtol=1e-6
    )
    assert len(np.unique(weights[np.asarray(part.data.response_mask) != 0])) > 3


def test_a_correction_says_its_weights_and_leaves_the_first_ratio_one():
    _, _, data = drawn(CORRECTED)
    weights = np.asarray(data.weights)[np.asarray(data.response_mask) != 0]
    _, (metrics,) = tiny.run(CORRECTED, 1)
    for name in ("mean", "min", "max"):
        expected = getattr(np, name)(weights)
        np.testing.assert_allclose(metrics[f"{RATIO}/{name}"], expected, rtol=1e-5)
    assert metrics["val/ratio_first_error"] <= 1e-5
    given = tiny.start(PLAIN), tiny.FROZEN, tiny.batch(), tiny.traced()
    _, _, without = jax.eval_shape(tiny.iteration(PLAIN), *given)
    assert not [name for name in without if name.startswith("sampling/")]


@pytest.mark.parametrize("algorithm", ["rsf", "online_dpo"])
def test_what_has_no_ratio_has_none_to_correct(algorithm):
    with pytest.raises(ValueError, match="importance_sampling_correction=2.0: it lear"):
        tiny.config(algorithm, importance_sampling_correction=2.0)
