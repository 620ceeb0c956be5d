"""elastic_reset.wrap: the same resets inside any optax loop."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax import elastic_reset, ema, trees

DECAY = 0.9


def tree(seed):
    rng = np.random.default_rng(seed)
    return {
        "trunk": {"kernel": jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)},
        "head": jnp.asarray(rng.normal(size=4), jnp.float32),
    }


@pytest.fixture
def initial():
    return tree(0)


def loss(params, target):
    gaps = jax.tree.map(lambda p, t: jnp.square(p - t).sum(), params, target)
    return sum(jax.tree.leaves(gaps))


def foreign_loop(optimizer, params, steps):
    """A training loop that knows nothing of resets. Returns params of every step."""

    @jax.jit
    def step(params, state):
        grads = jax.grad(loss)(params, tree(9))
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state, path = optimizer.init(params), []
    for _ in range(steps):
        params, state = step(params, state)
        path.append(params)
    return path, state


def loop(optimizer, params, steps, *, decay, every):
    """The same training with `update` called by hand."""

    @jax.jit
    def step(params, inner, elastic):
        grads = jax.grad(loss)(params, tree(9))
        updates, inner = optimizer.update(grads, inner, params)
        params = optax.apply_updates(params, updates)
        params, elastic = elastic_reset.update(
            params, elastic, decay=decay, every=every
        )
        return params, inner, elastic

    inner, elastic, path = optimizer.init(params), elastic_reset.init(params), []
    for _ in range(steps):
        params, inner, elastic = step(params, inner, elastic)
        path.append(params)
    return path, elastic


def one_rounding(actual, expected):
    """Equal to a unit in the last place of the larger step, a few steps on."""
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=4e-7)


@pytest.mark.parametrize("every", [0, 1, 3])
def test_wrap_does_what_update_does_in_a_foreign_loop(initial, every):
    adam = optax.adam(0.1)
    wrapped = elastic_reset.wrap(adam, decay=DECAY, every=every)
    path, state = foreign_loop(wrapped, initial, 7)
    expected, elastic = loop(adam, initial, 7, decay=DECAY, every=every)
    for actual, goal in zip(path, expected, strict=True):
        one_rounding(actual, goal)
    one_rounding(state.elastic.average, elastic.average)
    checks.same(state.elastic.initial, initial)
    assert state.elastic.ticks == 7


def test_wrap_lands_on_the_average_to_one_rounding(initial):
    """θ + fl(θ̄ − θ) is θ̄ to half a unit of the last place of the larger of the two."""
    wrapped = elastic_reset.wrap(optax.sgd(0.1), decay=DECAY, every=1)
    path, state = foreign_loop(wrapped, initial, 1)
    stepped, _ = foreign_loop(optax.sgd(0.1), initial, 1)
    goal = ema.update(initial, stepped[0], decay=DECAY)
    for x, y, p in zip(*map(jax.tree.leaves, (path[0], goal, initial)), strict=True):
        bound = np.spacing(np.maximum(np.abs(x), np.maximum(np.abs(y), np.abs(p))))
        assert (np.abs(np.asarray(x) - np.asarray(y)) <= bound).all()
    checks.same(state.elastic.average, initial)


def test_wrap_without_resets_is_the_optimiser_bit_for_bit(initial):
    adam = optax.adam(0.1)
    wrapped = elastic_reset.wrap(adam, decay=DECAY, every=0)
    path, _ = foreign_loop(wrapped, initial, 4)
    checks.same(path, foreign_loop(adam, initial, 4)[0])


MASKS = {
    "full": {"trunk": {"kernel": True}, "head": False},
    "prefix": {"trunk": True, "head": False},
    "callable": lambda params: {name: name == "trunk" for name in params},
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_wrap_leaves_masked_parameters_to_the_optimiser(initial, mask):
    adam = optax.adam(0.1)
    wrapped = elastic_reset.wrap(adam, decay=DECAY, every=2, mask=mask)
    path, state = foreign_loop(wrapped, initial, 4)
    plain, _ = foreign_loop(adam, initial, 4)
    expected, _ = loop(adam, initial, 4, decay=DECAY, every=2)
    one_rounding(path[-1]["trunk"], expected[-1]["trunk"])
    checks.same(path[-1]["head"], plain[-1]["head"])
    assert trees.size(state.elastic.average) == initial["trunk"]["kernel"].size


def test_wrap_takes_traced_schedules_and_extra_arguments(initial):
    traces = []

    @jax.jit
    def once(decay, every):
        traces.append(1)
        wrapped = elastic_reset.wrap(optax.sgd(0.1), decay=decay, every=every)
        grads = jax.grad(loss)(initial, tree(9))
        updates, _ = wrapped.update(grads, wrapped.init(initial), initial, value=1.0)
        return updates

    moved, stopped = once(DECAY, 0), once(1.0, 1)
    assert trees.norm(moved) > 0 and trees.norm(stopped) == 0
    assert len(traces) == 1


def test_wrap_asks_for_the_parameters(initial):
    wrapped = elastic_reset.wrap(optax.sgd(0.1), decay=DECAY, every=2)
    with pytest.raises(ValueError, match="params"):
        wrapped.update(initial, wrapped.init(initial))


def accumulated(optimizer, params, batches):
    """Params after each batch of gradients, given to the optimiser one by one."""
    update, state, path = jax.jit(optimizer.update), optimizer.init(params), []
    for parts in batches:
        for grads in parts:
            updates, state = update(grads, state, params)
            params = optax.apply_updates(params, updates)
        path.append(params)
    return path, state


def test_multi_steps_around_wrap_is_wrap_on_the_large_batch(initial):
    """Resets fall after updates 2 and 4, whatever the calls in between."""
    parts, wrapped = 3, elastic_reset.wrap(optax.adam(0.1), decay=DECAY, every=2)
    batches = [[tree(10 * i + j) for j in range(parts)] for i in range(5)]
    whole = [[jax.tree.map(lambda *x: sum(x) / parts, *batch)] for batch in batches]
    many = optax.MultiSteps(wrapped, parts)
    path, state = accumulated(many, initial, batches)
    expected, large = accumulated(wrapped, initial, whole)
    for actual, goal in zip(path, expected, strict=True):
        one_rounding(actual, goal)
    one_rounding(state.inner_opt_state.elastic.average, large.elastic.average)
    assert state.inner_opt_state.elastic.ticks == large.elastic.ticks == 5
    assert state.gradient_step == 5


@pytest.mark.parametrize(
    "accumulate",
    [
        lambda optimizer: optax.MultiSteps(optimizer, 2),
        lambda optimizer: optax.MultiSteps(optimizer, 2).gradient_transformation(),
        lambda optimizer: optax.chain(
            optax.clip(1.0), optax.MultiSteps(optimizer, 2).gradient_transformation()
        ),
    ],
)
def test_wrap_around_multi_steps_is_refused(initial, accumulate):
    with pytest.raises(ValueError, match=r"write optax.MultiSteps\(elastic_reset.wrap"):
        elastic_reset.wrap(accumulate(optax.sgd(0.1)), decay=DECAY, every=2).init(
            initial
        )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decay": 2}, "decay=2: must be a number of at least 0 and of at most 1"),
        ({"every": -1}, "every=-1: must be a whole number of at least 0"),
        ({"every": 2.5}, "every=2.5: must be a whole number of at least 0"),
    ],
)
def test_wrap_refuses_what_no_schedule_is(changes, words):
    with pytest.raises(ValueError, match=words):
        elastic_reset.wrap(optax.sgd(0.1), **{"decay": DECAY, "every": 2, **changes})
