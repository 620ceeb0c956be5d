"""optim: Adam, schedules, decay and clipping against what they claim."""

import dataclasses

import checks
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from checks import close

from rlhf_jax import optim

BETA1, BETA2, EPS = 0.9, 0.999, 1e-5
STEPS = 12
SHAPES = {"layer": {"kernel": (3, 4), "bias": (4,)}, "norm": {"scale": (4,)}}
PLAIN = optim.Config(max_grad_norm=None)


def tree(rng, size=1.0):
    return {
        outer: {
            name: jnp.asarray(rng.normal(size=shape) * size, jnp.float32)
            for name, shape in inner.items()
        }
        for outer, inner in SHAPES.items()
    }


def run(config, gradients, params):
    """The updates of a transformation on a sequence of gradients."""
    tx = optim.transformation(config)
    update = jax.jit(tx.update)
    state, out = tx.init(params), []
    for grads in gradients:
        updates, state = update(grads, state, params)
        out.append(updates)
    return out


def adam_in_float64(gradients):
    """Kingma & Ba's Adam of one leaf."""
    mean = square = 0.0
    for time, grad in enumerate(np.asarray(gradients, np.float64), start=1):
        mean = BETA1 * mean + (1 - BETA1) * grad
        square = BETA2 * square + (1 - BETA2) * grad**2
        unbiased = mean / (1 - BETA1**time)
        yield unbiased / (np.sqrt(square / (1 - BETA2**time)) + EPS)


def test_adam_is_the_float64_formula(rng):
    # Of the size of ε, so that where ε stands is seen.
    gradients = [tree(rng, size=1e-4) for _ in range(STEPS)]
    updates = run(PLAIN, gradients, tree(rng))
    for outer, inner in SHAPES.items():
        for name in inner:
            oracle = adam_in_float64([g[outer][name] for g in gradients])
            for actual, expected in zip(updates, oracle, strict=True):
                close(actual[outer][name], expected, rtol=1e-5, atol=1e-6)


def test_first_updates_by_hand():
    """m̂/√v̂ is the sign of g at first, but for ε."""
    grad = {"kernel": jnp.full((2, 2), 1e-5)}
    (ours,) = run(PLAIN, [grad], grad)
    # g / (g + ε), both 1e-5; 1 − β₂ in float32 has four digits, and a root halves that.
    close(ours["kernel"], np.full((2, 2), 0.5), rtol=1e-5)


def test_decay_reaches_kernels_and_embeddings_only(rng):
    """Stacked layers make biases matrices [L, D]: the name decides, not the rank."""
    params = {
        "embedding": {"token": jnp.ones((5, 3))},
        "layers": {"query": {"kernel": jnp.ones((2, 3, 3)), "bias": jnp.ones((2, 3))}},
        "final_norm": {"scale": jnp.ones(3), "bias": jnp.ones(3)},
    }
    zeros = jax.tree.map(jnp.zeros_like, params)
    config = dataclasses.replace(PLAIN, weight_decay=0.25)
    (updates,) = run(config, [zeros], params)
    close(updates["embedding"]["token"], np.full((5, 3), 0.25))
    close(updates["layers"]["query"]["kernel"], np.full((2, 3, 3), 0.25))
    assert not updates["layers"]["query"]["bias"].any()
    assert not jax.tree.reduce(
        lambda any_, x: any_ | x.any(), updates["final_norm"], False
    )


def test_decay_is_decoupled_from_the_gradient(rng):
    params, grads = tree(rng), tree(rng)
    (plain,) = run(PLAIN, [grads], params)
    (decayed,) = run(dataclasses.replace(PLAIN, weight_decay=0.1), [grads], params)
    kernel = params["layer"]["kernel"]
    close(
        decayed["layer"]["kernel"],
        plain["layer"]["kernel"] + 0.1 * kernel,
        rtol=1e-5,
        atol=1e-6,
    )
    checks.same(decayed["layer"]["bias"], plain["layer"]["bias"])


def test_clipping_scales_the_whole_gradient_to_the_norm(rng):
    """Adam on the gradient (3, 4)·1e-5 clipped to norm 1e-5 sees (0.6, 0.8)·1e-5."""
    grads = {"kernel": jnp.array([[3e-5]]), "bias": jnp.array([4e-5])}
    config = dataclasses.replace(PLAIN, max_grad_norm=1e-5)
    (clipped,) = run(config, [grads], grads)
    close(clipped["kernel"], [[0.6 / 1.6]], rtol=1e-5)
    close(clipped["bias"], [0.8 / 1.8], rtol=1e-5)
    (wide,) = run(dataclasses.replace(PLAIN, max_grad_norm=1.0), [grads], grads)
    (off,) = run(PLAIN, [grads], grads)
    checks.same(wide, off)


SCHEDULES = {
    # update: factor of the peak, total 8
    ("constant", 0): {0: 1.0, 7: 1.0, 100: 1.0},
    ("constant", 4): {0: 0.25, 1: 0.5, 3: 1.0, 100: 1.0},
    ("linear", 0): {0: 1.0, 2: 0.75, 4: 0.5, 8: 0.0, 100: 0.0},
    ("linear", 4): {0: 0.25, 3: 1.0, 4: 1.0, 6: 0.5, 8: 0.0},
    ("cosine", 0): {0: 1.0, 4: 0.5, 8: 0.0, 100: 0.0},
    ("cosine", 4): {0: 0.25, 3: 1.0, 6: 0.5, 8: 0.0},
}


@pytest.mark.parametrize("schedule, warmup", SCHEDULES)
def test_schedules_by_hand(schedule, warmup):
    config = optim.Config(schedule=schedule, warmup=warmup)
    for update, factor in SCHEDULES[schedule, warmup].items():
        rate = optim.learning_rate(config, update, peak=0.5, total=8)
        assert rate.dtype == jnp.float32 and rate.shape == ()
        close(rate, 0.5 * factor)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_are_those_of_optax(schedule):
    total, peak = 10, 3e-4
    oracle = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, total),
        "cosine": optax.cosine_decay_schedule(peak, total),
    }[schedule]
    config = optim.Config(schedule=schedule)
    for update in range(total + 2):
        rate = optim.learning_rate(config, update, peak=peak, total=total)
        close(rate, oracle(update), atol=1e-10)


def test_a_total_below_the_warm_up_divides_by_nothing():
    config = optim.Config(schedule="linear", warmup=10)
    rates = [
        float(optim.learning_rate(config, update, peak=1.0, total=5))
        for update in range(12)
    ]
    assert np.isfinite(rates).all() and rates[:10] == sorted(rates[:10])
    assert rates[-1] == 0.0


def test_one_trace_serves_every_peak_and_total():
    config = optim.Config(schedule="cosine", warmup=2)
    rate = jax.jit(lambda u, p, t: optim.learning_rate(config, u, peak=p, total=t))
    for peak, total in ((1e-3, 10), (2e-4, 100), (0.5, 7)):
        close(
            rate(jnp.int32(3), jnp.float32(peak), jnp.int32(total)),
            optim.learning_rate(config, 3, peak=peak, total=total),
        )
    assert rate._cache_size() == 1
