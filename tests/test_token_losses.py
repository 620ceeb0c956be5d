"""losses over tokens: closed forms, loops and invariants."""

import checks
import jax
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given
from hypothesis import strategies as st
from loss_cases import example

from rlhf_jax import losses


def test_nll_by_hand():
    logps, mask = np.log([[0.5, 0.25, 1e-9]]), np.array([[1, 1, 0]])
    loss, metrics = losses.nll(logps, mask)
    close(loss, 1.5 * np.log(2))
    assert metrics["nll"] == loss


def test_nll_is_the_loop_over_tokens():
    loss, (logps,), mask, _ = example("nll")
    valid = [-float(x) for x, m in zip(logps.ravel(), mask.ravel(), strict=True) if m]
    close(loss(logps, mask)[0], sum(valid) / len(valid), 1e-5)


def ppo_loop(logps, old, advantages, mask, clip):
    """Schulman et al. 2017, eq. 7, a token at a time in float64."""
    terms, clipped, ratios = [], [], []
    for index in zip(*np.nonzero(mask), strict=True):
        ratio = np.exp(np.float64(logps[index]) - np.float64(old[index]))
        advantage = np.float64(advantages[index])
        near = min(max(ratio, 1 - clip), 1 + clip)
        terms.append(-min(ratio * advantage, near * advantage))
        clipped.append(near * advantage < ratio * advantage)
        ratios.append(ratio)
    return np.mean(terms), {
        "approxkl": np.mean(np.log(ratios) ** 2) / 2,
        "clipfrac": np.mean(clipped),
        "ratio": np.mean(ratios),
        "ratio_max": max(ratios),
    }


@pytest.mark.parametrize("clip", [0.1, 0.2, 0.5])
def test_ppo_is_the_loop_over_tokens(clip):
    _, arrays, mask, _ = example("ppo_clip")
    actual = losses.ppo_clip(*arrays, mask, clip=clip)
    expected = ppo_loop(*arrays, mask, clip)
    jax.tree.map(lambda a, e: close(a, e, 1e-5, 1e-6), actual, expected)


def test_ppo_at_the_old_policy_is_minus_the_mean_advantage():
    _, (logps, _, advantages), mask, _ = example("ppo_clip")
    loss, metrics = losses.ppo_clip(logps, logps, advantages, mask, clip=0.2)
    close(loss, -advantages[mask == 1].mean(), 1e-6, 1e-7)
    assert metrics == {"approxkl": 0.0, "clipfrac": 0.0, "ratio": 1.0, "ratio_max": 1.0}


def test_ppo_gradient_is_reinforce_at_the_old_policy():
    _, (logps, _, advantages), mask, _ = example("ppo_clip")
    ppo = jax.grad(lambda x: losses.ppo_clip(x, logps, advantages, mask, clip=0.2)[0])
    plain = jax.grad(lambda x: losses.reinforce(x, advantages, mask)[0])
    close(ppo(logps), plain(logps))
    close(ppo(logps), -advantages * mask / mask.sum())


def test_ppo_pushes_no_further_than_the_clip():
    """Four tokens: ratio e^±½ by advantage ±1; clipping binds where it would pay."""
    logps = np.array([[0.5, 0.5, -0.5, -0.5]])
    advantages = np.array([[1.0, -1.0, 1.0, -1.0]])
    old, mask = np.zeros((1, 4)), np.ones((1, 4))

    def loss(x):
        return losses.ppo_clip(x, old, advantages, mask, clip=0.2)[0]

    up, down = np.exp(0.5), np.exp(-0.5)
    close(loss(logps), (-1.2 + up - down + 0.8) / 4)
    close(jax.grad(loss)(logps), [[0, up / 4, -down / 4, 0]])
    metrics = losses.ppo_clip(logps, old, advantages, mask, clip=0.2)[1]
    assert metrics["clipfrac"] == 0.5
    close(metrics["approxkl"], 0.125)


def test_ppo_with_an_infinite_clip_is_importance_sampling():
    _, (logps, old, advantages), mask, _ = example("ppo_clip")
    loss, metrics = losses.ppo_clip(logps, old, advantages, mask, clip=np.inf)
    close(loss, -(np.exp(logps - old) * advantages)[mask == 1].mean(), 1e-5)
    assert metrics["clipfrac"] == 0.0


