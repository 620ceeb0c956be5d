"""policy_gradient: Elastic Reset inside the iteration, bit for bit.

Every run here is one program on one batch after another; only values differ, so what
should not matter leaves every bit as it was.
"""

import dataclasses
import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rlhf_jax import elastic_reset, ema, optim, trees
from rlhf_jax.algorithms import policy_gradient

PPO = tiny.config()
NEVER = tiny.HYPER._replace(reset_every=0)
EVERY_2 = tiny.HYPER._replace(reset_every=2)  # iteration 2 is the first to reset


def plain(state):
    """A state whose key is numbers, to compare."""
    return state._replace(key=jax.random.key_data(state.key))


@functools.cache
def before():
    """The state before iteration 2, from iterations that cannot have been resets."""
    return tiny.run(PPO, 2, NEVER)[0][-1]


@functools.cache
def after(hyper):
    """(state, metrics) after iteration 2."""
    state, _, metrics = tiny.iteration(PPO)(
        before(), tiny.FROZEN, tiny.batch(2), tiny.traced(hyper)
    )
    return state, metrics


def policy(state):
    return state.learner.params["policy"]


def differ(a, b):
    return any(
        (x != y).any() for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True)
    )


def test_a_reset_is_policy_to_average_then_average_to_initial():
    held, metrics = after(NEVER)
    state, named = after(EVERY_2)
    assert metrics["reset/reset"] == 0 and named["reset/reset"] == 1
    checks.same(policy(state), held.elastic.average)
    checks.same(state.elastic.average, state.elastic.initial)
    checks.same(state.elastic.initial, tiny.policy_params())
    # None of the three weights were equal before: it was not nothing.
    assert differ(policy(held), held.elastic.average)
    assert differ(held.elastic.average, held.elastic.initial)


def test_a_reset_leaves_critic_optimiser_controller_and_clocks_alone():
    held, state = after(NEVER)[0], after(EVERY_2)[0]
    expected = plain(held)._replace(
        elastic=state.elastic,
        learner=held.learner._replace(
            params={**held.learner.params, "policy": policy(state)}
        ),
    )
    checks.same(plain(state), expected)
    assert state.elastic.ticks == held.elastic.ticks == 3


def test_the_rest_of_the_metrics_do_not_know_of_the_reset():
    held, named = after(NEVER)[1], after(EVERY_2)[1]
    checks.same({**named, "reset/reset": held["reset/reset"]}, held)


@pytest.mark.parametrize("every", [10**9, 4])
def test_a_reset_that_does_not_come_is_plain_ppo_bit_for_bit(every):
    """The KL reference is the initial weights, so the average is only watched."""
    assert not NEVER.reference_average
    hyper = tiny.HYPER._replace(reset_every=every)
    state, metrics = after(hyper)
    checks.same(plain(state), plain(after(NEVER)[0]))
    checks.same(metrics, after(NEVER)[1])
    other = hyper._replace(decay=0.125)
    checks.same(after(other)[0].learner, after(NEVER)[0].learner)


@pytest.mark.parametrize("at_zero", [False, True])
@pytest.mark.parametrize("every", [0, 1, 2, 3])
def test_the_calendar_is_0_based_and_counts_at_the_end(every, at_zero):
    hyper = tiny.HYPER._replace(reset_every=every, reset_first=at_zero)
    states, metrics = tiny.run(PPO, 6, hyper)
    seen = [i for i, named in enumerate(metrics) if named["reset/reset"]]
    assert seen == elastic_reset.calendar(6, every, at_zero)
    for i in range(6):
        average, initial = states[i + 1].elastic.average, states[i + 1].elastic.initial
        assert differ(average, initial) == (i not in seen)


def run_with(decay):
    hyper = tiny.HYPER._replace(decay=decay)
    held, _ = tiny.run(PPO, 3, hyper)
    resets, _ = tiny.run(PPO, 3, hyper._replace(reset_every=2))
    return held[-1], resets[-1]


def test_decay_1_resets_to_the_initial_weights():
    _, state = run_with(1.0)
    checks.same(policy(state), tiny.policy_params())


def test_decay_0_resets_to_where_the_policy_is():
    held, state = run_with(0.0)
    checks.same(state.learner, held.learner)


def test_the_average_is_the_recursion_over_iterations():
    states, _ = tiny.run(PPO, 3)
    average = tiny.policy_params()
    for state in states[1:]:
        average = ema.update(average, policy(state), decay=tiny.HYPER.decay)
    checks.close(states[-1].elastic.average["table"], average["table"])


