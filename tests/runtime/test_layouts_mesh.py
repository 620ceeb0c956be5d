"""One result on a mesh, whichever axes it has, and on devices without one; and from
each layout into each by a checkpoint."""

import functools

import checks
import jax
import jax.numpy as jnp
import mesh_runs
import numpy as np
import pytest
import tiny

from rlhf_jax import optim, sampling, training
from rlhf_jax.algorithms import policy_gradient, sft
from rlhf_jax.runtime import checkpoint, packing, parallel, processes
from rlhf_jax.types import Tokens

MESHES = ("fsdp", "fsdp,tensor")
ALL = (("data", 1), ("data", 2), ("data", 4), *((name, None) for name in MESHES))
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
on_meshes = pytest.mark.parametrize("name", MESHES)


def alike(actual, expected):
    actual, expected = processes.to_numpy(actual), processes.to_numpy(expected)
    jax.tree.map(lambda x, y: checks.close(x, y, **TOLERANCE), actual, expected)


def plain(tree):
    """A pytree of numpy arrays, typed keys as numbers."""

    def one(x):
        key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return processes.to_numpy(jax.random.key_data(x) if key else x)

    return jax.tree.map(one, tree)


@functools.cache
def learned(name, count=None):
    """(state on the host, metrics) after all iterations on a layout."""
    state, metrics = mesh_runs.learn(parallel.layout(name, count))
    return plain(state), metrics


# Learning


def check_learning(name, count=None):
    state, metrics = learned(name, count)
    expected, named = learned("data", 1)
    alike(state.learner.params, expected.learner.params)
    alike(state.learner.opt_state, expected.learner.opt_state)
    alike(state.elastic, expected.elastic)
    for one, other in zip(metrics, named, strict=True):
        alike(one, other)
    start = mesh_runs.start().learner.params["policy"]["embedding"]["token"]
    moved = np.abs(state.learner.params["policy"]["embedding"]["token"] - start).max()
    assert state.learner.updates == 10 and moved > 100 * TOLERANCE["atol"]


@on_meshes
def test_five_iterations_do_not_know_their_mesh(name):
    """Ragged rollouts, two minibatches, Adam, a shared trunk: ten updates."""
    check_learning(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"), [("data", 2), ("data", 4), ("data:2,fsdp:2", None)]
)
def test_five_iterations_do_not_know_their_layout(name, count):
    check_learning(name, count)


@on_meshes
def test_learning_keeps_parameters_sharded(name):
    layout = parallel.layout(name)
    state, _ = mesh_runs.learn(layout, last=1)
    placed = layout.put(mesh_runs.start())
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(placed), strict=True):
        assert x.sharding == y.sharding
    query = state.learner.params["policy"]["layers"]["attention"]["query"]["kernel"]
    assert query.addressable_shards[0].data.size == query.size // 4


@on_meshes
def test_micro_batches_on_a_mesh_add_up_to_the_minibatch(name):
    layout, config = parallel.layout(name), optim.Config()
    tx = optim.transformation(config)
    rollout, _ = mesh_runs.recorded(0)
    prompt = np.zeros_like(rollout.mask[:, : tiny.PROMPT])
    targets = np.concatenate([prompt, rollout.response_mask], axis=1)
    batch = Tokens(rollout.tokens, rollout.mask, targets)
    hyper = training.Hyper(jnp.float32(1e-3), jnp.int32(5))
    params = tiny.policy_params()

    def step(state, batch, hyper, *, axis_name, parts):
        loss = sft.make_loss(tiny.BIGRAM)
        run = training.make_step(
            loss,
            tx,
            config=config,
            count=sft.count,
            micro_batches=parts,
            axis_name=axis_name,
        )
        return run(state, batch, hyper)

    alone = functools.partial(step, axis_name=None, parts=1)
    expected, _ = alone(training.init(params, tx), batch, hyper)
    program = layout.compile(functools.partial(step, parts=2), rows_in=(1,))
    state = layout.put(training.init(params, tx))
    state, _ = program(state, layout.shard_rows(batch), hyper)
    alike(state.params, expected.params)


# Sampling


@pytest.mark.parametrize("name", (*MESHES, "data:2,fsdp"))
def test_row_keys_do_not_know_their_mesh(name):
    layout = parallel.layout(name)

    def draw(state, batch, *, axis_name):
        del axis_name
        sample_key, _ = policy_gradient.keys(state)
        return jax.random.key_data(sampling.row_keys(sample_key, batch.row_ids))

    state, batch = tiny.start(tiny.config()), tiny.batch()
    program = layout.compile(draw, rows_in=(1,), rows_out=(0,), outputs=1)
    found = layout.gather(program(layout.put(state), layout.shard_rows(batch)))
    np.testing.assert_array_equal(found, draw(state, batch, axis_name=None))
    assert len(np.unique(found, axis=0)) == tiny.ROWS


def test_equal_logits_give_equal_samples_bit_for_bit():
    """Two candidates a prompt, so that rows and prompts are dealt differently."""
    layout, config = parallel.layout("fsdp"), tiny.config("rloo")

    def draw(state, batch, *, axis_name):
        del axis_name
        networks = tiny.networks(config)
        return policy_gradient.rollout(state, batch, networks=networks, config=config)

    program = layout.compile(draw, rows_in=(1,), rows_out=(0,), outputs=1)
    drawn = program(tiny.start(config), layout.shard_rows(tiny.batch()))
    assert drawn.tokens.sharding.shard_shape(drawn.tokens.shape)[0] == 4
    expected = tiny.rollout(config)(tiny.start(config), tiny.batch())
    checks.same(layout.gather(drawn), jax.device_get(expected))


