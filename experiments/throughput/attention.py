"""XLA's attention against cuDNN's flash attention, as a workload trains with it.

Which one is faster depends on the device, its libraries and the lengths, and a library
may refuse a shape: so both are tried, and compared, before a workload is timed.
"""

import functools

import jax
import jax.numpy as jnp

from experiments.throughput import measure
from rlhf_jax.models import fused

LARGEST = 0.02  # difference in bf16, of the largest number of XLA's


def applies(work, layout):
    """Whether there is a choice: on NVIDIA's devices, in 16 bits, without a cap."""
    c = work.decoder
    half = jnp.dtype(c.dtype).itemsize == 2
    return layout.devices[0].platform == "gpu" and half and c.score_cap is None


def race(work, rounds):
    """Times output and gradients of one layer's attention on a micro-batch.

    Returns {"xla_seconds", "cudnn_seconds", "difference", "chosen"}, or where cuDNN
    refuses {"xla_seconds", "refused", "chosen"}. The difference is the largest of
    outputs and gradients, over the largest of XLA's; cuDNN is chosen if it is faster
    and that is at most `LARGEST`.
    """
    arrays = _arrays(work)
    calls = {
        name: functools.partial(
            jax.jit(functools.partial(_gradients, cudnn=name == "cudnn")), *arrays
        )
        for name in ("xla", "cudnn")
    }
    expected = jax.block_until_ready(calls["xla"]())
    try:
        found = jax.block_until_ready(calls["cudnn"]())
    except Exception as error:  # of a library: whatever it is, XLA's remains
        seconds = measure.seconds(calls["xla"])
        refused = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return {"xla_seconds": seconds, "refused": refused, "chosen": "auto"}
    timed = {k: functools.partial(measure.seconds, call) for k, call in calls.items()}
    times = measure.alternate(timed, rounds)
    xla, cudnn = measure.median(times["xla"]), measure.median(times["cudnn"])
    difference = max(map(_difference, expected, found))
    better = cudnn < xla and difference <= LARGEST
    return {
        "xla_seconds": xla,
        "cudnn_seconds": cudnn,
        "difference": difference,
        "chosen": "cudnn" if better else "auto",
    }


def _arrays(work):
    """(queries, keys, values, mask) of a micro-batch, a quarter of the prompt padded in
    every other row."""
    c, rows, length = work.decoder, work.rows // work.micro_batches, work.length
    keys = jax.random.split(jax.random.key(0), 3)
    heads = (c.heads, c.kv_heads, c.kv_heads)
    states = [
        jax.random.normal(key, (rows, length, n, c.head_dim)).astype(c.dtype)
        for key, n in zip(keys, heads, strict=True)
    ]
    start = jnp.where(jnp.arange(rows) % 2, work.prompt_length // 4, 0)
    valid = jnp.arange(length)[None] >= start[:, None]
    causal = jnp.tril(jnp.ones((length, length), bool))
    return *states, causal[None] & valid[:, None]


def _gradients(q, k, v, mask, *, cudnn):
    """(output, gradients of its sum of squares) where a query sees something."""
    seen = mask.any(-1)[:, :, None, None]

    def loss(q, k, v):
        out = fused.attend(q, k, v, mask, scale=q.shape[-1] ** -0.5, cudnn=cudnn)
        out = jnp.where(seen, out, 0.0).astype(jnp.float32)
        return jnp.square(out).sum(), out

    gradients, out = jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
    return out, *gradients


def _difference(expected, found):
    """The largest difference of two arrays, over the largest number of the first."""
    expected, found = (x.astype(jnp.float32) for x in (expected, found))
    return float(jnp.abs(expected - found).max() / jnp.abs(expected).max())