@pytest.mark.parametrize("clock, ticks", [("epoch", 2), ("update", 4)])
def test_the_average_ticks_on_the_configured_clock(clock, ticks):
    """Two epochs of two updates, of which the first moves θ and the others have rate 0:
    after n ticks θ̄ is at dⁿ·θ₀ + (1 − dⁿ)·θ."""
    optimizer = optim.Config(schedule="linear")
    config = dataclasses.replace(PPO, tick=clock, optimizer=optimizer)
    (_, state), _ = tiny.run(config, 1, tiny.HYPER._replace(total_updates=1))
    assert state.elastic.ticks == ticks and state.learner.updates == 4
    expected = trees.lerp(policy(state), tiny.policy_params(), 0.5**ticks)
    checks.close(state.elastic.average["table"], expected["table"])
    assert differ(policy(state), tiny.policy_params())


# Ablations: each is one value of Hyper.


def test_the_average_may_go_on_at_a_reset():
    state, _ = after(EVERY_2._replace(reset_average=False))
    held, _ = after(NEVER)
    checks.same(policy(state), held.elastic.average)
    checks.same(state.elastic, held.elastic)


def test_a_reset_may_go_to_the_initial_weights():
    state, _ = after(EVERY_2._replace(reset_target=elastic_reset.INITIAL))
    checks.same(policy(state), tiny.policy_params())


def test_a_reset_may_go_to_an_interpolation():
    hyper = EVERY_2._replace(
        reset_target=elastic_reset.INTERPOLATION, reset_weight=0.25
    )
    state, _ = after(hyper)
    expected = trees.lerp(tiny.policy_params(), policy(after(NEVER)[0]), 0.25)
    checks.close(policy(state)["table"], expected["table"])


def test_the_critic_is_reset_when_asked():
    state, _ = after(EVERY_2._replace(reset_value=True))
    plain_reset, _ = after(EVERY_2)
    checks.same(state.learner.params["value"], tiny.params(PPO)["value"])
    assert differ(plain_reset.learner.params["value"], tiny.params(PPO)["value"])
    checks.same(policy(state), policy(plain_reset))


def test_a_critic_that_was_not_kept_cannot_be_asked_back():
    config = dataclasses.replace(PPO, keep_initial_value=False)
    with pytest.raises(ValueError, match="reset_value.*set keep_initial_value=True"):
        tiny.start(config, tiny.HYPER._replace(reset_value=True))
    assert tiny.start(config).initial_value == {}


def test_the_optimiser_is_reset_when_asked():
    state, _ = after(EVERY_2._replace(reset_optimizer=True))
    fresh = tiny.start(PPO).learner.opt_state
    checks.same(state.learner.opt_state, fresh)
    checks.same(state.learner.params, after(EVERY_2)[0].learner.params)
    # The schedule goes on: only moments and their bias correction are reset.
    assert state.learner.updates == after(EVERY_2)[0].learner.updates


# The other rim: a reset as a program of its own, for what is evaluated on both sides.


@functools.cache
def reset_program():
    return jax.jit(functools.partial(policy_gradient.reset, **tiny.fixed(PPO)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reset_average": False},
        {"reset_target": elastic_reset.INITIAL},
        {"reset_target": elastic_reset.INTERPOLATION, "reset_weight": 0.3},
        {"reset_value": True, "reset_optimizer": True},
    ],
    ids=lambda changes: "+".join(changes) or "default",
)
def test_a_held_reset_done_after_is_the_reset_inside_bit_for_bit(changes):
    hyper = EVERY_2._replace(**changes)
    held, _ = after(hyper._replace(reset_every=0))
    outside = reset_program()(held, tiny.traced(hyper))
    # All but a mixture is copied; of that a compiler may fuse product and sum.
    mixed = functools.partial(jax.tree.map, checks.close)
    equal = mixed if "reset_weight" in changes else checks.same
    equal(plain(outside), plain(after(hyper)[0]))


def test_the_iteration_after_a_reset_is_one_from_the_average():
    """KL against the reference in force starts again where the average was."""
    state, _ = after(EVERY_2)
    following, _, metrics = tiny.iteration(PPO)(
        state, tiny.FROZEN, tiny.batch(3), tiny.traced(EVERY_2)
    )
    assert metrics["val/ratio_first_error"] <= 1e-5
    assert metrics["reset/reset"] == 0
    assert differ(policy(following), policy(state))
    expected = ema.update(
        state.elastic.initial, policy(following), decay=tiny.HYPER.decay
    )
    checks.close(following.elastic.average["table"], expected["table"])


def test_a_policy_that_is_not_finite_does_not_reach_the_average():
    """A non-finite score makes non-finite gradients; every update is skipped."""
    state, _, metrics = tiny.iteration(PPO)(
        before(), jnp.float32(np.nan), tiny.batch(2), tiny.traced(EVERY_2)
    )
    assert metrics["optim/finite"] == 0 and metrics["optim/skipped"] == 4
    assert trees.finite((state.learner, state.elastic))
    assert np.isfinite(state.controller.coef)
