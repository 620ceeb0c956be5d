"""algorithms.unpaired: KTO on batches, its baseline of the whole minibatch."""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from checks import close

from rlhf_jax.algorithms import unpaired

ROWS, LENGTH, BETA = 4, 6, 0.3
DESIRABLE = np.array([1.0, 0.0, 0.0, 1.0], np.float32)
WEIGHTS = {"desirable_weight": 1.0, "undesirable_weight": 1.5}


def rows(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, tiny.VOCAB, (ROWS, LENGTH)).astype(np.int32)
    lengths = rng.integers(3, LENGTH + 1, ROWS)
    mask = (np.arange(LENGTH) < lengths[:, None]).astype(np.int32)
    return unpaired.Rows(tokens, mask, np.array([1, 2, 2, 1], np.int32))


DATA = unpaired.Batch(
    rows(0), rows(1), DESIRABLE, np.zeros((ROWS, 2)), np.zeros(ROWS, np.float32)
)


def by_hand(params, part):
    """Summed log-probs of the answers, token after token, in float64."""
    table = np.asarray(params["table"], np.float64)
    table = table - np.log(np.exp(table).sum(-1, keepdims=True))
    result = np.zeros(ROWS)
    for i in range(ROWS):
        for t in range(part.starts[i], LENGTH):
            if part.mask[i, t]:
                result[i] += table[part.tokens[i, t - 1], part.tokens[i, t]]
    return result


def batch():
    """The batch with a reference of which the policy's mismatches are likelier."""
    sides = [by_hand(tiny.policy_params(seed=1), part) for part in DATA[:2]]
    reference = np.stack([sides[0], sides[1] - 4.0], -1)
    return DATA._replace(reference=reference.astype(np.float32))


def update(params, part, count, micro_batches=1, axis_name=None):
    """What a step does: the baseline first, then the loss."""
    prepare = unpaired.make_baseline(tiny.BIGRAM)
    how = {"micro_batches": micro_batches, "axis_name": axis_name}
    part = prepare(params, part, **how)
    loss = unpaired.make_loss(tiny.BIGRAM, loss="kto", beta=BETA, **WEIGHTS)
    return jax.value_and_grad(loss, has_aux=True)(params, part, count)


def whole():
    count = unpaired.Count(jnp.float32(ROWS), jnp.float32(2))
    params = tiny.policy_params()
    return jax.jit(functools.partial(update, micro_batches=2))(params, batch(), count)


def test_the_loss_is_the_loop_over_answers():
    params, data = tiny.policy_params(), batch()
    sides = [by_hand(params, part) for part in DATA[:2]]
    kl = np.mean(sides[1] - data.reference[:, 1])
    assert kl > 0
    terms = []
    for label, policy, reference in zip(
        DESIRABLE, sides[0], data.reference[:, 0], strict=True
    ):
        gap = BETA * (policy - reference - kl) * (1 if label else -1)
        terms.append((1.0 if label else 1.5) * (1 - 1 / (1 + np.exp(-gap))))
    (total, metrics), _ = whole()
    close(total, np.mean(terms), 1e-5)
    close(metrics["kl"], kl, 1e-5)
    close(metrics["logps/chosen"], sides[0][DESIRABLE == 1].mean(), 1e-5)
    close(metrics["logps/rejected"], sides[0][DESIRABLE == 0].mean(), 1e-5)
    assert {*metrics} == {
        *("loss", "kl", "rewards/chosen", "rewards/rejected", "rewards/margins"),
        *("rewards/accuracies", "logps/chosen", "logps/rejected"),
    }


def test_devices_share_one_baseline():
    """Two devices, of which each alone would have another one, agree with one."""

    def device(part):
        count = jax.lax.psum(unpaired.count(part), checks.AXIS)
        found = update(tiny.policy_params(), part, count, axis_name=checks.AXIS)
        return jax.lax.psum(found, checks.AXIS)

    halves = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch())
    found = jax.jit(jax.vmap(device, axis_name=checks.AXIS))(halves)
    jax.tree.map(lambda x, y: close(x[0], y, 1e-5, 1e-6), found, whole())


def test_the_baseline_carries_no_gradient():
    """The gradient is that of a number in its place."""
    params, data = tiny.policy_params(), batch()
    kl = np.mean(by_hand(params, data.mismatched) - data.reference[:, 1])
    fixed = data._replace(baseline=np.full(ROWS, kl, np.float32))
    loss = unpaired.make_loss(tiny.BIGRAM, beta=BETA, **WEIGHTS)
    slope = jax.jit(jax.grad(loss, has_aux=True))(params, fixed, unpaired.count(fixed))
    close(slope[0]["table"], whole()[1]["table"], 1e-4, 1e-6)


def test_both_answers_are_read():
    params = tiny.policy_params()
    found = jax.jit(functools.partial(unpaired.both_logps, tiny.BIGRAM))(params, DATA)
    expected = [by_hand(params, part) for part in DATA[:2]]
    close(found, np.stack(expected, -1), 1e-5)


def test_values_out_of_range_are_refused():
    with pytest.raises(ValueError, match="beta=0: must be a number above 0"):
        unpaired.make_loss(None, beta=0)
    with pytest.raises(ValueError, match="nothing would be learned"):
        unpaired.make_loss(None, desirable_weight=0.0, undesirable_weight=0.0)
