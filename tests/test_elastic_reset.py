"""elastic_reset: mechanics bit for bit, the paper's calendars and its ablations."""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.fixture
def trained():
    """(params, state) after three ticks of a policy that moved."""
    state = elastic_reset.init(tree(0))
    for seed in (1, 2, 3):
        params = tree(seed)
        state = elastic_reset.tick(params, state, decay=DECAY)
    return params, state


@pytest.fixture(params=["eager", "jit"])
def variant(request):
    return jax.jit if request.param == "jit" else lambda fn: fn


# The pieces.


def test_init_copies_the_parameters_twice(initial):
    state = elastic_reset.init(initial)
    checks.same(state.average, initial)
    checks.same(state.initial, initial)
    assert state.ticks == 0 and state.ticks.dtype == jnp.int32
    spots = checks.buffers((initial, state))
    assert len(set(spots)) == len(spots)


def test_init_of_bf16_keeps_the_anchor_and_averages_in_float32(initial):
    params = jax.tree.map(lambda x: x.astype(jnp.bfloat16), initial)
    state = elastic_reset.init(params)
    checks.same(state.initial, params)
    params, state = elastic_reset.reset(params, state)
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}
    assert {x.dtype for x in jax.tree.leaves(state.average)} == {jnp.dtype("float32")}


def test_tick_moves_the_average_only(initial):
    state = elastic_reset.init(initial)
    params = tree(1)
    after = elastic_reset.tick(params, state, decay=DECAY)
    checks.same(after.average, ema.update(state.average, params, decay=DECAY))
    checks.same(after.initial, state.initial)
    assert after.ticks == 1 and after.ticks.dtype == jnp.int32


def test_reset_is_the_average_then_the_anchor_bit_for_bit(trained, initial, variant):
    params, state = trained
    after, fresh = variant(elastic_reset.reset)(params, state)
    checks.same(after, state.average)
    checks.same(fresh.average, initial)
    checks.same(fresh.initial, initial)
    assert fresh.ticks == state.ticks == 3


def test_two_resets_without_training_end_at_the_anchor(trained, initial, variant):
    reset = variant(elastic_reset.reset)
    params, state = reset(*reset(*trained))
    checks.same(params, initial)
    checks.same(state.average, initial)


def test_inputs_are_left_as_they_were(trained, initial):
    params, state = trained
    before = trees.copy((params, state))
    elastic_reset.reset(params, state)
    elastic_reset.update(params, state, decay=DECAY, every=1)
    checks.same((params, state), before)


def test_decay_1_is_reset_to_the_anchor(initial, variant):
    update = variant(functools.partial(elastic_reset.update, decay=1.0, every=2))
    state = elastic_reset.init(initial)
    _, state = update(tree(1), state)
    params, _ = update(tree(2), state)
    checks.same(params, initial)


def test_decay_0_makes_the_policy_reset_a_no_op(initial, variant):
    update = variant(functools.partial(elastic_reset.update, decay=0.0, every=2))
    state = elastic_reset.init(initial)
    _, state = update(tree(1), state)
    params, state = update(tree(2), state)
    checks.same(params, tree(2))
    checks.same(state.average, initial)


def test_every_0_never_resets(initial, variant):
    update = variant(functools.partial(elastic_reset.update, decay=DECAY, every=0))
    state = elastic_reset.init(initial)
    for seed in range(5):
        params, state = update(tree(seed), state)
        checks.same(params, tree(seed))
    assert state.ticks == 5


def reference_run(walk, decay, every):
    """Algorithm 1 in numpy: tick, then θ ← θ̄ and θ̄ ← θ₀ at every `every`-th."""
    anchor = average = walk[0]
    params, out = anchor, []
    for i, step in enumerate(walk[1:], start=1):
        params = params + step
        average = decay * average + (1 - decay) * params
        if every and i % every == 0:
            params, average = average, anchor
        out.append((params, average))
    return out


