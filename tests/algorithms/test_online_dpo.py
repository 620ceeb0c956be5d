"""Online DPO: pairs of fresh samples, labelled by their scores."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from checks import close

from rlhf_jax import masking
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.algorithms.policy_gradient import objective, update

COEF, PAIRS = 0.2, tiny.ROWS  # two samples of every prompt
WHOLE = tiny.config("online_dpo", epochs=1, minibatches=1)


def example(config=WHOLE):
    state, *_, data = tiny.recorded(config)
    targets = policy_gradient.targets(data, COEF, tiny.traced(), config=config)
    params = tiny.shake(state.learner.params, 7, size=0.5)
    return params, objective.Sample(data, targets)


def ours(params, sample, config=WHOLE, count=PAIRS):
    scale = objective.Scale(tiny.traced(), jnp.float32(COEF))
    loss = update.make_loss(networks=tiny.networks(config), config=config, scale=scale)
    return loss(params, sample, count)


def test_the_loss_is_dpo_of_summed_log_probs_with_the_kl_coefficient():
    params, sample = example()
    logps = tiny.logps_by_hand(params["policy"]["table"], sample.data).sum(-1)
    reference = np.asarray(sample.data.reference_logps).sum(-1)
    scores = np.asarray(sample.data.scores).reshape(-1, 2)
    gap = COEF * (logps - reference).reshape(-1, 2)
    sign = np.sign(scores[:, 0] - scores[:, 1])
    expected = np.log1p(np.exp(-sign * (gap[:, 0] - gap[:, 1]))).mean()
    value, metrics = ours(params, sample)
    close(value, expected, rtol=1e-5)
    close(metrics["accuracies"], np.mean(sign * (gap[:, 0] - gap[:, 1]) > 0))


def test_its_gradient_at_the_reference_is_half_of_beta_times_the_difference():
    """σ(0) = ½: −½β (∇log π(better) − ∇log π(worse)), averaged over pairs."""
    _, sample = example()
    data = sample.data
    params = tiny.params(WHOLE)
    table = params["policy"]
    at_reference = data._replace(
        reference_logps=jnp.asarray(
            tiny.logps_by_hand(table["table"], data), jnp.float32
        )
    )
    sample = sample._replace(data=at_reference)
    grad = jax.grad(lambda p: ours(p, sample)[0])(params)["policy"]["table"]
    sign = 2 * np.asarray(sample.targets.advantages)[:, 0] - 1

    def weighted(table):
        logits = table[data.tokens[:, tiny.PROMPT - 1 : -1]]
        logps = jax.nn.log_softmax(logits)
        taken = jnp.take_along_axis(logps, data.tokens[:, tiny.PROMPT :, None], -1)
        sums = masking.zero(taken[..., 0], data.response_mask).sum(-1)
        return -(COEF / 2) * (sign * sums).sum() / PAIRS

    close(grad, jax.grad(weighted)(table["table"]), rtol=1e-5, atol=1e-7)


def test_a_tie_prefers_neither():
    params, sample = example()
    data = sample.data._replace(scores=jnp.zeros(2 * PAIRS))
    targets = policy_gradient.targets(data, COEF, tiny.traced(), config=WHOLE)
    first = np.asarray(data.response_mask)[:, 0] != 0
    np.testing.assert_array_equal(np.asarray(targets.advantages)[first, 0], 0.5)
    value, _ = ours(params, objective.Sample(data, targets))
    swapped = jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:])[:, ::-1], data)
    swapped = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), swapped)
    close(ours(params, objective.Sample(swapped, targets))[0], value, rtol=1e-6)


def test_only_the_order_of_scores_counts():
    """Not their size, and no KL penalty that a score could be shaped by."""
    _, sample = example()
    data = sample.data._replace(scores=3 * sample.data.scores + 1)
    for coef in (0.0, 5.0):
        again = policy_gradient.targets(data, coef, tiny.traced(), config=WHOLE)
        np.testing.assert_array_equal(again.advantages, sample.targets.advantages)


def test_minibatches_keep_pairs_together():
    config = tiny.config("online_dpo", epochs=3, minibatches=2)
    order = update.orders(tiny.start(config), 2 * PAIRS, config=config)
    pairs = np.asarray(order).reshape(3, -1, 2)
    np.testing.assert_array_equal(pairs[..., 1], pairs[..., 0] + 1)
    np.testing.assert_array_equal(pairs[..., 0] % 2, 0)
    every = np.sort(pairs[..., 0].reshape(3, -1))
    np.testing.assert_array_equal(every, [2 * np.arange(PAIRS)] * 3)


def test_micro_batches_add_up_to_the_gradient_of_the_whole():
    hyper, whole = tiny.traced(), WHOLE
    parts = tiny.config("online_dpo", epochs=1, minibatches=1, micro_batches=2)
    states = [
        tiny.iteration(config)(tiny.start(config), tiny.FROZEN, tiny.batch(), hyper)[0]
        for config in (whole, parts)
    ]
    for x, y in zip(*(jax.tree.leaves(s.learner.params) for s in states), strict=True):
        close(x, y, rtol=1e-5, atol=1e-7)


def test_devices_give_the_update_of_one():
    """pmap over 2 devices of 4 rows: the same weights after an iteration."""
    config = tiny.config("online_dpo", epochs=1, minibatches=1)
    hyper, batch, devices = tiny.traced(), tiny.batch(), jax.devices()[:2]
    alone = tiny.iteration(config)(tiny.start(config), tiny.FROZEN, batch, hyper)[0]
    step = jax.pmap(
        lambda state, batch: policy_gradient.iteration(
            state, tiny.FROZEN, batch, hyper, score=tiny.score, axis_name="data",
            **tiny.fixed(config),
        )[0],
        axis_name="data", in_axes=(None, 0), out_axes=None, devices=devices,
    )  # fmt: skip
    halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)
    shared = step(tiny.start(config), halves)
    for x, y in zip(
        *(jax.tree.leaves(s.learner.params) for s in (alone, shared)), strict=True
    ):
        close(x, y, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"candidates": 3}, "pairs"),
        ({"minibatch_of": "tokens"}, "whole responses"),
        ({"early_stop": True}, "without a ratio"),
    ],
)
def test_what_it_cannot_do_is_refused(changes, why):
    with pytest.raises(ValueError, match=why):
        tiny.config("online_dpo", **changes)
