"""One result on 1, 2 and 4 devices, on every one of them, and under vmap over seeds."""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rlhf_jax import optim, sampling, training
from rlhf_jax.algorithms import policy_gradient, sft
from rlhf_jax.runtime import parallel
from rlhf_jax.types import Tokens

PPO = tiny.config()
RLOO = tiny.config("rloo")
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
several = pytest.mark.parametrize("devices", [2, 4])


def as_data(tree):
    """A pytree whose keys are numbers, to compare."""

    def plain(x):
        key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return jax.random.key_data(x) if key else x

    return jax.tree.map(plain, tree)


def one_of(results):
    """What the first device says, when all of them say the same bit for bit.

    Read on the host: indexing replicas on the devices would be a collective a leaf.
    """
    plain = jax.device_get(as_data(results))
    first = jax.tree.map(lambda x: x[0], plain)
    for device in range(1, jax.tree.leaves(plain)[0].shape[0]):
        checks.same(jax.tree.map(lambda x, i=device: x[i], plain), first)

    def again(x, like):
        key = jnp.issubdtype(like.dtype, jax.dtypes.prng_key)
        return jax.random.wrap_key_data(x) if key else jnp.asarray(x)

    return jax.tree.map(again, first, results)


def replicas(layout, step, *, rows_in):
    """`step` compiled as the layout does it, with the results of every device."""
    step = functools.partial(step, axis_name=parallel.AXIS)
    count = parallel._positions(step)
    in_axes = tuple(0 if i in rows_in else None for i in range(count))
    return jax.pmap(
        step, axis_name=parallel.AXIS, in_axes=in_axes, devices=layout.devices
    )


def alike(actual, expected):
    jax.tree.map(lambda x, y: checks.close(x, y, **TOLERANCE), actual, expected)


@functools.cache
def recorded(config, model, iterations=5):
    """Rollouts and scores of a run on one device, and its states."""
    states, rows = [tiny.start(config, model=model)], []
    for number in range(iterations):
        state, drawn, _ = tiny.iteration(config, model)(
            states[-1], tiny.FROZEN, tiny.batch(number), tiny.traced()
        )
        states.append(state)
        rows.append(drawn)
    return states, rows


# Sampling.


@several
def test_row_keys_do_not_know_their_device(devices):
    layout = parallel.data(devices)

    def draw(state, batch, *, axis_name):
        del axis_name
        sample_key, _ = policy_gradient.keys(state)
        return jax.random.key_data(sampling.row_keys(sample_key, batch.row_ids))

    state, batch = tiny.start(PPO), tiny.batch()
    program = layout.compile(draw, rows_in=(1,), rows_out=(0,), outputs=1)
    found = layout.gather(program(state, layout.shard_rows(batch)))
    np.testing.assert_array_equal(found, draw(state, batch, axis_name=None))
    assert len(np.unique(found, axis=0)) == tiny.ROWS


def rollout_on(layout, config, model):
    def draw(state, batch, *, axis_name):
        del axis_name
        networks = tiny.networks(config, model)
        return policy_gradient.rollout(state, batch, networks=networks, config=config)

    program = layout.compile(draw, rows_in=(1,), rows_out=(0,), outputs=1)
    state = tiny.start(config, model=model)
    return layout.gather(program(state, layout.shard_rows(tiny.batch())))


@several
def test_equal_logits_give_equal_samples_bit_for_bit(devices):
    """Two candidates a prompt, so that rows and prompts are dealt differently."""
    expected = tiny.rollout(RLOO)(tiny.start(RLOO), tiny.batch())
    checks.same(rollout_on(parallel.data(devices), RLOO, tiny.BIGRAM), expected)


def test_a_real_network_draws_the_same_tokens():
    state = tiny.start(PPO, model=tiny.DECODER)
    expected = tiny.rollout(PPO, tiny.DECODER)(state, tiny.batch())
    drawn = rollout_on(parallel.data(4), PPO, tiny.DECODER)
    np.testing.assert_array_equal(drawn.tokens, expected.tokens)
    np.testing.assert_array_equal(drawn.response_mask, expected.response_mask)
    checks.close(drawn.logps, expected.logps, **TOLERANCE)


# Learning. Every program returns the results of all its devices.


