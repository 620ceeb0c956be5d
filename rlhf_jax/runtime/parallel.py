"""Layouts: how pure steps are compiled for one device or many.

A step takes `axis_name` and sees the rows of one device; state is replicated. `Data`
runs it under `pmap`: rows have a leading device axis and nothing else does, so resets
and averages do not depend on the number of devices.

`mesh.Mesh` runs the same step under `jit`, for models that outgrow a device and for
several hosts. Both have the same methods; `layout` returns the one that --layout names.
"""

import dataclasses
import functools
import inspect
import itertools
import math

import jax
import numpy as np

from rlhf_jax import sharding
from rlhf_jax.runtime import mesh

AXIS = "data"
_TENSOR = 2  # devices on "tensor" unless the layout gives a number


@dataclasses.dataclass(frozen=True)
class Data:
    """Data parallelism over `devices` with `pmap`: replicated state, sharded rows."""

    devices: tuple

    @property
    def axes(self):
        """The names of the axes that devices are on."""
        return (AXIS,)

    @property
    def size(self):
        """How many devices the rows are divided among."""
        return len(self.devices)

    def compile(self, step, *, rows_in=(), rows_out=(), outputs=2, donate=()):
        """Compiles `step(..., axis_name=)` as one program on all devices.

        Args:
          rows_in: positions of the arguments that hold rows, made by `shard_rows`.
          rows_out: positions of the results, out of `outputs`, that hold rows; the
            others must be equal on all devices, and the first one's is returned.
          donate: positions of arguments whose buffers the results may reuse.
        """
        step = functools.partial(self._on_platform(step), axis_name=AXIS)
        names = _positions(step)
        out_axes = tuple(0 if i in rows_out else None for i in range(outputs))
        return jax.pmap(
            step,
            axis_name=AXIS,
            in_axes=tuple(0 if i in rows_in else None for i in range(names)),
            out_axes=out_axes if outputs > 1 else out_axes[0],
            devices=self.devices,
            donate_argnums=donate,
        )

    def over_rows(self, fn, *, replicated, chunk=256):
        """A function that applies `fn` to any number of rows on the host.

        Rows are padded to full chunks with copies of the first row, whose results are
        dropped.

        Args:
          fn: fn(*replicated, rows) -> pytree of [rows, ...].
          replicated: how many arguments come before the rows.
          chunk: the most rows at a time on all devices together, to limit memory.
        """
        in_axes = (None,) * replicated + (0,)
        program = jax.pmap(
            self._on_platform(mesh.without_axis(fn)),
            axis_name=AXIS,
            in_axes=in_axes,
            out_axes=0,
            devices=self.devices,
        )
        return mesh.in_chunks(program, self, chunk)

    def _on_platform(self, step):
        return mesh.traced_for(step, self.devices[0].platform)

    def rows_like(self, tree):
        """What `shard_rows` makes of rows, as shapes."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), self.shard_rows(tree)
        )

    def shard_rows(self, tree):
        """[N, ...] → [devices, N / devices, ...], leaf by leaf.

        Raises ValueError unless the number of devices divides N.
        """

        def shard(x):
            rows = x.shape[0]
            if rows % self.size:
                raise ValueError(
                    f"{rows} rows cannot be shared by {self.size} devices; choose a "
                    f"batch size that {self.size} divides, or fewer --devices"
                )
            return np.asarray(x).reshape(self.size, rows // self.size, *x.shape[1:])

        return jax.tree.map(shard, tree)

    @property
    def replicated(self):
        """The sharding of state: a complete copy on every device."""
        devices = jax.sharding.Mesh(np.array(self.devices), (AXIS,))
        return jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec())

    def put(self, tree):
        """State from anywhere, laid out as steps return it.

        A program is compiled again for every layout of its arguments, so the first
        arguments should have the layout of the results.
        """
        return jax.device_put(tree, self.replicated)

    def like(self, shapes):
        """Shapes with the sharding of state, as a target for restoring checkpoints."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.replicated),
            shapes,
        )

    def gather(self, tree):
        """[devices, n, ...] → [devices · n, ...], on the host."""
        tree = jax.device_get(tree)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

    def snapshot(self, tree):
        """A copy of state on the host, which later steps cannot overwrite."""
        return jax.device_get(tree)

    def describe(self, params):
        """Lines of text on how parameters are sharded: none, as they are not."""
        del params
        return ()


