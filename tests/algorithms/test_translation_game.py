"""translation_game: the gradients of a round, and what the scalars do to a step.

All steps here are one program on one batch after another; only values differ, so what
should not matter leaves every bit as it was.
"""

import functools

import checks
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_game
from checks import close

from rlhf_jax import elastic_reset, logprobs, trees
from rlhf_jax.algorithms import translation_game as game
from rlhf_jax.algorithms.translation_game import messages, play

HYPER = tiny_game.HYPER


def plain(state):
    """A state whose key is numbers, to compare."""
    return state._replace(key=jax.random.key_data(state.key))


@functools.cache
def played(**changes):
    """Three steps: ([state before, after 1, 2, 3], [metrics])."""
    return tiny_game.run(3, HYPER._replace(**changes))


def sender(state):
    return state.learner.params["sender"]


def distance(a, b):
    return float(trees.norm(trees.subtract(a, b)))


def _bend(x):
    """Other weights: nothing that adding a constant could do."""
    return x + jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)


# The losses of a round


@functools.cache
def round_():
    """A message, its rewards and counts, from one compiled function."""

    @jax.jit
    def draw(state, batch):
        said = game.speak(
            state, batch, networks=tiny_game.NETWORKS, config=tiny_game.CONFIG
        )
        counts = play.count(batch)
        loss, rewards = play.listen(
            state.learner.params["receiver"],
            said,
            batch,
            counts,
            networks=tiny_game.NETWORKS,
        )
        return said, loss, rewards, counts

    return draw(tiny_game.start(), tiny_game.batch())


def test_rewards_and_the_receivers_loss_are_the_loops_over_the_german():
    said, loss, rewards, counts = round_()
    batch = tiny_game.batch()
    result = jax.jit(functools.partial(messages.logps, tiny_game.NETWORKS.receiver))(
        tiny_game.params()["receiver"], said.heard, said.mask, *batch[2:4]
    )
    result = np.asarray(result, np.float64)
    total, tokens = 0.0, 0
    for row, mask, reward in zip(result, batch.target_mask, rewards, strict=True):
        length = mask.sum()
        close(reward, row[:length].sum() / max(length, 1), 1e-5, 1e-6)
        total, tokens = total - row[:length].sum(), tokens + length
    close(loss, total / tokens, 1e-5, 1e-6)
    assert (counts.rows, counts.target_tokens) == (tiny_game.ROWS, tokens)


@functools.cache
def persuasion():
    """(loss, metrics), gradients of the sender's loss, compiled for any Hyper."""
    said, _, rewards, counts = round_()
    batch = tiny_game.batch()
    moved = jax.tree.map(_bend, tiny_game.params()["sender"])
    learn = functools.partial(play.persuade, networks=tiny_game.NETWORKS)

    @jax.jit
    def evaluate(params, hyper):
        anchors = (moved, tiny_game.params()["sender"])
        args = (anchors, said, batch, rewards, counts, hyper)
        return jax.value_and_grad(learn, has_aux=True)(params, *args)

    return evaluate


@functools.cache
def jacobians():
    """Of every token: log-prob, entropy, KL, value, and their gradients, by `jacrev`.

    Returns ((logps, entropies, divergences, values) [B, T], their jacobians).
    """
    said = round_()[0]
    batch = tiny_game.batch()
    inputs = (batch.source, batch.source_mask, said.drawn, said.mask)
    networks, old = tiny_game.NETWORKS, tiny_game.params()["sender"]
    moved = jax.tree.map(_bend, old)

    def tokens(params):
        logits, features = networks.sender.apply(
            {"params": params["sender"]}, *inputs, method="features"
        )
        fixed = networks.sender.apply({"params": moved}, *inputs)
        # The baseline teaches the sender's features nothing.
        features = jax.lax.stop_gradient(features)
        return (
            logprobs.of_tokens(logits, said.drawn),
            logprobs.entropy(logits),
            logprobs.divergence(logits, fixed),
            networks.value.apply({"params": params["value"]}, features),
        )

    params = {name: tiny_game.params()[name] for name in ("sender", "value")}
    return jax.jit(lambda p: (tokens(p), jax.jacrev(tokens)(p)))(params)


