"""training: the gradient of the global mean in any number of parts; what is skipped."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checks import close

from rlhf_jax import masking, optim, training
from rlhf_jax.runtime import parallel

ROWS, TOKENS, WIDTH = 8, 5, 3
AXIS = "data"
LENGTHS = (5, 1, 4, 1, 2, 1, 1, 3)  # ragged: every split has parts of unequal weight
HYPER = training.Hyper(jnp.float32(1e-2), jnp.int32(100))
CONFIG = optim.Config(max_grad_norm=1.0)


def example(seed=0):
    """Linear regression of tokens under a ragged mask."""
    rng = np.random.default_rng(seed)
    return {
        "x": rng.normal(size=(ROWS, TOKENS, WIDTH)).astype(np.float32),
        "y": rng.normal(size=(ROWS, TOKENS)).astype(np.float32),
        "mask": (np.arange(TOKENS) < np.array(LENGTHS)[:, None]).astype(np.int32),
    }


def start():
    return {"w": jnp.array([0.5, -1.0, 2.0]), "b": jnp.zeros(())}


def make_loss():
    def loss(params, batch, count):
        predicted = jnp.einsum("btd,d->bt", batch["x"], params["w"]) + params["b"]
        error = predicted - batch["y"]
        value = masking.mean(jnp.square(error), batch["mask"], count=count)
        largest = masking.zero(jnp.abs(error), batch["mask"]).max()
        bias = masking.mean(error, batch["mask"], count=count)
        return value, {"loss": value, "bias": bias, "error_max": largest}

    return loss


def count(batch):
    return batch["mask"].sum()


def oracle(params, batch):
    """The gradient and metrics of the mean over all valid tokens, in float64."""
    valid = batch["mask"] != 0
    x, y = batch["x"][valid].astype(np.float64), batch["y"][valid].astype(np.float64)
    error = x @ np.asarray(params["w"], np.float64) + float(params["b"]) - y
    grads = {"w": 2 * (error[:, None] * x).mean(0), "b": 2 * error.mean()}
    metrics = {
        "loss": (error**2).mean(),
        "bias": error.mean(),
        "error_max": np.abs(error).max(),
    }
    return grads, metrics


@pytest.fixture(scope="module")
def step():
    """A compiled supervised step on one device."""
    tx = optim.transformation(CONFIG)
    return jax.jit(training.make_step(make_loss(), tx, config=CONFIG, count=count))


@pytest.fixture
def state():
    return training.init(start(), optim.transformation(CONFIG))


# Accumulation.


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_ragged_parts_add_up_to_the_gradient_of_the_global_mean(parts):
    batch, params = example(), start()
    grads, metrics = jax.jit(
        lambda params, batch: training.gradients(
            make_loss(), params, batch, count=count(batch), micro_batches=parts
        )
    )(params, batch)
    expected, named = oracle(params, batch)
    close(grads["w"], expected["w"], rtol=1e-5, atol=1e-6)
    close(grads["b"], expected["b"], rtol=1e-5, atol=1e-6)
    assert set(metrics) == set(named)
    for name, value in named.items():
        close(metrics[name], value, rtol=1e-5, atol=1e-6)


def test_averaging_the_means_of_ragged_parts_is_something_else():
    """What the tests above would miss if the masks were not ragged."""
    batch, params = example(), start()
    pairs = [{k: v[i : i + 2] for k, v in batch.items()} for i in (0, 2, 4, 6)]
    naive = sum(oracle(params, pair)[0]["w"] for pair in pairs) / 4
    whole = oracle(params, batch)[0]["w"]
    assert np.abs(naive - whole).max() > 0.1 * np.abs(whole).max()


def test_a_maximum_of_negative_numbers_stays_negative():
    """The neutral start of a maximum is −∞, not 0."""

    def loss(params, batch, count):
        value = masking.mean(params * batch, jnp.ones_like(batch), count=count)
        return value, {"least_max": batch.max()}

    _, metrics = training.gradients(
        loss,
        jnp.float32(1.0),
        jnp.array([-3.0, -1.0, -4.0, -2.0]),
        count=4,
        micro_batches=2,
    )
    assert metrics["least_max"] == -1.0


def test_parts_that_do_not_divide_the_rows_are_named():
    with pytest.raises(ValueError, match=r"8 rows.*3 micro-batches.*divides"):
        training.gradients(make_loss(), start(), example(), count=1, micro_batches=3)


# Applying.


def test_apply_is_minus_rate_times_the_transformation(state):
    tx = optim.transformation(CONFIG)
    grads = {"w": jnp.array([0.1, -0.2, 0.3]), "b": jnp.array(0.4)}
    moved, metrics = training.apply(state, grads, tx, rate=0.5)
    updates, opt_state = tx.update(grads, state.opt_state, state.params)
    close(moved.params["w"], state.params["w"] - 0.5 * updates["w"])
    checks.same(moved.opt_state, opt_state)
    assert moved.updates == 1 and moved.skipped == 0
    assert moved.updates.dtype == jnp.int32
    close(metrics["grad_norm"], np.sqrt(0.01 + 0.04 + 0.09 + 0.16))
    assert metrics["finite"] == 1.0


BAD = {
    "nan in one element": {"w": [0.1, np.nan, 0.3], "b": 0.4},
    "inf in another leaf": {"w": [0.1, 0.2, 0.3], "b": -np.inf},
    # Finite, but its square is not: clipped to zeros, or for ever in the moments.
    "a square that overflows": {"w": [1e25, 0.2, 0.3], "b": 0.4},
}


@pytest.mark.parametrize("clip", [1.0, None])
@pytest.mark.parametrize("name", BAD)
def test_an_update_that_is_not_finite_is_skipped_counted_and_recovered(name, clip):
    tx = optim.transformation(optim.Config(max_grad_norm=clip))
    apply = jax.jit(lambda state, grads: training.apply(state, grads, tx, rate=0.1))
    good = {"w": jnp.array([0.1, -0.2, 0.3]), "b": jnp.array(0.4)}
    bad = jax.tree.map(
        lambda x: jnp.asarray(x, jnp.float32),
        BAD[name],
        is_leaf=lambda x: isinstance(x, list),
    )
    state, _ = apply(training.init(start(), tx), good)
    for times in (1, 2):
        stayed, metrics = apply(state, bad)
        checks.same(stayed._replace(skipped=state.skipped), state)
        assert stayed.skipped == times and metrics["finite"] == 0.0
        assert not np.isfinite(metrics["grad_norm"])
        state = stayed
    recovered, metrics = apply(state, good)
    assert recovered.skipped == 0 and recovered.updates == 2
    assert metrics["finite"] == 1.0
    # As if nothing had been between the two good gradients.
    expected, _ = apply(apply(training.init(start(), tx), good)[0], good)
    checks.same(recovered, expected)


def test_a_step_too_long_for_float32_is_skipped(state):
    tx = optim.transformation(CONFIG)
    grads = {"w": jnp.ones(3), "b": jnp.array(1.0)}
    stayed, metrics = training.apply(state, grads, tx, rate=jnp.float32(jnp.inf))
    checks.same(stayed.params, state.params)
    assert stayed.skipped == 1 and metrics["finite"] == 0.0


# The step.


def test_the_step_learns_and_counts(step, state):
    batch, losses = example(), []
    for update in range(50):
        before = state
        state, metrics = step(state, batch, HYPER)
        losses.append(float(metrics["loss"]))
        assert state.updates == update + 1
    assert losses[-1] < 0.7 * losses[0]
    assert jax.tree.structure(state) == jax.tree.structure(before)
    for x, y in zip(jax.tree.leaves(state), jax.tree.leaves(before), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
    assert set(metrics) == {
        "loss",
        "bias",
        "error_max",
        "grad_norm",
        "finite",
        "learning_rate",
        "skipped",
    }


def test_the_step_is_optax_by_hand(step, state):
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(1e-2, eps=CONFIG.eps)
    )
    params, opt_state = state.params, optimiser.init(state.params)
    for seed in range(5):
        batch = example(seed)
        grads = jax.grad(lambda p, b: make_loss()(p, b, count(b))[0])(params, batch)
        updates, opt_state = optimiser.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        state, _ = step(state, batch, HYPER)
    close(state.params["w"], params["w"], rtol=1e-5, atol=1e-7)


def test_one_trace_over_learning_rates_and_totals(step, state):
    before = step._cache_size()
    for rate, total in ((1e-3, 10), (2e-3, 20), (5e-3, 5)):
        step(state, example(), training.Hyper(jnp.float32(rate), jnp.int32(total)))
    assert step._cache_size() <= max(before, 1)


def test_the_step_is_the_same_eager(step, state):
    tx = optim.transformation(CONFIG)
    eager = training.make_step(make_loss(), tx, config=CONFIG, count=count)
    expected, metrics = eager(state, example(), HYPER)
    actual, compiled = step(state, example(), HYPER)
    for x, y in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        close(x, y, rtol=1e-6, atol=1e-6)
    for name in metrics:
        close(compiled[name], metrics[name], rtol=1e-5)


# Over devices.


def mapped_step(parts):
    """The step under `vmap(axis_name)`: rows [4, 2], state and metrics whole."""
    tx = optim.transformation(CONFIG)
    step = training.make_step(
        make_loss(),
        tx,
        config=CONFIG,
        count=count,
        micro_batches=parts,
        axis_name=AXIS,
    )
    return jax.jit(jax.vmap(step, (None, 0, None), axis_name=AXIS))


@pytest.mark.parametrize("parts", [1, 2])
def test_a_named_axis_changes_nothing(step, state, parts):
    program, whole = mapped_step(parts), state
    for seed in range(5):
        batch = example(seed)
        rows = jax.tree.map(lambda x: x.reshape(4, 2, *x.shape[1:]), batch)
        states, metrics = program(state, rows, HYPER)
        state = jax.tree.map(lambda x: x[0], states)
        for other in range(1, 4):
            checks.same(jax.tree.map(lambda x, i=other: x[i], states), state)
        whole, expected = step(whole, batch, HYPER)
        for name in expected:
            close(metrics[name][0], expected[name], rtol=1e-5, atol=1e-6)
    close(state.params["w"], whole.params["w"], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("devices", [2, 4])
def test_devices_change_nothing(step, state, devices):
    layout = parallel.data(devices)

    def program(state, batch, hyper, *, axis_name):
        tx = optim.transformation(CONFIG)
        loss = make_loss()
        run = training.make_step(
            loss, tx, config=CONFIG, count=count, axis_name=axis_name
        )
        return run(state, batch, hyper)

    compiled, whole = layout.compile(program, rows_in=(1,), donate=(0,)), state
    state = jax.tree.map(jnp.copy, state)
    for seed in range(5):
        batch = example(seed)
        whole, expected = step(whole, batch, HYPER)
        state, metrics = compiled(state, layout.shard_rows(batch), HYPER)
        for name in expected:
            close(metrics[name], expected[name], rtol=1e-5, atol=1e-6)
    close(state.params["w"], whole.params["w"], rtol=1e-5, atol=1e-7)
    assert state.updates == 5
