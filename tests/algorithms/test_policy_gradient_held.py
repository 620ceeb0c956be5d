"""policy_gradient: which copies of the weights a state holds; none is missed."""

import functools

import checks
import jax
import pytest
import tiny

from rlhf_jax import optim
from rlhf_jax.algorithms import policy_gradient

PPO = tiny.config()
EVERY_2 = tiny.HYPER._replace(reset_every=2, kl_coef=0.1)
NO_AVERAGE = tiny.config(keep_average=False)


def start(config, hyper=tiny.HYPER, **options):
    tx = optim.transformation(config.optimizer)
    key, params = jax.random.key(0), tiny.params(config)
    return policy_gradient.init(params, tx, hyper, key, config=config, **options)


@functools.cache
def steps(config, apart):
    """(states, metrics) of three iterations with a reset after the last; apart: π₀ is
    an argument of the program, not a part of its state."""
    fixed = tiny.fixed(config)
    hyper = EVERY_2 if config.keep_average else tiny.HYPER._replace(kl_coef=0.1)

    @jax.jit
    def step(initial, state, batch):
        named = dict(fixed)
        if apart:
            named["networks"] = fixed["networks"]._replace(initial=initial)
        return policy_gradient.iteration(
            state, tiny.FROZEN, batch, tiny.traced(hyper), score=tiny.score, **named
        )

    states, metrics = [start(config, hyper, hold_initial=not apart)], []
    for i in range(3):
        state, _, named = step(tiny.policy_params(), states[-1], tiny.batch(i))
        states.append(state)
        metrics.append(named)
    return states, metrics


def test_initial_weights_outside_of_the_state_change_no_bit():
    (held, _), (apart, _) = steps(PPO, False), steps(PPO, True)
    for a, b in zip(held, apart, strict=True):
        checks.same(a.learner, b.learner)
        checks.same(a.elastic.average, b.elastic.average)
        assert b.elastic.initial == ()
    checks.same(steps(PPO, False)[1], steps(PPO, True)[1])


def test_a_reset_leads_to_initial_weights_that_are_outside_of_the_state():
    states, metrics = steps(PPO, True)
    assert [m["reset/reset"] for m in metrics] == [0, 0, 1]
    checks.same(states[-1].elastic.average, tiny.policy_params())


def test_without_an_average_the_policy_is_the_same_and_nothing_is_averaged():
    (with_it, _), (without, metrics) = steps(PPO, False), steps(NO_AVERAGE, True)
    checks.same(with_it[2].learner, without[2].learner)  # before the reset
    assert jax.tree.leaves(without[-1].elastic) == [0]  # ticks, and nothing else
    assert [m["reset/reset"] for m in metrics] == [0, 0, 0]


@pytest.mark.parametrize(
    "asked", [{"reset_every": 3}, {"reset_first": True}, {"reference_average": True}]
)
def test_what_needs_the_average_is_refused_where_none_is_held(asked):
    (name,) = asked
    with pytest.raises(ValueError, match=f"{name}=.* keep_average=True"):
        start(NO_AVERAGE, tiny.HYPER._replace(**asked))
