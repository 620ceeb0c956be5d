"""Averages of two models: bytes per second, next to those of a plain copy.

An average is limited by memory, at any size that exceeds the caches, so two models of
any size are represented by as many numbers as fit.
"""

import functools

import jax
import jax.numpy as jnp

from experiments.throughput import measure
from rlhf_jax import averaging, ema

LEAF = 1 << 26  # numbers in a leaf: the largest matrices of a 7B model have 45M to 131M
# How many trees an operation reads and writes, and the operation, whose result takes
# the place of its first argument: new memory is slower to get than to fill on a CPU.
OPERATIONS = {
    "copy": (2, lambda a, b, weight: jax.tree.map(lambda x: x + 1.0, a)),
    "interpolate": (3, averaging.interpolate),
    "add_vectors": (3, lambda a, b, weight: averaging.add_vectors(a, [b], [weight])),
    "soup": (3, lambda a, b, weight: averaging.soup([a, b], [1.0 - weight, weight])),
    "ema": (3, lambda a, b, weight: ema.update(a, b, decay=weight)),
}


def race(gib, rounds):
    """Times all operations on two float32 models of `gib` GiB each, in turn.

    Returns {operation: {"seconds", "gib_per_second", "of_copy": {"median", "low",
    "high"}}}, the last: bytes per second over those of the copy of the same round.
    """
    trees = {"a": model(gib, 1.0), "b": model(gib, 2.0)}
    size, weight = sum(x.nbytes for x in trees["a"]), jnp.float32(0.3)

    def advance(program):
        trees["a"] = program(trees.pop("a"), trees["b"], weight)
        return trees["a"]

    calls = {}
    for name, (_, operation) in OPERATIONS.items():
        program = jax.jit(operation, donate_argnums=0)
        jax.block_until_ready(advance(program))  # compiled
        call = functools.partial(advance, program)
        calls[name] = functools.partial(measure.seconds, call)
    times = measure.alternate(calls, rounds)
    return {name: _describe(name, times, size) for name in OPERATIONS}


def model(gib, value):
    """A float32 model of `gib` GiB, all its weights one number: [leaves]."""
    count = int(gib * measure.GIB) // 4
    sizes = [LEAF] * (count // LEAF) + [count % LEAF] * (count % LEAF > 0)
    return [jnp.full(size, value, jnp.float32) for size in sizes]


def _describe(name, times, size):
    trees, took = OPERATIONS[name][0], measure.median(times[name])
    faster = measure.ratios(times[name], times["copy"])
    return {
        "seconds": took,
        "gib_per_second": trees * size / took / measure.GIB,
        "of_copy": {key: trees / 2 * ratio for key, ratio in faster.items()},
    }