@examples
@given(checks.floats((2, 3), -1, 1), checks.floats((2, 3), -1, 1), st.floats(0, 1))
def test_ppo_is_never_below_the_unclipped_loss(logps, advantages, clip):
    old, mask = np.zeros((2, 3), np.float32), np.ones((2, 3))
    loss, metrics = losses.ppo_clip(logps, old, advantages, mask, clip=clip)
    plain, _ = losses.ppo_clip(logps, old, advantages, mask, clip=np.inf)
    assert loss >= plain - 1e-6
    assert 0 <= metrics["clipfrac"] <= 1 and metrics["approxkl"] >= 0


def test_reinforce_by_hand():
    logps, advantages = np.log([[0.5, 0.25, 0.5]]), np.array([[1.0, -2.0, 9.0]])
    loss, metrics = losses.reinforce(logps, advantages, np.array([[1, 1, 0]]))
    close(loss, (np.log(2) - 2 * np.log(4)) / 2)
    close(metrics["logps"], -1.5 * np.log(2))


def test_reinforce_is_the_loop_over_tokens():
    loss, (logps, advantages), mask, _ = example("reinforce")
    terms = [
        -float(a) * float(x)
        for x, a, m in zip(logps.ravel(), advantages.ravel(), mask.ravel(), strict=True)
        if m
    ]
    close(loss(logps, advantages, mask)[0], np.mean(terms), 1e-5, 1e-6)


def test_a_step_raises_the_log_prob_of_a_good_token():
    _, (logps, advantages), mask, _ = example("reinforce")
    grad = jax.grad(lambda x: losses.reinforce(x, advantages, mask)[0])(logps)
    assert (np.sign(-grad) == np.sign(advantages) * mask).all()


def test_entropy_bonus_by_hand():
    loss, metrics = losses.entropy_bonus(np.array([[1.0, 3.0]]), np.array([[1, 1]]))
    assert loss == -2.0 and metrics["entropy"] == 2.0


def test_entropy_bonus_is_minus_the_mean():
    loss, (entropies,), mask, _ = example("entropy_bonus")
    close(loss(entropies, mask)[0], -entropies[mask == 1].astype(float).mean(), 1e-5)


def value_loop(values, old, returns, mask, clip):
    terms, plain, bound = [], [], []
    for index in zip(*np.nonzero(mask), strict=True):
        v, o, r = (np.float64(x[index]) for x in (values, old, returns))
        near = min(max(v, o - clip), o + clip)
        terms.append(0.5 * max((v - r) ** 2, (near - r) ** 2))
        plain.append((v - r) ** 2)
        bound.append((near - r) ** 2 > (v - r) ** 2)
    return np.mean(terms), {
        "clipfrac": np.mean(bound),
        "error": np.mean(plain),
        "values": values[mask == 1].astype(float).mean(),
        "returns": returns[mask == 1].astype(float).mean(),
    }


@pytest.mark.parametrize("clip", [0.1, 0.3, 1.0])
def test_value_loss_is_the_loop_over_tokens(clip):
    _, arrays, mask, _ = example("value_clip")
    actual = losses.value_clip(*arrays, mask, clip=clip)
    expected = value_loop(*arrays, mask, clip)
    jax.tree.map(lambda a, e: close(a, e, 1e-5, 1e-6), actual, expected)


def test_value_loss_by_hand():
    """V = 1, V_old = 0, ε = ¼: towards R = 2 the clipped error counts, ½·1.75²; away
    from R = −1 the plain one, ½·2²."""
    values, old, returns = np.array([[1.0, 1.0]]), np.zeros((1, 2)), [[2.0, -1.0]]
    loss, metrics = losses.value_clip(
        values, old, np.array(returns), np.ones((1, 2)), clip=0.25
    )
    close(loss, (0.5 * 1.75**2 + 0.5 * 4) / 2)
    assert metrics["clipfrac"] == 0.5 and metrics["error"] == 2.5


def test_value_loss_with_an_infinite_clip_is_half_the_squared_error():
    _, (values, old, returns), mask, _ = example("value_clip")
    loss, metrics = losses.value_clip(values, old, returns, mask, clip=np.inf)
    close(loss, 0.5 * metrics["error"])
    assert metrics["clipfrac"] == 0.0
    grad = jax.grad(lambda v: losses.value_clip(v, old, returns, mask, clip=np.inf)[0])(
        values
    )
    close(grad, (values - returns) * mask / mask.sum())


@examples
@given(*[checks.floats((2, 3))] * 3, st.floats(0, 5))
def test_clipping_never_lowers_the_value_loss(values, old, returns, clip):
    mask = np.ones((2, 3))
    loss, metrics = losses.value_clip(values, old, returns, mask, clip=clip)
    assert loss >= 0.5 * metrics["error"] - 1e-5