@pytest.mark.parametrize(
    "changes",
    [
        {"value_coef": 0.0, "entropy_coef": 0.0},
        {"policy_coef": 0.0, "entropy_coef": 0.0},
        {"policy_coef": 0.0, "value_coef": 0.0, "entropy_coef": 0.5},
        {"kl_coef": 0.3},
    ],
)
def test_the_senders_gradient_is_the_loop_over_sentences_and_tokens(changes):
    hyper = HYPER._replace(**changes)
    params = {name: tiny_game.params()[name] for name in ("sender", "value")}
    (_, named), grads = persuasion()(params, tiny_game.traced(hyper))
    said, _, rewards, _ = round_()
    values = [np.asarray(x, np.float64) for x in jacobians()[0]]
    slopes = [
        jax.tree.map(lambda x: np.asarray(x, np.float64), x) for x in jacobians()[1]
    ]
    expected = jax.tree.map(lambda g: np.zeros(g.shape), grads)
    means = np.zeros(4)
    for row in range(tiny_game.ROWS):
        length = int(said.mask[row].sum())
        for t in range(length):
            gap = float(rewards[row]) - values[3][row, t]
            weights = (
                -hyper.policy_coef * gap,
                -hyper.entropy_coef,
                hyper.kl_coef,
                -2.0 * hyper.value_coef * gap,
            )
            share = 1.0 / (length * tiny_game.ROWS)
            for weight, slope in zip(weights, slopes, strict=True):
                expected = jax.tree.map(
                    lambda e, g, w=weight, r=row, t=t, s=share: e + s * w * g[r, t],
                    expected,
                    slope,
                )
            seen = values[0][row, t] * -gap, values[1][row, t], values[2][row, t]
            means += share * np.array([*seen, gap**2])
    jax.tree.map(lambda g, e: close(g, e, 1e-4, 1e-5), grads, expected)
    close(named["loss/policy_avg"], means[0], 1e-5, 1e-6)
    close(named["objective/entropy"], means[1], 1e-5, 1e-6)
    close(named["loss/value_avg"], means[3], 1e-5, 1e-6)
    close(named["objective/kl"], means[2] if hyper.kl_coef else 0.0, 1e-4, 1e-5)


def test_kl_is_against_the_initial_sender_or_the_average():
    """The average is the sender itself here: no divergence, however strong."""
    params = {name: tiny_game.params()[name] for name in ("sender", "value")}
    result = [
        persuasion()(params, tiny_game.traced(HYPER._replace(kl_coef=1.0, **change)))
        for change in ({"reference_average": False}, {"reference_average": True})
    ]
    initial, average = (metrics["objective/kl"] for (_, metrics), _ in result)
    assert initial > 0.01 and abs(average) < 1e-6


# What the scalars do to a step


def test_a_frozen_sender_keeps_every_bit_and_the_receiver_learns():
    states, metrics = played(train_sender=0.0)
    first, last = states[0].learner.params, states[-1].learner.params
    checks.same(last["sender"], first["sender"])
    checks.same(last["value"], first["value"])
    assert distance(last["receiver"], first["receiver"]) > 0.01
    assert metrics[0]["objective/scores"] == played()[1][0]["objective/scores"]


def test_the_critic_may_learn_first():
    states, _ = played(critic_first=2)
    checks.same(sender(states[2]), sender(states[0]))
    assert distance(sender(states[3]), sender(states[2])) > 0
    value = [state.learner.params["value"] for state in states]
    assert distance(value[1], value[0]) > 0


def test_the_senders_rate_is_a_share_of_its_update_and_of_nothing_else():
    whole, slow = played()[0], played(sender_rate=0.3)[0]
    moved = trees.subtract(sender(whole[1]), sender(whole[0]))
    expected = jax.tree.map(lambda x, m: x + 0.3 * m, sender(whole[0]), moved)
    chex.assert_trees_all_close(sender(slow[1]), expected, rtol=1e-5, atol=1e-7)
    assert distance(sender(slow[1]), sender(slow[0])) > 0
    for agent in ("receiver", "value"):
        checks.same(slow[1].learner.params[agent], whole[1].learner.params[agent])
    still = played(train_sender=0.0, sender_rate=0.3)[0]
    checks.same(sender(still[3]), sender(still[0]))  # no rate moves a frozen sender