@pytest.mark.parametrize("every", [0, 1, 3])
def test_update_is_the_algorithm_of_the_paper(every):
    walk = np.random.default_rng(0).normal(size=(8, 5))
    update = jax.jit(elastic_reset.update)
    params, state = jnp.asarray(walk[0], jnp.float32), None
    state = elastic_reset.init(params)
    for step, (goal, average) in zip(
        walk[1:], reference_run(walk, DECAY, every), strict=True
    ):
        moved = params + jnp.asarray(step, jnp.float32)
        params, state = update(moved, state, decay=DECAY, every=every)
        close(params, goal, 1e-5, 1e-6)
        close(state.average, average, 1e-5, 1e-6)


def test_update_is_tick_then_reset_bit_for_bit(trained):
    params, state = trained
    ticked = elastic_reset.tick(params, state, decay=DECAY)
    due = elastic_reset.update(params, state, decay=DECAY, every=4)
    checks.same(due, elastic_reset.reset(params, ticked))
    not_due = elastic_reset.update(params, state, decay=DECAY, every=5)
    checks.same(not_due, (params, ticked))


def test_update_is_traced_once_over_decays_and_intervals(trained):
    traces = []

    @jax.jit
    def compiled(params, state, decay, every):
        traces.append(1)
        return elastic_reset.update(params, state, decay=decay, every=every)

    for decay, every in ((0.9, 0), (0.5, 4), (0.995, 3)):
        eager = elastic_reset.update(*trained, decay=decay, every=every)
        out = compiled(*trained, decay, every)
        jax.tree.map(lambda x, y: close(x, y, 1e-6, 1e-7), out, eager)
    assert len(traces) == 1


@examples
@given(checks.floats((4,)), checks.floats((4,)), st.floats(0, 1))
def test_a_reset_never_leaves_the_hull_of_what_was_visited(start, end, decay):
    state = elastic_reset.init(jnp.asarray(start))
    params, _ = elastic_reset.update(jnp.asarray(end), state, decay=decay, every=1)
    assert (np.asarray(params) <= np.maximum(start, end) + 1e-6).all()
    assert (np.asarray(params) >= np.minimum(start, end) - 1e-6).all()


# Buffers.


def test_nothing_returned_shares_a_buffer(trained, variant):
    for fn in (
        elastic_reset.reset,
        functools.partial(elastic_reset.update, decay=DECAY, every=4),
        functools.partial(elastic_reset.update, decay=DECAY, every=5),
        elastic_reset.apply,
    ):
        spots = checks.buffers(variant(fn)(*trained))
        assert len(set(spots)) == len(spots)


def test_donation_through_many_resets_gives_the_same_numbers(initial):
    def step(params, state):
        params = jax.tree.map(lambda x: x + 1.0, params)
        return elastic_reset.update(params, state, decay=0.5, every=2)

    donating = jax.jit(step, donate_argnums=(0, 1))
    start = trees.copy(initial), elastic_reset.init(initial)
    kept, given = trees.copy(start), start
    for _ in range(5):
        given, kept = donating(*given), jax.jit(step)(*kept)
    assert all(x.is_deleted() for x in jax.tree.leaves(start))
    checks.same(given, kept)
    checks.same(given[1].initial, initial)


# Calendars.


def test_the_calendars_of_the_paper():
    assert elastic_reset.calendar(50, 17, at_zero=True) == [0, 17, 34]
    assert elastic_reset.calendar(50, 17) == [17, 34]
    assert elastic_reset.calendar(600, 260) == [260, 520]
    assert elastic_reset.calendar(600, 0, at_zero=True) == []


@examples
@given(st.integers(0, 40), st.integers(0, 9), st.booleans())
def test_due_is_the_calendar(iterations, every, at_zero):
    due = elastic_reset.due(np.arange(40), every=every, at_zero=at_zero)
    hits = [int(i) for i in np.flatnonzero(due) if i < iterations]
    assert hits == elastic_reset.calendar(iterations, every, at_zero)


def test_due_is_traced_once_and_never_at_every_0():
    traces = []

    @jax.jit
    def compiled(iteration, every, at_zero):
        traces.append(1)
        return elastic_reset.due(iteration, every=every, at_zero=at_zero)

    assert compiled(0, 17, True) and not compiled(0, 17, False)
    assert compiled(34, 17, False) and not compiled(16, 17, False)
    assert not compiled(0, 0, True) and not compiled(5, 0, True)
    assert len(traces) == 1


