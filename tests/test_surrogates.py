"""surrogates: token losses by hand, as loops, and what all of them promise."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given

from rlhf_jax import losses, surrogates

B, T = 4, 6
MASK = checks.ragged(B, T)
VESPO = {"k_pos": 2.0, "lambda_pos": 3.0, "k_neg": 3.0, "lambda_neg": 2.0}
SAPO = {"temperature_pos": 1.0, "temperature_neg": 1.05}


def arrays(seed=0):
    """log ρ, log π and advantages [B, T], 0 where ignored; one advantage a row."""
    rng = np.random.default_rng(seed)
    gap, logps = (rng.normal(size=(B, T)) * 0.5 for _ in range(2))
    advantages = np.broadcast_to(rng.normal(size=(B, 1)), (B, T))
    return [np.float32(x * MASK) for x in (gap, logps, advantages)]


def clipped(gap, logps, advantages):
    del logps
    return surrogates.clipped(gap, advantages, clip=0.2, clip_high=0.4, delta=1.6)[0]


def cispo(gap, logps, advantages):
    return surrogates.cispo(gap, logps, advantages, cap=1.3)[0]


def sapo(gap, logps, advantages):
    del logps
    return surrogates.sapo(gap, advantages, **SAPO)


def vespo(gap, logps, advantages):
    return surrogates.vespo(gap, logps, advantages, **VESPO)


def clipped_loop(ratio, logp, advantage, weight):
    del logp, weight
    bounded = min(max(ratio, 0.8), 1.4)
    return -min(min(ratio, 1.6) * advantage, bounded * advantage)


def cispo_loop(ratio, logp, advantage, weight):
    del weight
    return -min(ratio, 1.3) * advantage * logp


def sapo_loop(ratio, logp, advantage, weight):
    del logp, weight
    heat = 1.0 if advantage > 0 else 1.05
    return -advantage * 4 / heat / (1 + np.exp(-heat * (ratio - 1)))


def vespo_loop(ratio, logp, advantage, weight):
    del ratio
    k, rate = (2.0, 3.0) if advantage >= 0 else (3.0, 2.0)
    return -advantage * logp * weight**k * np.exp(rate * (1 - weight))


EVERY = {
    "clipped": (clipped, clipped_loop),
    "cispo": (cispo, cispo_loop),
    "sapo": (sapo, sapo_loop),
    "vespo": (vespo, vespo_loop),
}
each = pytest.mark.parametrize("name", EVERY)


@each
def test_losses_are_the_loops_over_tokens(name):
    loss, loop = EVERY[name]
    gap, logps, advantages = (x.astype(np.float64) for x in arrays())
    expected = np.zeros((B, T))
    for b, t in np.ndindex(B, T):
        weight = np.exp(gap[b].sum())
        expected[b, t] = loop(np.exp(gap[b, t]), logps[b, t], advantages[b, t], weight)
    close(loss(*arrays()), expected * MASK, rtol=1e-5, atol=1e-6)


@each
def test_at_the_old_policy_the_gradient_is_minus_the_advantage(name):
    """All of them are REINFORCE where nothing has moved yet."""
    loss, _ = EVERY[name]
    _, logps, advantages = arrays()

    def total(x):
        gap = surrogates.log_ratio(x, logps, MASK)
        return loss(gap, x * MASK, advantages).sum()

    close(jax.grad(total)(jnp.asarray(logps)), -advantages, rtol=1e-5, atol=1e-6)


@each
def test_a_larger_advantage_of_the_same_sign_scales_the_loss(name):
    loss, _ = EVERY[name]
    gap, logps, advantages = arrays()
    doubled = loss(gap, logps, 2 * advantages)
    close(doubled, 2 * loss(gap, logps, advantages), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "level"),
    [
        *((name, "token") for name in EVERY),
        *(("clipped", level) for level in ("sequence", "sequence_token")),
    ],
)
def test_junk_reaches_neither_value_nor_gradient(name, level):
    """Where the ratio comes from `log_ratio`, and the others are zeroed as it is."""
    loss, _ = EVERY[name]
    _, logps, advantages = arrays()

    def summed(new, old):
        gap = surrogates.log_ratio(new, old, MASK, level=level)
        return loss(gap, jnp.where(MASK != 0, new, 0.0), jnp.asarray(advantages))

    checks.assert_ignores(summed, [logps, logps + 0.1], MASK)


@each
def test_gradients_are_the_numerical_ones(name):
    """Of what has a gradient: weights that are data are held fixed."""
    loss, _ = EVERY[name]
    gap, logps, advantages = (x.astype(np.float64) for x in arrays(1))
    learned = 1 if name in ("cispo", "vespo") else 0
    given = [gap, logps, advantages]

    def total(x):
        return loss(*given[:learned], x, *given[learned + 1 :]).sum()

    checks.assert_gradients(total, given[learned])


def test_ratios_of_a_response_by_hand():
    """log ρ = ln 4 and 0, the third token is ignored: s = 2 at both tokens."""
    new, old = np.log([[0.8, 0.5, 0.9]]), np.log([[0.2, 0.5, 0.1]])
    mask = np.array([[1, 1, 0]])
    close(surrogates.log_ratio(new, old, mask), [[np.log(4), 0, 0]])
    for level in ("sequence", "sequence_token"):
        ratio = surrogates.log_ratio(new, old, mask, level=level)
        close(ratio, np.log([[2.0, 2.0, 1.0]]), rtol=1e-6)


def test_a_sequence_shares_its_gradient_and_a_token_of_it_has_its_own():
    new, mask = np.zeros((1, 3), np.float32), np.array([[1, 1, 0]])
    weights = np.array([[1.0, 10.0, 100.0]])

    def grad(level):
        return jax.grad(
            lambda x: (weights * surrogates.log_ratio(x, new, mask, level=level)).sum()
        )(new)

    close(grad("sequence"), [[5.5, 5.5, 0.0]])
    close(grad("sequence_token"), [[1.0, 10.0, 0.0]])
    close(grad("token"), [[1.0, 10.0, 0.0]])


@examples
@given(checks.floats((2, 3), -1, 1), checks.floats((2, 3), -1, 1), checks.masks((2, 3)))
def test_a_ratio_of_a_response_is_the_geometric_mean_of_its_tokens(new, old, mask):
    ratio = np.exp(surrogates.log_ratio(new, old, mask, level="sequence"))
    for row, n, o, m in zip(ratio, new, old, mask, strict=True):
        if m.any():
            product = np.prod(np.exp(np.float64(n) - np.float64(o))[m != 0])
            close(row[m != 0], product ** (1 / m.sum()), rtol=1e-5)


def test_a_level_that_does_not_exist():
    with pytest.raises(ValueError, match="not 'words'"):
        surrogates.log_ratio(*[np.zeros((1, 2))] * 2, np.ones((1, 2)), level="words")


def test_clipping_higher_leaves_more_room_upwards_alone():
    """Ratio e^±½ by advantage ±1, ε = 0.2 and 0.5: only the first token differs."""
    gap, advantages = np.array([[0.5, 0.5, -0.5, -0.5]]), np.array([[1.0, -1, 1, -1]])
    up, down = np.exp(0.5), np.exp(-0.5)
    loss, hit = surrogates.clipped(gap, advantages, clip=0.2)
    close(loss, [[-1.2, up, -down, 0.8]])
    np.testing.assert_array_equal(hit, [[True, False, False, True]])
    loss, _ = surrogates.clipped(gap, advantages, clip=0.2, clip_high=0.5)
    close(loss, [[-1.5, up, -down, 0.8]])
    loss, _ = surrogates.clipped(gap, advantages, clip=0.2, clip_high=0.3, delta=1.4)
    close(loss, [[-1.3, 1.4, -down, 0.8]])


def test_ppo_clip_takes_both_bounds():
    new, _, advantages = arrays()
    mask = np.ones((B, T), np.int32)
    loss, metrics = losses.ppo_clip(
        new, np.zeros((B, T)), advantages, mask, clip=0.2, clip_high=0.4, delta=1.6
    )
    expected = clipped(new, None, advantages)
    close(loss, expected.mean(), rtol=1e-5)
    assert 0 < metrics["clipfrac"] < 1


def test_cispo_caps_the_weight_and_keeps_the_gradient():
    """Where PPO's clip leaves none: ρ = e of a good token, cap 2."""
    gap = np.ones((1, 1), np.float32)
    grad = jax.grad(lambda x: surrogates.cispo(gap, x, gap, cap=2.0)[0].sum())(gap)
    close(grad, [[-2.0]])
    assert surrogates.cispo(gap, gap, gap, cap=2.0)[1].all()
    assert not surrogates.cispo(gap, gap, -gap, cap=2.0)[1].any()


