"""policy_gradient: named methods are combinations of settings, exact in any parts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from checks import close, same

from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.algorithms.policy_gradient import (
    collect,
    groups,
    objective,
    update,
    variants,
)

GRPO = tiny.config("grpo", epochs=1, minibatches=1)
ROWS = 2 * tiny.ROWS  # two candidates of every prompt

# What each method is, in flags: (method, loss, scale, ratio, KL, ε, ε upwards).
COMBINATIONS = [
    ("grpo", "grpo", "group", "token", "loss", 0.2, 0.2),
    ("dr_grpo", "dr_grpo", "none", "token", "none", 0.2, 0.2),
    ("dapo", "dapo", "group", "token", "none", 0.2, 0.28),
    ("gspo", "grpo", "group", "sequence", "none", 3e-4, 4e-4),
    ("reinforce_plus_plus_baseline", "bnpo", "none", "token", "loss", 0.2, 0.2),
]


@pytest.mark.parametrize(
    ("name", "loss", "scale", "level", "kl_in", "low", "high"), COMBINATIONS
)
def test_a_method_is_grpo_with_other_settings(
    name, loss, scale, level, kl_in, low, high
):
    """The same targets, weights and loss, whichever way it is asked for."""
    named = dataclasses.replace(GRPO, algorithm=name)
    spelled = dataclasses.replace(
        GRPO,
        loss_type=loss,
        scale_rewards=scale,
        importance_sampling_level=level,
        kl_in=kl_in,
        whiten_advantages=named.whitening,
    )
    same(*(loss_of(c, h) for c, h in ((named, {}), (spelled, clips(low, high)))))
    assert variants.clips(named.variant, tiny.HYPER) == (low, high)


def clips(low, high):
    return {"clip": low, "clip_high": high}


@functools.cache
def example():
    """A rollout of weights that have moved on since, cut off here and there."""
    state, *_, data = tiny.recorded(GRPO)
    assert 0 < np.asarray(data.ended).sum() < ROWS
    return data, data.logps + 0.3 * jax.random.normal(
        jax.random.key(0), data.logps.shape
    )


def sampled(config, data=None, **hyper):
    data = example()[0] if data is None else data
    targets = policy_gradient.targets(data, 0.3, tiny.traced(**hyper), config=config)
    sample = objective.Sample(data, targets)
    return groups.without_truncated(sample, config)


def loss_of(config, hyper=(), part=None, count=None, logps=None):
    """(loss, metrics), gradient of a minibatch of all rows, or of a part of it."""
    hyper = tiny.traced(**dict(hyper))
    if part is None:
        sample, order = sampled(config), np.arange(ROWS)
        part, count = update.share(sample, order, config=config, axis_name=None)
    scale = objective.Scale(hyper, jnp.float32(0.3))
    logps = example()[1] if logps is None else logps
    loss = functools.partial(
        objective.policy, sample=part, scale=scale, config=config, count=count
    )
    return jax.value_and_grad(loss, has_aux=True)(logps)


@pytest.mark.parametrize(
    ("loss_type", "level"),
    [(name, "token") for name in variants.AVERAGE] + [("grpo", "sequence")],
)
def test_micro_batches_and_devices_add_up_to_the_whole(loss_type, level):
    """Averages are taken over a minibatch before anything is cut out of it."""
    config = dataclasses.replace(
        GRPO, loss_type=loss_type, importance_sampling_level=level
    )
    (whole, metrics), gradient = loss_of(config)
    sample, order = sampled(config), np.arange(ROWS)
    logps = example()[1]
    part, count = update.share(sample, order, config=config, axis_name=None)
    halves = [slice(0, ROWS // 2), slice(ROWS // 2, ROWS)]
    micro = [
        loss_of(config, (), jax.tree.map(lambda x, h=h: x[h], part), count, logps[h])
        for h in halves
    ]

    def device(logps):
        part, count = update.share(sample, order, config=config, axis_name="rows")
        return loss_of(config, (), part, count, logps)

    shared = jax.vmap(device, axis_name="rows")(logps.reshape(2, ROWS // 2, -1))
    devices = [jax.tree.map(lambda x, i=i: x[i], shared) for i in (0, 1)]
    for parts in (micro, devices):
        close(sum(value for (value, _), _ in parts), whole, rtol=1e-5, atol=1e-7)
        joined = np.concatenate([grad for _, grad in parts])
        close(joined, gradient, rtol=1e-5, atol=1e-7)
        for name in ("ratio", "approxkl", "clipfrac"):
            total = sum(named[name] for (_, named), _ in parts)
            close(total, metrics[name], rtol=1e-5, atol=1e-7)


def test_an_iteration_in_micro_batches_is_an_iteration():
    hyper = tiny.HYPER._replace(learning_rate=0.05)
    config = tiny.config("dr_grpo", epochs=1, minibatches=2)
    parts = dataclasses.replace(config, micro_batches=2)
    (_, whole), (named,) = tiny.run(config, 1, hyper)
    (_, cut), _ = tiny.run(parts, 1, hyper)
    for x, y in zip(
        *(jax.tree.leaves(s.learner.params) for s in (whole, cut)), strict=True
    ):
        close(x, y, rtol=1e-5, atol=1e-6)
    assert named["objective/kl_coef"] == 0 and 0 <= named["reward/zero_std"] <= 1


def test_truncated_responses_carry_no_loss_but_their_scores_count():
    config = dataclasses.replace(GRPO, mask_truncated_completions=True)
    data, logps = example()
    _, gradient = loss_of(config)
    ended = np.asarray(data.ended)
    assert not np.asarray(gradient)[~ended].any()
    assert np.asarray(gradient)[ended].any()
    same(sampled(config).targets, sampled(GRPO).targets)
    part, count = update.share(
        sampled(config), np.arange(ROWS), config=config, axis_name=None
    )
    kept = np.asarray(data.response_mask) * ended[:, None]
    assert count == kept.sum() < np.asarray(data.response_mask).sum()
    close(part.weights, kept / (ROWS * np.maximum(kept.sum(-1, keepdims=True), 1)))


def test_responses_pay_for_the_last_tokens_before_the_limit():
    _, drawn, scores, _ = tiny.recorded(GRPO)
    paid = collect.paid(scores, drawn, tiny.HYPER._replace(soft_punish_cache=2), GRPO)
    lengths = np.asarray(drawn.response_mask).sum(-1)
    expected = np.clip((tiny.NEW - 2 - lengths) / 2, -1, 0)
    close(paid, scores + expected)
    assert -1 in expected and 0 in expected
    same(collect.paid(scores, drawn, tiny.HYPER, GRPO), jnp.asarray(scores))


def test_reinforce_plus_plus_whitens_returns_over_the_batch():
    config = tiny.config("reinforce_plus_plus")
    data = tiny.recorded(tiny.config())[3]
    hyper = tiny.traced(gamma=0.9)
    result = policy_gradient.targets(data, 0.3, hyper, config=config)
    valid = np.asarray(data.response_mask)
    gap = np.asarray(data.logps, np.float64) - np.asarray(data.reference_logps)
    paid = -0.3 * gap * valid
    paid[np.arange(tiny.ROWS), valid.sum(-1) - 1] += np.asarray(data.scores)
    returns = np.zeros_like(paid)
    for t in range(tiny.NEW):
        returns[:, t] = (paid[:, t:] * 0.9 ** np.arange(tiny.NEW - t)).sum(-1)
    expected = tiny.whitened(returns * valid, valid)
    close(result.advantages, expected, rtol=1e-5, atol=1e-5)
    assert not config.learns_value and config.penalty_in == "reward"


# Dynamic sampling.

TWICE = dataclasses.replace(GRPO, dynamic_sampling=2)


def drawn():
    """A rollout of 8 groups of 2, of which those with an odd number have a signal."""
    _, rollout, *_ = tiny.recorded(GRPO)
    pairs = np.arange(ROWS) // 2
    scores = pairs + 0.5 * (pairs % 2) * (np.arange(ROWS) % 2)
    return rollout, jnp.asarray(scores, jnp.float32)


def test_groups_with_a_signal_go_first_in_the_order_drawn():
    rollout, scores = drawn()
    kept, paid, named = groups.select(rollout, scores, tiny.HYPER, config=TWICE)
    rows = [2, 3, 6, 7, 10, 11, 14, 15]
    same(paid, scores[jnp.array(rows)])
    same(kept, jax.tree.map(lambda x: x[jnp.array(rows)], rollout))
    assert named == {"reward/zero_std_drawn": 0.5}
    few = jnp.where(jnp.arange(ROWS) < 12, 1.0, scores)  # one group has a signal
    _, paid, named = groups.select(rollout, few, tiny.HYPER, config=TWICE)
    close(paid, [7, 7.5, 1, 1, 1, 1, 1, 1])
    assert named == {"reward/zero_std_drawn": 0.875}


def test_devices_keep_the_groups_that_one_would():
    rollout, scores = drawn()
    whole = groups.select(rollout, scores, tiny.HYPER, config=TWICE)
    halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), (rollout, scores))
    shared = jax.vmap(
        lambda given: groups.select(*given, tiny.HYPER, config=TWICE, axis_name="rows"),
        axis_name="rows",
    )(halves)
    joined = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), shared[:2])
    same(joined, whole[:2])
    close(shared[2]["reward/zero_std_drawn"], [0.5, 0.5])


def test_an_iteration_learns_from_half_of_what_it_draws():
    state, (_, scores), named = tiny.iteration(TWICE)(
        tiny.start(TWICE), tiny.FROZEN, tiny.batch(), tiny.traced()
    )
    groups_of = np.asarray(scores).reshape(-1, 2)
    flat = groups_of[:, 0] == groups_of[:, 1]
    assert len(flat) == tiny.ROWS and 0 < flat.sum()
    close(named["reward/zero_std_drawn"], flat.mean())
    first = np.argsort(flat, kind="stable")[: tiny.ROWS // 2]
    close(named["objective/scores"], groups_of[first].mean())
    close(named["reward/zero_std"], flat[first].mean())
    assert named["reward/zero_std"] < named["reward/zero_std_drawn"]
    assert int(state.learner.updates) == 1


def test_methods_without_groups_draw_what_they_learn_from():
    config = tiny.config("ppo", dynamic_sampling=3)
    assert config.oversampling == 1
    rollout, scores = drawn()
    same(
        groups.select(rollout, scores, tiny.HYPER, config=config)[:2], (rollout, scores)
    )
    assert groups.describe(example()[0], config) == {}


# What cannot be.


@pytest.mark.parametrize(
    "changes",
    [
        {"loss_type": "dr_grpo"},
        {"loss_type": "dapo", "importance_sampling_level": "sequence"},
        {"loss_type": "vespo"},
        {},
    ],
)
def test_losses_of_whole_responses_want_whole_responses(changes):
    with pytest.raises(ValueError, match="minibatch_of='tokens': it is of whole"):
        tiny.config("grpo", minibatch_of="tokens", **changes)
    tiny.config("grpo", minibatch_of="tokens", loss_type="dapo")


def test_responses_that_cannot_end_cannot_be_told_from_truncated_ones():
    with pytest.raises(ValueError, match="without end tokens every response"):
        tiny.config("grpo", (("eos_ids", ()),), mask_truncated_completions=True)