def test_the_pull_of_l2_is_towards_the_initial_sender():
    free, held = (played(l2_coef=x)[0] for x in (0.0, 100.0))
    start = sender(free[0])
    assert distance(sender(held[3]), start) < 0.7 * distance(sender(free[3]), start)
    checks.same(sender(held[1]), sender(free[1]))  # at the start there is no pull


@functools.cache
def lesson():
    return programs()[1](tiny_game.params(), tiny_game.lesson())


def programs():
    return tiny_game.programs()


def test_a_lesson_is_the_gradient_of_both_agents_likelihoods():
    grads, metrics = lesson()
    pairs = tiny_game.lesson()
    for agent in ("sender", "receiver"):
        model = getattr(tiny_game.NETWORKS, agent)
        batch = getattr(pairs, agent)

        def loss(params, model=model, batch=batch):
            count = messages.count(batch)
            return messages.make_loss(model)(params, batch, count)[0]

        weights = tiny_game.params()[agent]
        value, expected = jax.jit(jax.value_and_grad(loss))(weights)
        close(metrics[f"lesson/{agent}"], value, 1e-6, 1e-6)
        jax.tree.map(lambda g, e: close(g, e, 1e-5, 1e-6), grads[agent], expected)


def with_lesson(weight):
    hyper = tiny_game.traced(HYPER._replace(lesson_coef=weight))
    return programs()[0](tiny_game.start(), tiny_game.batch(), hyper, lesson()[0])[0]


def test_s2p_of_weight_0_is_the_plain_step_and_other_weights_are_not():
    plain_step = played()[0][1]
    checks.same(plain(with_lesson(0.0)), plain(plain_step))
    assert distance(sender(with_lesson(1.0)), sender(plain_step)) > 1e-3
    receivers = [s.learner.params["receiver"] for s in (with_lesson(1.0), plain_step)]
    assert distance(*receivers) > 1e-3


def test_rows_of_padding_may_hold_anything():
    hyper, batch = tiny_game.traced(HYPER), tiny_game.batch()
    valid = batch.target_mask.any(-1, keepdims=True)
    junk = batch._replace(
        source=np.where(valid, batch.source, 7),
        source_mask=np.where(valid, batch.source_mask, 1),
        target=np.where(valid, batch.target, 6),
    )
    result = [programs()[0](tiny_game.start(), b, hyper) for b in (batch, junk)]
    (clean, named), (dirty, other) = result
    checks.same(plain(dirty), plain(clean))
    checks.same(other, named)


def test_steps_draw_new_messages_and_the_same_state_the_same_ones():
    _, metrics = played()
    again = tiny_game.run(1)[1][0]
    checks.same(again, metrics[0])
    state = tiny_game.start()
    later = state._replace(iteration=state.iteration + 1)
    batch = tiny_game.batch()
    result = [
        programs()[0](s, batch, tiny_game.traced(HYPER))[1]["objective/scores"]
        for s in (state, later)
    ]
    assert result[0] != result[1]


def test_one_program_serves_every_method():
    """Frozen sender, penalties, resets: what they change are numbers."""
    tiny_game.run(1)
    before = programs()[0]._cache_size()
    for changes in (
        {"train_sender": 0.0},
        {"kl_coef": 0.1, "reference_average": True},
        {"l2_coef": 0.1, "entropy_coef": 0.1, "lesson_coef": 1.0},
        {"reset_target": 1, "reset_receiver": True},
    ):
        tiny_game.run(1, HYPER._replace(**changes))
    assert programs()[0]._cache_size() == before


# Resets


@functools.cache
def held():
    """The state after three iterations, of which none was a reset."""
    return tiny_game.run(3)[0][-1]


@functools.cache
def after(**changes):
    """That state reset."""
    hyper = tiny_game.traced(HYPER._replace(**changes))
    return jax.jit(game.reset)(held(), hyper)