def test_sapo_and_vespo_weigh_least_what_has_moved_far():
    gap = np.array([[0.0], [1.0], [3.0], [-3.0]], np.float32)
    ones = np.ones((4, 1), np.float32)
    slope = jax.grad(lambda x: surrogates.sapo(x, ones, **SAPO).sum())(gap)
    assert (np.diff(np.abs(slope[:3, 0] / np.exp(gap[:3, 0]))) < 0).all()
    weight = -np.asarray(surrogates.vespo(gap, ones, ones, **VESPO))[:, 0]
    close(weight[0], 1.0)
    assert (weight[1:] < 1).all() and weight[2] < weight[1]


def test_a_bad_response_that_has_become_unlikely_is_left_out_by_hand():
    """Means of −log ρ are 1 and 0.25 nats a token; the third token is ignored."""
    gap = np.array([[-2.0, 0.0, 0.0], [-0.5, 0.0, 0.0]])
    mask, bad = np.array([[1, 1, 0], [1, 1, 0]]), -np.ones((2, 3))
    near = surrogates.near_policy(gap, bad, mask, threshold=0.5)
    np.testing.assert_array_equal(near[:, 0], [False, True])
    for advantages, threshold in ((-bad, 0.5), (0 * bad, 0.5), (bad, np.inf)):
        assert surrogates.near_policy(gap, advantages, mask, threshold=threshold).all()
    turned = surrogates.near_policy(gap[::-1], bad, mask, threshold=0.5)
    np.testing.assert_array_equal(turned, near[::-1])
