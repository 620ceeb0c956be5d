"""policy_gradient: dealt-out tokens, RL4LMs' controller, other clocks and penalties.

Most of them are values of one program; `rsf` and dealt-out tokens are programs.
"""

import dataclasses
import functools

import checks
import chex
import jax
import numpy as np
import pytest
import tiny
from checks import close

from rlhf_jax import ema, kl
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.algorithms.policy_gradient import objective, update
from rlhf_jax.runtime import parallel

PPO = tiny.config()
TOKENS = tiny.config(minibatch_of="tokens", minibatches=3, whiten_advantages="none")
HYPER = tiny.HYPER


# Minibatches of tokens.


def dealt(**changes):
    config = dataclasses.replace(TOKENS, **changes)
    state, drawn, *_ = tiny.recorded(PPO)
    result = update.deals(state, drawn.response_mask, config=config)
    return np.asarray(result), np.asarray(drawn.response_mask)


def test_every_epoch_deals_every_valid_token_once_and_evenly():
    result, valid = dealt()
    assert result.shape == (2, 3, *valid.shape)
    for epoch in result:
        np.testing.assert_array_equal(epoch.sum(0), valid)
        sizes = epoch.sum((1, 2))
        assert sizes.max() - sizes.min() <= 1
    assert (result[0] != result[1]).any()


def test_surplus_tokens_are_dropped_from_the_end():
    """RL4LMs fills a buffer of so many transitions, response after response."""
    result, valid = dealt(transitions=9)
    flat = valid.ravel()
    kept = (flat * (np.cumsum(flat) <= 9)).reshape(valid.shape)
    assert kept.sum() == 9 < valid.sum()
    for epoch in result:
        np.testing.assert_array_equal(epoch.sum(0), kept)
        assert list(epoch.sum((1, 2))) == [3, 3, 3]


def test_other_iterations_deal_otherwise():
    state, drawn, *_ = tiny.recorded(PPO)
    later = state._replace(iteration=state.iteration + 1)
    again = update.deals(later, drawn.response_mask, config=TOKENS)
    assert (np.asarray(again) != dealt()[0]).any()


@pytest.mark.parametrize("mode", ["none", "minibatch"])
def test_a_minibatch_of_tokens_is_all_rows_and_some_tokens(mode):
    config = dataclasses.replace(TOKENS, whiten_advantages=mode)
    state, *_, data = tiny.recorded(PPO)
    targets = policy_gradient.targets(data, 0.3, tiny.traced(), config=config)
    sample = objective.Sample(data, targets)
    order = update.deals(state, data.response_mask, config=config)[0, 1]
    part, count = update.share(sample, order, config=config, axis_name=None)
    checks.same(part.data.tokens, data.tokens)
    np.testing.assert_array_equal(part.data.response_mask, order)
    assert count == order.sum()
    expected = np.asarray(targets.advantages)
    if mode == "minibatch":
        expected = tiny.whitened(expected, order)
        close(part.targets.advantages, expected, rtol=1e-5, atol=1e-5)
    else:
        checks.same(part.targets.advantages, targets.advantages)


def test_one_minibatch_of_all_tokens_is_one_of_all_rows():
    rows = dataclasses.replace(PPO, minibatches=1, epochs=1)
    tokens = dataclasses.replace(rows, minibatch_of="tokens")
    (_, by_rows), _ = tiny.run(rows, 1)
    (_, by_tokens), _ = tiny.run(tokens, 1)
    jax.tree.map(
        lambda x, y: close(x, y, rtol=1e-5, atol=1e-6),
        by_tokens.learner.params,
        by_rows.learner.params,
    )


def test_transitions_want_minibatches_of_tokens():
    with pytest.raises(ValueError, match="transitions=9 and minibatch_of='rows'"):
        tiny.config(transitions=9)


# Values of the one program.


@functools.cache
def run(hyper, iterations=3):
    return tiny.run(PPO, iterations, hyper)


