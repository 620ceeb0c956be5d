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
KINDS = [
    (loss_type, level, correction)
    for loss_type in golden.LOSSES
    for level in golden.LEVELS
    for correction in (False, True)
]
FIRST = np.arange(golden.GROUP)  # the rows of the first of two updates


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


def ours(static, rows, advantages, high, delta, threshold, beta):
    """(loss, gradient [B, T]) of an update on some rows."""
    targets = policy_gradient.Targets(advantages, jnp.zeros(SHAPE))
    sample = objective.Sample(experience(), targets)
    part, count = update.share(sample, rows, config=static, axis_name=None)
    hyper = policy_gradient.Hyper(
        clip=golden.EPSILON,
        clip_high=high,
        delta=delta,
        off_policy_mask_threshold=threshold,
    )

    def loss(logps):
        scale = objective.Scale(hyper, beta)
        return objective.policy(logps, part, scale, static, count)[0]

    return jax.value_and_grad(loss)(jnp.asarray(kept()["logps"])[rows])


@pytest.mark.parametrize("scale", golden.SCALES)
def test_advantages_are_those_of_trl(scale):
    valid = kept()["mask"]
    expected = kept()[f"advantages_{scale}"][:, None] * valid
    close(advantages(scale), expected, rtol=1e-5, atol=1e-6)


@functools.cache
def every():
    """(loss, gradient) of every kind, and of halves: all of them in one program."""

    def compute(numbers, half):
        made = {
            (loss_type, level, correction): jax.vmap(
                functools.partial(
                    ours,
                    config(loss_type, level, use_bias_correction_kl=correction),
                    np.arange(golden.ROWS),
                )
            )(*numbers[correction])
            for loss_type, level, correction in KINDS
        }
        halves = {
            loss_type: ours(config(loss_type, minibatches=2), FIRST, *half)
            for loss_type in golden.LOSSES
        }
        return made, halves

    half = advantages("group"), golden.EPSILON, np.inf, np.inf, 0.0
    return jax.jit(compute)({c: columns(c) for c in (False, True)}, half)


def columns(correction):
    """The numbers of the cases of a loss and level, the same for each of them."""
    numbers = [
        (advantages(scale), high or golden.EPSILON, *bounds(*limits), beta)
        for _, _, scale, high, *limits, beta, corrected in CASES[: len(CASES) // 16]
        if corrected == correction
    ]
    return [jnp.stack(x) for x in zip(*numbers, strict=True)]


def bounds(*limits):
    """What is None in TRL is inf here."""
    return [np.inf if limit is None else limit for limit in limits]


@pytest.mark.parametrize(("loss_type", "level", "correction"), KINDS)
def test_loss_and_gradient_are_those_of_trl(loss_type, level, correction):
    """For every scale of rewards, clip, bound and β."""
    kind = loss_type, level, correction
    chosen = [i for i, case in enumerate(CASES) if (*case[:2], case[-1]) == kind]
    value, gradient = every()[0][kind]
    close(value, kept()["losses"][chosen], rtol=1e-5, atol=1e-6)
    close(gradient, kept()["gradients"][chosen], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss_type", golden.LOSSES)
def test_one_of_two_updates_on_a_rollout_is_that_of_trl(loss_type):
    """dapo, cispo and vespo divide by the tokens of the rollout, not of the update."""
    number = golden.LOSSES.index(loss_type)
    value, gradient = every()[1][loss_type]
    close(value, kept()["half_losses"][number], rtol=1e-5, atol=1e-6)
    close(gradient, kept()["half_gradients"][number], rtol=1e-5, atol=1e-6)


def test_every_setting_changes_some_case():
    """Else the tests above would not see them."""
    every = kept()["losses"].reshape(
        *(len(x) for x in (golden.LOSSES, golden.LEVELS, golden.SCALES)), -1
    )
    for axis in range(3):
        first = every.take(0, axis)
        others = [every.take(i, axis) for i in range(1, every.shape[axis])]
        for other in others:
            assert np.abs(other - first).max() > 1e-3
    clip, high, bound, near, kl, correction = np.moveaxis(every, -1, 0)
    assert (clip != high).any() and (high != kl).any() and (kl != correction).any()
    assert (high != bound).any() and (high != near).any()
    gradients = kept()["gradients"].reshape(*every.shape, *SHAPE)
    clipped = (gradients[0, 0, 0, 1] == 0) & (kept()["mask"] != 0)
    assert 0 < clipped.sum() < kept()["mask"].sum()