def test_a_step_never_resets():
    states, metrics = tiny_game.run(3, HYPER._replace(decay=0.0))
    for before, state in zip(states, states[1:], strict=False):
        assert state.iteration == before.iteration + 1
        checks.same(state.elastic.average, game.agents(state.learner.params))
    assert not any(name.startswith("reset/") for row in metrics for name in row)


def test_a_reset_is_sender_to_average_then_average_to_initial():
    state = after()
    checks.same(sender(state), held().elastic.average["sender"])
    checks.same(state.elastic.average["sender"], tiny_game.params()["sender"])
    checks.same(state.elastic.initial, game.agents(tiny_game.params()))
    assert distance(sender(held()), sender(state)) > 0
    assert distance(sender(state), tiny_game.params()["sender"]) > 0


def test_a_reset_leaves_receiver_critic_and_optimiser_alone():
    state = after()
    expected = plain(held())._replace(
        elastic=state.elastic,
        learner=held().learner._replace(
            params={**held().learner.params, "sender": sender(state)}
        ),
    )
    checks.same(plain(state), expected)
    checks.same(state.elastic.average["receiver"], held().elastic.average["receiver"])


def test_the_receiver_is_reset_as_well_where_it_is_asked_for():
    state = after(reset_receiver=True)
    checks.same(game.agents(state.learner.params), held().elastic.average)
    checks.same(state.elastic.average, game.agents(tiny_game.params()))
    checks.same(state.learner.params["value"], held().learner.params["value"])


@pytest.mark.parametrize(
    ("target", "weight"),
    [(elastic_reset.INITIAL, 0.0), (elastic_reset.INTERPOLATION, 0.25)],
)
def test_the_ablations_send_the_sender_where_they_say(target, weight):
    state = after(reset_target=target, reset_weight=weight)
    goal = trees.lerp(tiny_game.params()["sender"], sender(held()), weight)
    jax.tree.map(lambda a, b: close(a, b, 1e-6, 1e-7), sender(state), goal)


def test_reset_to_the_average_alone_lets_the_average_go_on():
    state = after(reset_average=False)
    checks.same(sender(state), held().elastic.average["sender"])
    checks.same(state.elastic.average, held().elastic.average)


def test_with_decay_1_the_average_is_constant_and_play_unchanged():
    still, moving = (played(decay=d)[0][-1] for d in (1.0, 0.5))
    checks.same(still.elastic.average, game.agents(tiny_game.params()))
    checks.same(still.learner, moving.learner)
    assert distance(moving.elastic.average, still.elastic.average) > 0


# Layouts


@pytest.mark.slow
def test_devices_that_share_the_rows_learn_what_one_learns():
    hyper = tiny_game.traced(HYPER._replace(kl_coef=0.1))
    step = functools.partial(
        game.step,
        networks=tiny_game.NETWORKS,
        tx=tiny_game.TX,
        config=tiny_game.CONFIG,
        axis_name=checks.AXIS,
    )
    mapped = jax.jit(jax.vmap(step, in_axes=(None, 0, None), axis_name=checks.AXIS))
    batch = tiny_game.batch()
    halves = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), batch)
    alone, named = programs()[0](tiny_game.start(), batch, hyper)
    both, metrics = mapped(tiny_game.start(), halves, hyper)
    for device in range(2):
        mine = jax.tree.map(lambda x, d=device: x[d], both.learner.params)
        jax.tree.map(lambda a, b: close(a, b, 1e-4, 1e-6), mine, alone.learner.params)
        for name, value in named.items():
            close(metrics[name][device], value, 1e-4, 1e-5)


def test_a_round_that_is_not_finite_is_skipped():
    state = tiny_game.start()
    broken = jax.tree.map(lambda x: x * jnp.nan, state.learner.params["receiver"])
    params = {**state.learner.params, "receiver": broken}
    state = state._replace(learner=state.learner._replace(params=params))
    after, metrics = programs()[0](state, tiny_game.batch(), tiny_game.traced(HYPER))
    assert metrics["optim/skipped"] == 1
    checks.same(sender(after), sender(state))
