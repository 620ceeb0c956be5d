"""policy_gradient: exactness of a fresh rollout on a real network, and learning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from checks import close

from rlhf_jax import logprobs
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.algorithms.policy_gradient import collect, objective, update
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder

SHARED = tiny.config(value="shared", sampler_changes=(("temperature", 0.7),))


@pytest.fixture(scope="module")
def two_iterations():
    """A decoder with a critic on its trunk, sampled at a temperature."""
    hyper = tiny.HYPER._replace(learning_rate=1e-2)
    return tiny.run(SHARED, 2, hyper, model=tiny.DECODER)


def test_the_first_update_sees_ratios_of_1(two_iterations):
    """What the sampler says of its tokens is what training says, cached or not, and a
    first rollout is the reference's own."""
    for named in two_iterations[1]:
        assert named["val/ratio_first_error"] <= 1e-5
    first, second = two_iterations[1]
    assert first["objective/kl_token_max"] <= 1e-5
    assert abs(first["objective/kl"]) <= 1e-5
    assert second["objective/kl_token_max"] > 1e-3


def test_the_critic_and_the_trunk_it_shares_both_learn(two_iterations):
    before, after = two_iterations[0][0], two_iterations[0][-1]
    for name in ("policy", "value"):
        for x, y in zip(
            *(jax.tree.leaves(s.learner.params[name]) for s in (before, after)),
            strict=True,
        ):
            assert (x != y).any()
    assert "loss/value_avg" in two_iterations[1][0]


@functools.cache
def fresh(config, dtype):
    """(loss metrics, experience) of a first rollout, forwards only."""
    settings = {**vars(tiny.DECODER.config), "dtype": dtype}
    model = decoder.Decoder(model_config.Decoder(**settings))
    networks = tiny.networks(config, model)
    hyper, start = tiny.traced(), tiny.start(config, model=tiny.DECODER)

    @jax.jit
    def look(state, batch):
        drawn = policy_gradient.rollout(state, batch, networks=networks, config=config)
        data = policy_gradient.experience(
            state, drawn, jnp.zeros(tiny.ROWS), hyper, networks=networks, config=config
        )
        targets = policy_gradient.targets(data, 0.1, hyper, config=config)
        scale = objective.Scale(hyper, jnp.float32(0.1))
        loss = update.make_loss(networks=networks, config=config, scale=scale)
        sample = objective.Sample(data, targets)
        count = drawn.response_mask.sum()
        return loss(state.learner.params, sample, count)[1], data, drawn

    return look(start, tiny.batch())


@pytest.mark.parametrize(
    "dtype, bound", [("float32", 1e-5), ("bfloat16", 2e-2)], ids=lambda x: str(x)
)
def test_a_fresh_rollout_has_ratio_one(dtype, bound):
    metrics, data, drawn = fresh(tiny.config(), dtype)
    assert metrics["ratio_error_max"] <= bound
    assert np.abs(data.logps - data.reference_logps).max() <= bound
    assert metrics["clipfrac"] == 0.0
    assert data.logps.dtype == jnp.float32
    np.testing.assert_array_equal(data.logps, drawn.logps)


def test_old_log_probs_can_come_from_a_full_pass():
    """After top-k the sampler's own would do as well: both are at the temperature."""
    changes = (("top_k", 3), ("temperature", 0.7))
    config = tiny.config(recompute_logps=True, sampler_changes=changes)
    metrics, data, drawn = fresh(config, "float32")
    assert metrics["ratio_error_max"] <= 1e-6
    close(data.logps, drawn.logps, rtol=0, atol=1e-5)
    assert (np.abs(drawn.logps - drawn.sampler_logps) > 0.01).any()


def test_log_probs_are_taken_at_response_positions_alone():
    """Only the slice that is scored reaches the vocabulary; it is the slice meant."""
    config = tiny.config()
    drawn = tiny.rollout(config)(tiny.start(config), tiny.batch())
    params = tiny.policy_params()
    logps, logits = collect.response_logits(tiny.BIGRAM, params, drawn, config)
    assert logits.shape == (tiny.ROWS, tiny.NEW, tiny.VOCAB)
    whole = tiny.BIGRAM.apply({"params": params}, drawn.tokens, drawn.mask)
    every = logprobs.of_tokens(whole[:, :-1], drawn.tokens[:, 1:])
    close(logps, every[:, tiny.PROMPT - 1 :])


@pytest.mark.parametrize(
    "algorithm",
    [
        *("ppo", "reinforce", "rloo", "grpo", "rsf", "online_dpo"),
        *("dapo", "gspo", "reinforce_plus_plus"),
        pytest.param("dr_grpo", marks=pytest.mark.slow),
    ],
)
def test_learning_raises_the_reward(algorithm):
    """Count one token: from what chance gives to most of what there is to get."""
    config = tiny.config(algorithm)
    hyper = tiny.HYPER._replace(learning_rate=0.1, kl_coef=0.01)
    _, metrics = tiny.run(config, 60, hyper)
    scores = [named["objective/scores"] for named in metrics]
    first, last = np.mean(scores[:5]), np.mean(scores[-5:])
    assert first < 0.3 * tiny.NEW and last > 0.7 * tiny.NEW
    assert all(named["optim/finite"] == 1 for named in metrics)