def test_the_defaults_of_the_new_values_are_what_there_was():
    """Spelled out, they leave every bit as it was."""
    plain = HYPER._replace(
        kl_proportional=False,
        chi2_weight=0.0,
        reward_bound=float("inf"),
        tick_every=1,
    )
    assert plain == HYPER


def test_the_proportional_controller_reads_nats_a_token_whatever_the_horizon():
    hyper = HYPER._replace(kl_proportional=True, kl_target=0.02, kl_horizon=1.0)
    states, metrics = run(hyper)
    for before, after, named in zip(states, states[1:], metrics, strict=False):
        expected = kl.proportional(
            before.controller, named["objective/kl_token"], target=0.02
        )
        checks.same(after.controller, expected)
    named, rows = metrics[1], tiny.ROWS
    tokens = named["response/length"] * rows
    close(named["objective/kl_token"], named["objective/kl"] * rows / tokens, 1e-5)
    assert states[-1].controller.coef != states[0].controller.coef


@pytest.mark.parametrize("decay", [0.0, 0.25])
def test_a_reference_that_moves_every_so_often(decay):
    """TR-DPO's: θ̄ ← d·θ̄ + (1 − d)·θ every n iterations; d = 0 is a hard update."""
    states, _ = run(HYPER._replace(tick_every=2, decay=decay), 5)
    for number, (before, after) in enumerate(zip(states, states[1:], strict=False)):
        expected = before.elastic.average
        if number in (2, 4):
            policy = after.learner.params["policy"]
            expected = ema.update(expected, policy, decay=decay)
        close(after.elastic.average["table"], expected["table"])
        if number not in (2, 4):
            checks.same(after.elastic.average, before.elastic.average)


def test_a_bounded_reward_is_learned_from_and_not_shown():
    data = tiny.recorded(PPO)[3]
    config = dataclasses.replace(PPO, whiten_advantages="none")
    result = policy_gradient.targets(
        data, 0.0, tiny.traced(reward_bound=0.5, lam=1.0), config=config
    )
    last = np.asarray(data.response_mask).sum(-1) - 1
    paid = np.asarray(result.returns)[np.arange(tiny.ROWS), last]
    close(paid, 0.5 * np.tanh(np.asarray(data.scores) / 0.5), rtol=1e-5, atol=1e-6)
    plain, bounded = run(HYPER), run(HYPER._replace(reward_bound=0.5))
    shown = [named[0]["objective/scores"] for _, named in (plain, bounded)]
    assert shown[0] == shown[1] > 0.5
    tables = [
        states[1].learner.params["policy"]["table"] for states, _ in (plain, bounded)
    ]
    assert (tables[0] != tables[1]).any()


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_chi_square_in_place_of_kl(weight):
    data = tiny.recorded(PPO)[3]
    config = dataclasses.replace(PPO, whiten_advantages="none")
    result = policy_gradient.targets(
        data,
        0.3,
        tiny.traced(chi2_weight=weight, lam=1.0, gamma=0.0),
        config=config,
    )
    gap = np.asarray(data.logps, np.float64) - np.asarray(data.reference_logps)
    penalty = (1 - weight) * gap + weight * np.expm1(gap)
    valid = np.asarray(data.response_mask)
    expected = -0.3 * penalty * valid
    last = valid.sum(-1) - 1
    expected[np.arange(tiny.ROWS), last] += np.asarray(data.scores)
    close(result.returns, expected, rtol=1e-5, atol=1e-5)


# Rejection sampling fine-tuning.


def test_rsf_learns_from_the_best_of_each_prompt_alone():
    config = tiny.config("rsf")
    data = tiny.recorded(tiny.config("rloo"))[3]
    result = policy_gradient.targets(data, 0.0, tiny.traced(), config=config)
    scores = np.asarray(data.scores).reshape(-1, 2)
    best = 2.0 * (np.arange(2) == scores.argmax(-1)[:, None]).reshape(-1, 1)
    valid = np.asarray(data.response_mask)
    np.testing.assert_array_equal(result.advantages, best * valid)
    assert not config.learns_value and config.whitening == "none"