def learned(layout, config, model):
    """The state after learning from the recorded rollouts on a layout."""
    learn = functools.partial(policy_gradient.learn, **tiny.fixed(config, model))
    program = replicas(layout, learn, rows_in=(1, 2))
    states, rows = recorded(config, model)
    state = states[0]
    for (drawn, scores), expected in zip(rows, states[1:], strict=True):
        drawn, scores = layout.shard_rows(jax.device_get((drawn, scores)))
        state, metrics = one_of(program(state, drawn, scores, tiny.traced()))
        alike(state.learner.params, expected.learner.params)
        assert metrics["objective/scores"].shape == ()
    return state, states[-1]


@several
def test_five_iterations_of_learning_do_not_know_their_devices(devices):
    """Ragged rollouts, two epochs of two minibatches, Adam: 20 updates."""
    lengths = {tuple(np.asarray(r.response_mask.sum(-1))) for (r, _) in recorded_rows()}
    assert len(lengths) > 1 and all(len(set(each)) > 1 for each in lengths)
    actual, expected = learned(parallel.data(devices), PPO, tiny.BIGRAM)
    alike(actual.learner.opt_state, expected.learner.opt_state)
    alike(actual.elastic, expected.elastic)
    checks.same(as_data(actual.key), as_data(expected.key))
    assert actual.iteration == 5 and actual.learner.updates == 20


def recorded_rows():
    return recorded(PPO, tiny.BIGRAM)[1]


@pytest.mark.slow
@several
def test_learning_of_a_real_network_does_not_know_its_devices(devices):
    config = tiny.config(value="shared")
    learned(parallel.data(devices), config, tiny.DECODER)


def test_the_fused_iteration_is_the_same_on_every_device():
    layout = parallel.data(2)
    step = functools.partial(
        policy_gradient.iteration, **tiny.fixed(PPO), score=tiny.score
    )
    program = replicas(layout, step, rows_in=(2,))
    states, rows = recorded(PPO, tiny.BIGRAM)
    batch = layout.shard_rows(tiny.batch(0))
    state, drawn, metrics = program(states[0], tiny.FROZEN, batch, tiny.traced())
    one_of(metrics)
    alike(one_of(state).learner.params, states[1].learner.params)
    checks.same(layout.gather(drawn), jax.device_get(rows[0]))


def supervised_batch():
    """Left-padded texts of which the last tokens, more or fewer, are learned."""
    drawn, _ = recorded_rows()[0]
    targets = np.asarray(drawn.mask) * (np.arange(drawn.mask.shape[1]) >= tiny.PROMPT)
    return Tokens(np.asarray(drawn.tokens), np.asarray(drawn.mask), targets)


def test_the_supervised_step_is_the_same_on_every_device():
    layout, config = parallel.data(4), optim.Config()
    tx = optim.transformation(config)

    def step(state, batch, hyper, *, axis_name=None):
        loss = sft.make_loss(tiny.DECODER)
        run = training.make_step(
            loss, tx, config=config, count=sft.count, axis_name=axis_name
        )
        return run(state, batch, hyper)

    single, parallel_step = jax.jit(step), replicas(layout, step, rows_in=(1,))
    hyper = training.Hyper(jnp.float32(1e-3), jnp.int32(5))
    state = expected = training.init(tiny.policy_params(tiny.DECODER), tx)
    batch = supervised_batch()
    for _ in range(5):
        expected, named = single(expected, batch, hyper)
        state, metrics = one_of(parallel_step(state, layout.shard_rows(batch), hyper))
        alike(metrics, named)
    alike(state.params, expected.params)


# What cannot be shared out.


def test_rows_that_devices_do_not_divide_are_named():
    with pytest.raises(ValueError, match=r"6 rows.*4 devices.*batch size.*--devices"):
        parallel.data(4).shard_rows(np.zeros((6, 2)))


def test_minibatches_that_devices_do_not_divide_are_named():
    layout = parallel.data(4)
    config = tiny.config(minibatches=4)
    learn = functools.partial(policy_gradient.learn, **tiny.fixed(config))
    drawn, scores = layout.shard_rows(jax.device_get(recorded_rows()[0]))
    with pytest.raises(ValueError, match=r"8 rows.*4 minibatches on 4 devices"):
        replicas(layout, learn, rows_in=(1, 2))(
            tiny.start(config), drawn, scores, tiny.traced()
        )


@pytest.mark.parametrize("count", [0, 5])
def test_devices_that_are_not_there_are_named(count):
    with pytest.raises(ValueError, match=f"--devices {count}: this host has 4 cpu"):
        parallel.data(count)


# The rim.