# The rim


@on_meshes
def test_a_placed_state_goes_through_one_program(name):
    """Whatever a state lay like before: placed, returned, restored, or elsewhere."""
    layout, traced = parallel.layout(name), []

    def step(state, rows, *, axis_name):
        traced.append(axis_name)
        return jax.tree.map(lambda x: x + rows.sum(), state), 0

    program = layout.compile(step, rows_in=(1,))
    rows = layout.shard_rows(np.ones((4, 1), np.float32))
    start = {"embedding": {"token": jnp.zeros((8, 8))}, "b": jnp.zeros(())}
    state = layout.put(start)
    for _ in range(3):
        state, _ = program(state, rows)
    like = layout.like(state)
    restored = jax.tree.map(lambda x, y: jax.device_put(x, y.sharding), state, like)
    program(restored, rows)
    moved = jax.tree.map(lambda x: jax.device_put(x, layout.replicated), state)
    out, _ = program(moved, rows)
    program(start, rows)
    assert traced == [None]
    assert [p._cache_size() for p in program._programs.values()] == [1]
    assert out["embedding"]["token"].sharding == state["embedding"]["token"].sharding
    np.testing.assert_array_equal(out["b"], 16.0)
    shapes = jax.eval_shape(lambda: layout.put(start))
    assert shapes["b"].shape == ()


def test_a_donated_state_is_taken_over():
    layout = parallel.layout("fsdp")

    def step(state, rows, *, axis_name):
        return state + rows.sum(), rows * 2

    program = layout.compile(step, rows_in=(1,), rows_out=(1,), donate=(0,))
    state = layout.put(jnp.zeros((4, 4)))
    out, rows = program(state, layout.shard_rows(np.ones((4, 1), np.float32)))
    assert state.is_deleted() and not out.is_deleted()
    np.testing.assert_array_equal(layout.gather(rows), np.full((4, 1), 2.0))
    kept = layout.snapshot({"x": out})
    again, _ = program(out, layout.shard_rows(np.ones((4, 1), np.float32)))
    np.testing.assert_array_equal(kept["x"], np.full((4, 4), 4.0))
    np.testing.assert_array_equal(again, np.full((4, 4), 8.0))


@pytest.mark.parametrize("rows", [1, 7, 8])
def test_over_rows_takes_any_number_of_rows(rows):
    layout = parallel.layout("fsdp,tensor")
    call = layout.over_rows(lambda a, x: {"y": a * x["v"]}, replicated=1)
    x = {"v": np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)}
    np.testing.assert_array_equal(call(jnp.float32(3.0), x)["y"], 3 * x["v"])


@on_meshes
def test_shard_and_gather_keep_the_order_of_rows(name):
    layout, x = parallel.layout(name), np.arange(24).reshape(8, 3)
    sharded = layout.shard_rows({"x": x})
    assert sharded["x"].sharding == layout.rows
    np.testing.assert_array_equal(layout.gather(sharded)["x"], x)


def test_rows_that_a_mesh_does_not_divide_are_named():
    layout = parallel.layout("fsdp:2,tensor:2")
    match = r"7 rows.*2 devices \(fsdp:2,tensor:2\).*batch size.*--layout"
    with pytest.raises(ValueError, match=match):
        layout.shard_rows(np.zeros((7, 2)))


# From one layout to another


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """{layout: Checkpointer} of two iterations, large leaves saved separately."""
    patch = pytest.MonkeyPatch()
    patch.setattr(packing, "SEPARATE", 128)
    made = {}
    for name, count in (("data", 1), *((name, None) for name in MESHES)):
        state, _ = mesh_runs.learn(parallel.layout(name, count), last=2)
        folder = tmp_path_factory.mktemp("run")
        made[name] = checkpoint.Checkpointer(folder, config_digest="mesh")
        made[name].save(2, state)
        made[name] = made[name], plain(state)
    patch.undo()
    return made


@pytest.mark.parametrize(("into", "count"), ALL)
@pytest.mark.parametrize("origin", ("data", *MESHES))
def test_a_checkpoint_of_each_layout_restores_into_each(saved, origin, into, count):
    layout = parallel.layout(into, count)
    run, expected = saved[origin]
    step, state, _ = run.restore(layout.like(jax.eval_shape(mesh_runs.start)))
    assert step == 2
    checks.same(plain(state), expected)
    like = layout.like(jax.eval_shape(mesh_runs.start))
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(like), strict=True):
        assert x.sharding == y.sharding


@pytest.mark.parametrize(
    ("origin", "into"), [("data", "fsdp,tensor"), ("fsdp,tensor", "fsdp")]
)
def test_learning_goes_on_from_a_checkpoint_of_another_layout(saved, origin, into):
    layout = parallel.layout(into)
    like = layout.like(jax.eval_shape(mesh_runs.start))
    state = saved[origin][0].restore(like)[1]
    state, _ = mesh_runs.learn(layout, state, first=2)
    expected = learned("data", 1)[0]
    alike(state.learner.params, expected.learner.params)
