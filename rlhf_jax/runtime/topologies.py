"""Accelerators that are not here: their devices as a compiler knows them.

    devices = topologies.devices("tpu:v5e:2x4")

A TPU's compiler runs without a TPU. It comes with libtpu (the extra [plan], under
Google Cloud's licence), compiles for the devices of a described topology, and refuses
what does not fit. Nothing can run on such devices.
"""

import importlib.metadata
import importlib.util
import math
import os
import re
from typing import NamedTuple

import jax

GIB = 1024**3


class Chip(NamedTuple):
    """A device of a kind of TPU, as Google publishes it (cloud.google.com/tpu/docs)."""

    accelerator: str  # as TPU_ACCELERATOR_TYPE begins
    flops: float  # in bfloat16, a second, of one device
    bandwidth: float  # bytes of its memory a second
    memory: float  # bytes
    host: tuple[int, int, int]  # chips of one host, at most
    cores: int = 1  # devices of a chip


CHIPS = {
    "v4": Chip("v4", 137.5e12, 614e9, 16 * GIB, (2, 2, 1), cores=2),
    "v5e": Chip("v5litepod", 197e12, 819e9, 16 * GIB, (2, 4, 1)),
    "v5p": Chip("v5p", 459e12, 2765e9, 95 * GIB, (2, 2, 1)),
    "v6e": Chip("v6e", 918e12, 1640e9, 32 * GIB, (2, 4, 1)),
}
_TARGET = re.compile(r"tpu:(?P<kind>\w+):(?P<grid>\d+(x\d+){1,2})$")


class Target(NamedTuple):
    """A topology by name: "tpu:v5e:2x4" is a v5e slice of 2 × 4 chips."""

    name: str
    kind: str
    grid: tuple[int, ...]

    @property
    def chip(self):
        """What is published of its devices."""
        return CHIPS[self.kind]


def parse(name):
    """The `Target` of a name. Raises ValueError for one that cannot be a topology."""
    match = _TARGET.match(name)
    if match is None or match["kind"] not in CHIPS:
        kinds = ", ".join(CHIPS)
        raise ValueError(
            f"--target {name}: name a slice of TPUs as tpu:KIND:GRID, KIND one of "
            f"{kinds}, as in tpu:v5e:2x4 or tpu:v5p:2x2x1"
        )
    grid = tuple(map(int, match["grid"].split("x")))
    example = "2x4" if math.prod(CHIPS[match["kind"]].host) == 8 else "2x2x1"
    if len(grid) != len(example.split("x")) or 0 in grid:
        raise ValueError(
            f"--target {name}: write the chips of a {match['kind']} slice in each of "
            f"its dimensions, as in tpu:{match['kind']}:{example}"
        )
    return Target(name, match["kind"], grid)


def devices(target):
    """The devices of a `Target`, which programs can be compiled for.

    Raises ValueError where libtpu is not installed, is in use by another process, or
    knows no such topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"--target {target.name}: the TPU's compiler is not installed; "
            "pip install 'rlhf_jax[plan]' (libtpu, under Google Cloud's licence)"
        )
    count = math.prod(target.grid) * target.chip.cores
    settings = {
        "TPU_SKIP_MDS_QUERY": "1",  # there is no metadata server to ask
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": f"{target.chip.accelerator}-{count}",
    }
    os.environ.update({k: os.environ.get(k, v) for k, v in settings.items()})
    if not jax.config.jax_platforms:
        jax.config.update("jax_platforms", "cpu")  # a TPU is not looked for
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(
            platform="tpu",
            topology_name=f"{target.kind}:{'x'.join(map(str, target.grid))}",
            chips_per_host_bounds=_host(target),
        )
    except (jax.errors.JaxRuntimeError, RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"--target {target.name}: {reason}") from None
    return tuple(described.devices)


def version():
    """The version of libtpu, the compiler."""
    return importlib.metadata.version("libtpu")


def _host(target):
    """Chips of one host, in each direction: all of a small slice."""
    grid, most = (*target.grid, 1)[:3], target.chip.host
    whole = math.prod(grid) <= math.prod(most)
    return grid if whole else (2, 2, 1)
