"""The rim: where pure steps are compiled for devices.

A step takes `axis_name` and sees the rows of one device; state goes in and comes out
whole. `Data` runs it under `pmap`, with rows on a leading device axis and everything
else without one, so that resets and averages never know how many devices there are.

`mesh.Mesh` runs the same step under `jit`, for models that outgrow a device and for
many hosts. Both are used alike; `layout` makes the one that --layout names.
"""

import dataclasses
import functools
import inspect
import math

import jax
import numpy as np

from rlhf_jax import sharding
from rlhf_jax.runtime import mesh, processes

AXIS = "data"
_TENSOR = 2  # devices on "tensor" where nobody says how many


@dataclasses.dataclass(frozen=True)
class Data:
    """Data parallelism over `devices` by `pmap`: state replicated, rows shared out."""

    devices: tuple

    @property
    def size(self):
        """Over how many devices rows are shared out."""
        return len(self.devices)

    def compile(self, step, *, rows_in=(), rows_out=(), outputs=2, donate=()):
        """`step(..., axis_name=)` as one program on all devices.

        Args: rows_in: positions of the arguments that carry rows, from `shard`;
        rows_out: positions among the `outputs` results that do; donate: positions of
        arguments whose buffers the results may take over. A result without rows is
        the same on all devices, and what the first of them says is returned.
        """
        step = functools.partial(step, axis_name=AXIS)
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

    def replicas(self, step, *, rows_in=()):
        """`step` with every result of every device, for tests that compare them."""
        step = functools.partial(step, axis_name=AXIS)
        in_axes = tuple(0 if i in rows_in else None for i in range(_positions(step)))
        return jax.pmap(
            step, axis_name=AXIS, in_axes=in_axes, out_axes=0, devices=self.devices
        )

    def over_rows(self, fn, *, whole, chunk=256):
        """`fn(*whole, rows)` over all rows of a tree on the host, shared by devices.

        Args: fn(*whole, rows) -> pytree of [rows, ...]; whole: how many arguments
        come before the rows; chunk: at most so many rows at a time on all devices, to
        bound memory. Rows are padded with copies of the first, and the padding is cut
        off: any number of rows will do.
        """
        in_axes = (None,) * whole + (0,)
        program = jax.pmap(
            mesh.without_axis(fn),
            axis_name=AXIS,
            in_axes=in_axes,
            out_axes=0,
            devices=self.devices,
        )
        return mesh.in_chunks(program, self, chunk)

    def shard(self, tree):
        """[N, ...] → [devices, N / devices, ...], leaf by leaf."""

        def cut(x):
            rows = x.shape[0]
            if rows % self.size:
                raise ValueError(
                    f"{rows} rows cannot be shared by {self.size} devices; choose a "
                    f"batch size that {self.size} divides, or fewer --devices"
                )
            return np.asarray(x).reshape(self.size, rows // self.size, *x.shape[1:])

        return jax.tree.map(cut, tree)

    @property
    def whole(self):
        """The sharding of state: a copy on every device."""
        devices = jax.sharding.Mesh(np.array(self.devices), (AXIS,))
        return jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec())

    def place(self, tree):
        """State from anywhere, laid out as steps return it.

        A program is traced and compiled again for every layout of its arguments: what
        goes in first should lie as what comes out does.
        """
        return jax.device_put(tree, self.whole)

    def like(self, shapes):
        """Shapes with the sharding that state has: what a checkpoint restores to."""
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.whole),
            shapes,
        )

    def gather(self, tree):
        """[devices, n, ...] → [devices · n, ...], on the host."""
        tree = jax.device_get(tree)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), tree)

    def keep(self, tree):
        """State as it is now, whatever later steps do to its buffers."""
        return jax.device_get(tree)

    def describe(self, params):
        """Lines on how parameters lie, for a person; none where each device has all."""
        del params
        return ()


def _positions(step):
    """How many positional arguments a partial still takes."""
    kinds = inspect.signature(step).parameters.values()
    return sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in kinds)


def layout(name="data", devices=None):
    """The layout that --layout names, over `devices` of each host or all of them.

    "data": a copy of all weights on every device. "fsdp", "fsdp,tensor",
    "data:2,fsdp:4", ...: the axes of a mesh and how many devices each has. Of the axes
    without a number "tensor" has 2, and one other may have what is left.
    """
    if name == "data" and processes.count() == 1:
        return data(devices)
    chosen = _devices(devices)
    sizes = _sizes(name, len(chosen))
    if processes.count() > 1:
        each, tensor = len(chosen) // processes.count(), sizes.get("tensor", 1)
        if each % tensor:
            raise ValueError(
                f"--layout {name}: tensor:{tensor} would join devices of several "
                f"hosts of {each}; choose a size that {each} divides into"
            )
    grid = np.array(chosen).reshape(tuple(sizes.values()))
    return mesh.Mesh(jax.sharding.Mesh(grid, tuple(sizes)))


def _devices(count):
    """The first `count` devices of each host, host after host."""
    found = sorted(jax.devices(), key=lambda d: (d.process_index, d.id))
    if count is not None:
        _local(count)
        own = {}
        for device in found:
            own.setdefault(device.process_index, []).append(device)
        found = [device for each in own.values() for device in each[:count]]
    return found


def _sizes(layout, count):
    """{axis: devices} of a --layout for `count` devices, in the order of AXES."""
    sizes = {}
    for part in layout.split(","):
        name, _, number = part.partition(":")
        known = name in sharding.AXES and name not in sizes
        if not known or (number and not number.isdigit()) or number == "0":
            raise ValueError(
                f"--layout {layout}: {part!r} is none of data, fsdp and tensor, each "
                "once, with a number of devices behind a colon if you like"
            )
        sizes[name] = int(number) if number else None
    if "tensor" in sizes and sizes["tensor"] is None:
        sizes["tensor"] = _TENSOR if len(sizes) > 1 else count
    free = [name for name, size in sizes.items() if size is None]
    if len(free) > 1:
        raise ValueError(
            f"--layout {layout}: {' and '.join(free)} cannot both have what is left; "
            "say how many devices one has, as in data:2,fsdp"
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
    return Data(_local(count))


def _local(count):
    available = jax.local_devices()
    if count is not None and not 1 <= count <= len(available):
        raise ValueError(
            f"--devices {count}: this host has {len(available)} "
            f"{available[0].platform} device(s)"
        )
    return tuple(available[:count])