def _positions(step):
    """How many positional arguments a partial function still takes."""
    kinds = inspect.signature(step).parameters.values()
    return sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in kinds)


def layout(name="data", devices=None, *, among=None):
    """The layout that --layout names.

    Args:
      name: "data" keeps a copy of all weights on every device. "fsdp", "fsdp,tensor",
        "data:2,fsdp:4", ... name the axes of a mesh and their sizes; without a number
        "tensor" is 2 next to other axes, and one axis may take the remaining devices.
      devices: how many devices of each host to use; None: all.
      among: devices to choose from, such as those of `topologies`; by default those
        that are attached.
    Raises ValueError if the sizes do not fit the devices.
    """
    chosen = _devices(devices, jax.devices() if among is None else among)
    hosts = len({device.process_index for device in chosen})
    if name == "data" and hosts == 1:
        return Data(chosen)
    sizes = _sizes(name, len(chosen))
    if hosts > 1:
        each, tensor = len(chosen) // hosts, sizes.get("tensor", 1)
        if each % tensor:
            raise ValueError(
                f"--layout {name}: tensor:{tensor} would join devices of several "
                f"hosts of {each}; choose a size that {each} divides into"
            )
    grid = np.array(chosen).reshape(tuple(sizes.values()))
    return mesh.Mesh(jax.sharding.Mesh(grid, tuple(sizes)))


def _devices(count, available):
    """The first `count` devices of each host, host after host."""
    devices = sorted(available, key=lambda d: (d.process_index, d.id))
    hosts = itertools.groupby(devices, key=lambda d: d.process_index)
    return sum((_first(count, list(host)) for _, host in hosts), ())


def _sizes(layout, count):
    """{axis: size} of a --layout for `count` devices, in the order of AXES."""
    sizes = {}
    for part in layout.split(","):
        name, _, number = part.partition(":")
        known = name in sharding.AXES and name not in sizes
        if not known or (number and not number.isdigit()) or number == "0":
            raise ValueError(
                f"--layout {layout}: {part!r} is not data, fsdp or tensor, each at "
                "most once, optionally with a number of devices after a colon"
            )
        sizes[name] = int(number) if number else None
    if "tensor" in sizes and sizes["tensor"] is None:
        sizes["tensor"] = _TENSOR if len(sizes) > 1 else count
    free = [name for name, size in sizes.items() if size is None]
    if len(free) > 1:
        raise ValueError(
            f"--layout {layout}: {' and '.join(free)} cannot both take the remaining "
            "devices; give one of them a number, as in data:2,fsdp"
        )
    known = math.prod(size for size in sizes.values() if size is not None)
    if free:
        sizes[free[0]] = count // known
    if math.prod(sizes.values()) != count:
        shown = ",".join(f"{name}:{size or '?'}" for name, size in sizes.items())
        raise ValueError(
            f"--layout {layout}: {shown} does not make {count} devices; change the "
            "sizes or --devices"
        )
    return {name: sizes[name] for name in sharding.AXES if name in sizes}


def data(count=None):
    """`Data` over the first `count` devices of this host, all of them by default."""
    return Data(_first(count, jax.local_devices()))


def _first(count, devices):
    """The first `count` devices of a host, all of them where it is None."""
    if count is not None and not 1 <= count <= len(devices):
        raise ValueError(
            f"--devices {count}: this host has {len(devices)} "
            f"{devices[0].platform} device(s)"
        )
    return tuple(devices[:count])