def test_shard_and_gather_keep_the_order_of_rows():
    layout, x = parallel.data(4), np.arange(24).reshape(8, 3)
    sharded = layout.shard_rows({"x": x})
    assert sharded["x"].shape == (4, 2, 3)
    np.testing.assert_array_equal(layout.gather(sharded)["x"], x)


@pytest.mark.parametrize("rows", [1, 7, 8])
def test_over_rows_takes_any_number_of_rows(rows):
    layout = parallel.data(4)
    call = layout.over_rows(lambda a, x: {"y": a * x["v"]}, replicated=1)
    x = {"v": np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)}
    np.testing.assert_array_equal(call(jnp.float32(3.0), x)["y"], 3 * x["v"])


def test_a_donated_state_is_taken_over():
    layout = parallel.data(2)

    def step(state, rows, *, axis_name):
        return state + jax.lax.psum(rows.sum(), axis_name), rows * 2

    program = layout.compile(step, rows_in=(1,), rows_out=(1,), donate=(0,))
    state = jnp.zeros(3)
    out, rows = program(state, layout.shard_rows(np.ones((4, 1), np.float32)))
    assert out.shape == (3,) and rows.shape == (2, 2, 1)
    kept = jnp.array(out, copy=True)  # what was read itself, jax 0.11.2 leaves alone
    again, _ = program(out, layout.shard_rows(np.ones((4, 1), np.float32)))
    assert out.is_deleted()
    np.testing.assert_array_equal(kept, [4.0, 4.0, 4.0])
    np.testing.assert_array_equal(again, [8.0, 8.0, 8.0])


@pytest.mark.parametrize("devices", [1, 2])
def test_a_placed_state_goes_through_one_program(devices):
    layout, traced = parallel.data(devices), []

    def step(state, rows, *, axis_name):
        traced.append(axis_name)
        return jax.tree.map(lambda x: x + jax.lax.psum(rows.sum(), axis_name), state), 0

    program = layout.compile(step, rows_in=(1,))
    rows = layout.shard_rows(np.ones((4, 1), np.float32))
    state = layout.put({"a": jnp.zeros(3), "b": jnp.zeros(())})
    for _ in range(3):
        state, _ = program(state, rows)
    like = layout.like(state)
    restored = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), state, like)
    program(restored, rows)
    assert len(traced) == 1


# Seeds side by side.


@pytest.fixture(scope="module")
def side_by_side():
    """The iteration under vmap over states and the parameters of the score."""
    config = tiny.config(sampler_changes=(("stop_axis", "seeds"),))
    step = functools.partial(
        policy_gradient.iteration, **tiny.fixed(config), score=tiny.score
    )
    over = jax.vmap(step, (0, 0, None, None), axis_name="seeds")
    return jax.jit(over)


def stacked(trees):
    return jax.tree.map(lambda *x: jnp.stack(x), *trees)


def test_vmapped_seeds_are_solo_seeds(side_by_side):
    solos = [tiny.start(PPO, seed=seed) for seed in (0, 1)]
    states, frozen = stacked(solos), jnp.ones(2)
    for number in range(3):
        states, (drawn, _), metrics = side_by_side(
            states, frozen, tiny.batch(number), tiny.traced()
        )
        for seed in (0, 1):
            solos[seed], (alone, _), named = tiny.iteration(PPO)(
                solos[seed], tiny.FROZEN, tiny.batch(number), tiny.traced()
            )
            pick = functools.partial(jax.tree.map, lambda x, i=seed: x[i])
            np.testing.assert_array_equal(pick(drawn).tokens, alone.tokens)
            alike(pick(states.learner), solos[seed].learner)
            alike(pick(states.elastic), solos[seed].elastic)
            alike(pick(metrics), named)
    assert (drawn.tokens[0] != drawn.tokens[1]).any()


def test_a_seed_that_turns_non_finite_is_frozen_and_the_other_goes_on(side_by_side):
    solos = [tiny.start(PPO, seed=seed) for seed in (0, 1)]
    states, _, metrics = side_by_side(
        stacked(solos), jnp.array([np.nan, 1.0]), tiny.batch(), tiny.traced()
    )
    np.testing.assert_array_equal(metrics["optim/skipped"], [4, 0])
    checks.same(
        jax.tree.map(lambda x: x[0], states.learner.params), solos[0].learner.params
    )
    alone, _, _ = tiny.iteration(PPO)(
        solos[1], tiny.FROZEN, tiny.batch(), tiny.traced()
    )
    alike(jax.tree.map(lambda x: x[1], states.learner), alone.learner)
