"""policy_gradient's data: experience and targets, against loops over a rollout."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from checks import close

from rlhf_jax.algorithms import policy_gradient

PPO = tiny.config()
RLOO = tiny.config("rloo")
COEF = jnp.float32(0.3)


def targets(config, data, **hyper):
    return jax.jit(functools.partial(policy_gradient.targets, config=config))(
        data, COEF, tiny.traced(**hyper)
    )


def shaped_by_hand(config, data):
    """Rewards [N, T] in float64: −β·(log π − log ρ), the score on the last token."""
    valid = np.asarray(data.response_mask)
    gap = np.asarray(data.logps, np.float64) - np.asarray(data.reference_logps)
    shaped = -float(COEF) * gap * valid if config.penalty_in == "reward" else 0.0 * gap
    for row, length in enumerate(valid.sum(-1)):
        shaped[row, length - 1] += float(data.scores[row])
    return shaped


def gae_by_hand(shaped, data, gamma, lam):
    """(advantages, returns) [N, T], from each row's end to its start."""
    advantages = np.zeros_like(shaped)
    values = np.asarray(data.values, np.float64)
    for row, length in enumerate(np.asarray(data.response_mask).sum(-1)):
        advantage = following = 0.0
        for t in reversed(range(length)):
            delta = shaped[row, t] + gamma * following - values[row, t]
            advantage = delta + gamma * lam * advantage
            following = values[row, t]
            advantages[row, t] = advantage
    return advantages, (advantages + values) * np.asarray(data.response_mask)


# Experience.


def test_recorded_rollouts_are_ragged():
    """Some rows end early, some never: what the tests below rely on."""
    for config in (PPO, RLOO):
        rollout = tiny.recorded(config)[1]
        assert len(set(np.asarray(rollout.response_mask.sum(-1)))) > 2
        assert 0 < rollout.ended.sum() < rollout.ended.size


@pytest.mark.parametrize("average", [False, True])
def test_the_reference_is_the_initial_weights_or_the_average(average):
    state, rollout, scores, _ = tiny.recorded(PPO)
    data = tiny.experience(PPO)(
        state, rollout, scores, tiny.traced(reference_average=average)
    )
    chosen = state.elastic.average if average else state.elastic.initial
    expected = tiny.logps_by_hand(chosen["table"], rollout)
    close(data.reference_logps, expected, rtol=1e-5, atol=1e-6)
    logps = tiny.logps_by_hand(state.learner.params["policy"]["table"], rollout)
    close(data.logps, logps, rtol=1e-5, atol=1e-6)
    assert np.abs(logps - expected).max() > 0.1


def test_values_are_those_of_the_state_before_each_token():
    state, rollout, _, data = tiny.recorded(PPO)
    table = np.asarray(state.learner.params["value"]["values"])
    before = table[np.asarray(rollout.tokens)[:, tiny.PROMPT - 1 : -1]]
    close(data.values, before * np.asarray(rollout.response_mask))


@pytest.mark.parametrize(
    "mode, of_unended", [("none", 2.5), ("replace", -1.5), ("subtract", 1.0)]
)
def test_a_missing_end_is_paid_for(mode, of_unended):
    """A score of 2.5 and a penalty of 1.5."""
    state, rollout, *_ = tiny.recorded(PPO)
    config = dataclasses.replace(PPO, missing_eos=mode)
    scores = jnp.full(tiny.ROWS, 2.5)
    data = policy_gradient.experience(
        state,
        rollout,
        scores,
        tiny.traced(missing_eos=1.5),
        networks=tiny.networks(config),
        config=config,
    )
    close(data.scores, np.where(rollout.ended, 2.5, of_unended))


# Targets.


@pytest.mark.parametrize("lam", [0.0, 0.6, 1.0])
def test_ppo_advantages_are_gae_on_shaped_rewards(lam):
    config = dataclasses.replace(PPO, whiten_advantages="none")
    data = tiny.recorded(PPO)[3]
    result = targets(config, data, gamma=0.9, lam=lam)
    expected = gae_by_hand(shaped_by_hand(config, data), data, 0.9, lam)
    close(result.advantages, expected[0], rtol=1e-5, atol=1e-6)
    close(result.returns, expected[1], rtol=1e-5, atol=1e-6)


def test_reinforce_is_gae_with_lambda_1_whatever_lambda_says():
    config = tiny.config("reinforce")
    data = tiny.recorded(PPO)[3]
    result = targets(config, data, gamma=0.9, lam=0.3)
    shaped = shaped_by_hand(config, data)
    close(result.advantages, gae_by_hand(shaped, data, 0.9, 1.0)[0], 1e-5, 1e-6)
    # λ = 1: the discounted return less the value, whitened by nobody.
    discounted = np.zeros_like(shaped)
    for t in range(tiny.NEW):
        later = 0.9 ** np.arange(tiny.NEW - t)
        discounted[:, t] = (shaped[:, t:] * later).sum(-1)
    valid = np.asarray(data.response_mask)
    expected = (discounted - np.asarray(data.values)) * valid
    close(result.advantages, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
@pytest.mark.parametrize("kl_in", ["reward", "loss"])
def test_group_advantages_compare_the_candidates_of_a_prompt(algorithm, kl_in):
    config = tiny.config(algorithm, kl_in=kl_in)
    data = tiny.recorded(RLOO)[3]
    result = targets(config, data)
    totals = shaped_by_hand(config, data).sum(-1)
    expected = np.zeros_like(totals)
    for first in range(0, len(totals), 2):
        pair = totals[first : first + 2]
        for k in (0, 1):
            other = pair[1 - k]
            if algorithm == "rloo":
                expected[first + k] = pair[k] - other
            else:
                std = pair.std(ddof=1) + 1e-4  # as TRL has it
                expected[first + k] = (pair[k] - pair.mean()) / std
    valid = np.asarray(data.response_mask)
    close(result.advantages, expected[:, None] * valid, rtol=1e-5, atol=1e-5)
    assert not result.returns.any()


@pytest.mark.parametrize("mode", ["rollout", "minibatch", "none"])
def test_advantages_are_whitened_over_the_rollout_or_later_or_never(mode):
    config = dataclasses.replace(PPO, whiten_advantages=mode)
    data = tiny.recorded(PPO)[3]
    result = targets(config, data, gamma=0.9, lam=0.6)
    plain, returns = gae_by_hand(shaped_by_hand(config, data), data, 0.9, 0.6)
    expected = tiny.whitened(plain, data.response_mask) if mode == "rollout" else plain
    close(result.advantages, expected, rtol=1e-5, atol=1e-5)
    close(result.returns, returns, rtol=1e-5, atol=1e-6)


def test_ppo_whitens_over_the_rollout_by_default():
    assert PPO.whitening == "rollout" and RLOO.whitening == "none"
    assert tiny.config("reinforce").whitening == "none"


def test_whitened_rewards_keep_their_mean():
    config = dataclasses.replace(PPO, whiten_rewards=True, whiten_advantages="none")
    data = tiny.recorded(PPO)[3]
    shaped = shaped_by_hand(config, data)
    valid = np.asarray(data.response_mask)
    inside = shaped[valid != 0]
    scaled = (tiny.whitened(shaped, valid) + inside.mean()) * valid
    result = targets(config, data, gamma=0.9, lam=0.6)
    close(result.advantages, gae_by_hand(scaled, data, 0.9, 0.6)[0], 1e-5, 1e-5)
