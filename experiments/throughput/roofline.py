"""How long an iteration takes at the least, by the published peaks of a chip.

Prompts, experience and updates are bound by arithmetic, sampling by arithmetic or by
reading weights and cache at every token, whichever is slower:

    t = ops / (D · peak) + max(ops_decode / (D · peak), bytes_decode / bandwidth)

over D devices, with Williams et al. 2009, "Roofline", as the model. What devices
exchange is left out, as if it hid behind arithmetic.
"""

import dataclasses
from typing import NamedTuple

from experiments.throughput import operations, workloads
from rlhf_jax.reporting import markdown


class Work(NamedTuple):
    """An iteration, and how it is sampled and learned from."""

    workload: workloads.Workload
    critic: bool
    copies: int  # responses that share the reading of a prompt


class Bound(NamedTuple):
    """Seconds at the least, and what they are made of."""

    operations: float  # of an iteration, on all devices
    learning: float  # seconds: prompts, experience, updates
    decoding: float  # seconds
    reads: bool  # decoding is bound by memory, not by arithmetic

    @property
    def seconds(self):
        """Of an iteration."""
        return self.learning + self.decoding


def bound(work, chip, *, devices, shards=1):
    """The `Bound` of an iteration on so many devices of a `topologies.Chip`.

    shards: devices that share the reading of one copy of the weights, see `shards`.
    """
    load, critic, copies = work
    total = operations.iteration(load, critic=critic, copies=copies)
    decode = operations.generate(load) - operations.prefill(load)
    rows = dataclasses.replace(load, rows=load.rows * shards / devices)
    read = operations.decode_bytes(rows) / shards / chip.bandwidth
    counted = decode / (devices * chip.flops)
    learning = (total - decode) / (devices * chip.flops)
    return Bound(total, learning, max(read, counted), read > counted)


def shards(layout):
    """Devices of a layout that hold one copy of the weights together: of one token a
    row each reads its part, and the states travel."""
    sizes = layout.mesh.shape if hasattr(layout, "mesh") else {}
    return sizes.get("fsdp", 1) * sizes.get("tensor", 1)


def lines(work, chip, layout):
    """The bound of a layout in words, with what it assumes."""
    count = len(layout.devices)
    least = bound(work, chip, devices=count, shards=shards(layout))
    seconds, learning, decoding = (
        markdown.number(x) for x in (least.seconds, least.learning, least.decoding)
    )
    peak, speed = chip.flops / 1e12, chip.bandwidth / 1e9
    limit = f"memory at {speed:g} GB/s" if least.reads else "arithmetic"
    yield f"an iteration is {least.operations / 1e12:.3g} Tflop"
    yield f"at the least {seconds} s: {learning} s of arithmetic, {decoding} s sampling"
    yield (
        f"(published peaks of a device: {peak:g} Tflop/s in bf16; sampling is bound by "
        f"{limit}; what devices exchange is left out)"
    )
