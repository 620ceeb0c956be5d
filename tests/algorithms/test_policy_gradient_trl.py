"""policy_gradient: GRPO's variants are those of TRL, on TRL's own numbers.

`golden/make_grpo.py` ran TRL's loss; here an update's share of rows and its loss are
taken as `update` takes them, without the network.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from checks import close
from golden import make_grpo as golden

from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.algorithms.policy_gradient import objective, update

CASES = golden.cases()
SHAPE = golden.ROWS, golden.TOKENS


@functools.cache
def kept():
    with np.load(golden.FILE) as file:
        return dict(file)


def config(loss_type="grpo", level="token", **changes):
    return policy_gradient.Config(
        sampling=tiny.sampler(max_new_tokens=golden.TOKENS),
        algorithm="grpo",
        candidates=golden.GROUP,
        loss_type=loss_type,
        importance_sampling_level=level,
        **{"minibatches": 1, **changes},
    )


@functools.cache
def experience():
    given = kept()
    return policy_gradient.Experience(
        tokens=jnp.zeros(SHAPE, jnp.int32),
        mask=jnp.ones(SHAPE, jnp.int32),
        response_mask=jnp.asarray(given["mask"]),
        logps=jnp.asarray(given["old_logps"]),
        reference_logps=jnp.asarray(given["reference_logps"]),
        values=jnp.zeros(SHAPE),
        scores=jnp.asarray(given["rewards"]),
        ended=jnp.asarray(given["mask"])[:, -1] == 0,
    )


@functools.cache
def advantages(scale):
    static = config(scale_rewards=scale)
    hyper = policy_gradient.Hyper()
    return policy_gradient.targets(experience(), 0.0, hyper, config=static).advantages


def ours(static, advantages, high, delta, beta, rows):
    """(loss, gradient [B, T]) of an update on some rows."""
    targets = policy_gradient.Targets(advantages, jnp.zeros(SHAPE))
    sample = objective.Sample(experience(), targets)
    part, count = update.share(sample, rows, config=static, axis_name=None)
    hyper = policy_gradient.Hyper(clip=golden.EPSILON, clip_high=high, delta=delta)

    def loss(logps):
        scale = objective.Scale(hyper, beta)
        return objective.policy(logps, part, scale, static, count)[0]

    return jax.value_and_grad(loss)(jnp.asarray(kept()["logps"])[rows])


@pytest.mark.parametrize("scale", golden.SCALES)
def test_advantages_are_those_of_trl(scale):
    valid = kept()["mask"]
    expected = kept()[f"advantages_{scale}"][:, None] * valid
    close(advantages(scale), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("level", golden.LEVELS)
@pytest.mark.parametrize("loss_type", golden.LOSSES)
def test_loss_and_gradient_are_those_of_trl(loss_type, level):
    """Every scale of rewards, clip, bound and β of a loss, as one batch of numbers."""
    for correction in (False, True):
        chosen = [
            number
            for number, case in enumerate(CASES)
            if (case[0], case[1], case[-1]) == (loss_type, level, correction)
        ]
        numbers = [
            (advantages(scale), high or golden.EPSILON, delta or np.inf, beta)
            for *_, scale, high, delta, beta, _ in (CASES[i] for i in chosen)
        ]
        static = config(loss_type, level, use_bias_correction_kl=correction)
        every = jax.vmap(functools.partial(ours, static), in_axes=(0, 0, 0, 0, None))
        columns = [jnp.stack(x) for x in zip(*numbers, strict=True)]
        value, gradient = every(*columns, np.arange(golden.ROWS))
        close(value, kept()["losses"][chosen], rtol=1e-5, atol=1e-6)
        close(gradient, kept()["gradients"][chosen], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss_type", golden.LOSSES)
def test_one_of_two_updates_on_a_rollout_is_that_of_trl(loss_type):
    """dapo, cispo and vespo divide by the tokens of the rollout, not of the update."""
    number, static = golden.LOSSES.index(loss_type), config(loss_type, minibatches=2)
    rows, high = np.arange(golden.GROUP), golden.EPSILON
    value, gradient = ours(static, advantages("group"), high, np.inf, 0.0, rows)
    close(value, kept()["half_losses"][number], rtol=1e-5, atol=1e-6)
    close(gradient, kept()["half_gradients"][number], rtol=1e-5, atol=1e-6)


def test_the_cases_tell_the_settings_apart():
    """Else the tests above would not see them."""
    every = kept()["losses"].reshape(
        *(len(x) for x in (golden.LOSSES, golden.LEVELS, golden.SCALES)), -1
    )
    for axis in range(3):
        first = every.take(0, axis)
        others = [every.take(i, axis) for i in range(1, every.shape[axis])]
        for other in others:
            assert np.abs(other - first).max() > 1e-3
    clip, high, bound, kl, correction = np.moveaxis(every, -1, 0)
    gradients = kept()["gradients"].reshape(*every.shape, *SHAPE)
    assert (clip != high).any() and (high != kl).any() and (kl != correction).any()
    assert (high != bound).any() and (gradients[..., 1, :, :] == 0).any()