def test_rsf_is_likelihood_of_the_best():
    """One update of one minibatch: the gradient of their NLL, K times."""
    config = tiny.config("rsf", epochs=1, minibatches=1)
    state, drawn, _, data = tiny.recorded(config)
    targets = policy_gradient.targets(data, 0.0, tiny.traced(), config=config)
    scale = objective.Scale(tiny.traced(), 0.0)
    loss = update.make_loss(networks=tiny.networks(config), config=config, scale=scale)
    count = data.response_mask.sum()
    params = state.learner.params
    sample = objective.Sample(data, targets)
    value, _ = loss(params, sample, count)
    logps = tiny.logps_by_hand(params["policy"]["table"], drawn).sum(-1)
    best = np.asarray(targets.advantages)[:, 0] > 0
    close(value, -2 * logps[best].sum() / float(count), rtol=1e-5)


def test_rsf_needs_candidates():
    with pytest.raises(ValueError, match="rsf.*candidates=1: it compares"):
        tiny.config("rsf", candidates=1)


# Early stopping.

STOPS = tiny.config(epochs=3, minibatches=1, tick="epoch", early_stop=True)


def after(config, limit):
    """(state, metrics) after one iteration."""
    hyper = HYPER._replace(learning_rate=0.05, stop_kl=limit)
    states, metrics = tiny.run(config, 1, hyper)
    return states[1], metrics[0]


def test_a_limit_that_is_never_reached_changes_nothing():
    state, metrics = after(STOPS, float("inf"))
    plain, usual = after(dataclasses.replace(STOPS, early_stop=False), float("inf"))
    chex.assert_trees_all_close(state.learner.params, plain.learner.params, rtol=1e-6)
    chex.assert_trees_all_close(state.elastic.average, plain.elastic.average, rtol=1e-6)
    assert metrics.pop("policy/passes") == 3
    close(*(np.array([m[k] for k in usual]) for m in (metrics, usual)), rtol=1e-6)


def test_passes_after_one_that_went_too_far_are_left_out():
    """The pass that is too long counts; the average has ticked as often as passes."""
    first, _ = after(STOPS, float("inf"))
    for limit, passes in ((-1.0, 1), (1e-9, 2)):  # a first update starts at distance 0
        state, metrics = after(STOPS, limit)
        assert metrics["policy/passes"] == passes == int(state.elastic.ticks)
        assert int(state.learner.updates) == passes < int(first.learner.updates)
        assert all(np.isfinite(value) for value in metrics.values())
    alone, _ = after(dataclasses.replace(STOPS, epochs=1, early_stop=False), 0.0)
    chex.assert_trees_all_close(
        after(STOPS, -1.0)[0].learner.params, alone.learner.params, rtol=1e-6
    )


def test_devices_stop_after_the_same_pass():
    """The distance that stops is that of all rows, not of a device's share."""
    state, drawn, scores, _ = tiny.recorded(STOPS)
    learn = functools.partial(policy_gradient.learn, **tiny.fixed(STOPS))
    layout = parallel.data(2)
    alone, shared = jax.jit(learn), layout.compile(learn, rows_in=(1, 2))
    rows = layout.shard_rows(jax.device_get((drawn, scores)))

    def limited(limit):
        return tiny.traced(HYPER._replace(learning_rate=0.05, stop_kl=limit))

    low, high = 1e-9, 10.0  # around the distance after two passes
    for _ in range(20):
        limit = (low * high) ** 0.5
        passes = alone(state, drawn, scores, limited(limit))[1]["policy/passes"]
        low, high = (limit, high) if passes == 2 else (low, limit)
    for limit, passes in ((0.99 * low, 2), (1.01 * high, 3)):
        whole, metrics = alone(state, drawn, scores, limited(limit))
        result, named = shared(state, *rows, limited(limit))
        assert named["policy/passes"] == metrics["policy/passes"] == passes
        for x, y in zip(
            jax.tree.leaves(result.learner), jax.tree.leaves(whole.learner), strict=True
        ):
            close(x, y, rtol=1e-5, atol=1e-5)
        for name in metrics:
            close(named[name], metrics[name], rtol=1e-4, atol=1e-5)