def test_retained_weights_of_the_paper():
    """The table of decays after 17 ticks, and StackLLaMA's 1040."""
    expected = {0.9: 0.833, 0.95: 0.582, 0.99: 0.157, 0.995: 0.082, 0.999: 0.017}
    for decay, weight in expected.items():
        assert round(elastic_reset.retained_weight(decay, 17), 3) == weight
    assert round(1 - elastic_reset.retained_weight(0.995, 1040), 3) == 0.005


@examples
@given(st.floats(0.01, 0.99), st.integers(1, 300))
def test_decay_for_inverts_the_retained_weight(weight, every):
    decay = elastic_reset.decay_for(weight, every)
    assert 0 < decay < 1
    close(elastic_reset.retained_weight(decay, every), weight, 1e-9)


def test_retained_weight_is_what_a_jump_leaves_in_the_average():
    """The anchor 0, every later policy 1: the average is the retained weight."""
    average = {"x": jnp.zeros(1)}
    for _ in range(17):
        average = ema.update(average, {"x": jnp.ones(1)}, decay=0.95)
    close(average["x"][0], elastic_reset.retained_weight(0.95, 17), 1e-6)
    assert elastic_reset.decay_for(0.75, 2) == 0.5


# The ablations.

SWITCHES = {
    "full": {},
    "average kept": {"reset_average": False},
    "initial": {"target": elastic_reset.INITIAL},
    "interpolation": {"target": elastic_reset.INTERPOLATION, "weight": 0.25},
    "never": {"when": False},
}


def test_apply_by_default_is_reset(trained, variant):
    checks.same(variant(elastic_reset.apply)(*trained), elastic_reset.reset(*trained))


def test_the_ablations_bit_for_bit(trained, initial):
    params, state = trained
    out = {
        name: elastic_reset.apply(params, state, **switches)
        for name, switches in SWITCHES.items()
    }
    checks.same(out["average kept"], (state.average, state))
    anchored = state._replace(average=initial)
    checks.same(out["initial"], (initial, anchored))
    mixed = trees.lerp(initial, params, 0.25)
    checks.same(out["interpolation"], (mixed, anchored))
    checks.same(out["never"], (params, state))


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_interpolation_has_exact_ends(trained, initial, weight):
    params, state = trained
    switches = {"target": elastic_reset.INTERPOLATION, "weight": weight}
    out, _ = elastic_reset.apply(params, state, **switches)
    checks.same(out, params if weight else initial)


def test_the_ablations_share_one_program(trained):
    traces = []

    @jax.jit
    def compiled(params, state, switches):
        traces.append(1)
        return elastic_reset.apply(params, state, **switches)

    default = {"when": True, "target": 0, "weight": 0.0, "reset_average": True}
    for switches in SWITCHES.values():
        eager = elastic_reset.apply(*trained, **switches)
        out = compiled(*trained, {**default, **switches})
        jax.tree.map(lambda x, y: close(x, y, 1e-6, 1e-7), out, eager)
    assert len(traces) == 1


def test_runs_with_different_calendars_share_a_vmapped_program(trained):
    params, state = trained
    stacked = jax.vmap(
        lambda every: elastic_reset.update(params, state, decay=DECAY, every=every)
    )(jnp.array([0, 4, 3]))
    for i, every in enumerate((0, 4, 3)):
        alone = elastic_reset.update(params, state, decay=DECAY, every=every)
        row = jax.tree.map(lambda x, i=i: x[i], stacked)
        jax.tree.map(lambda x, y: close(x, y, 1e-6, 1e-7), row, alone)


def test_junk_in_the_policy_does_not_survive_a_reset(initial):
    """θ is not read by a reset: NaN in it, skipped by the tick, is gone after."""
    state = elastic_reset.init(initial)
    junk = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), initial)
    checks.same(elastic_reset.reset(junk, state)[0], initial)
    checks.same(elastic_reset.apply(junk, state)[0], initial)
