"""The rim: where pure steps are compiled for devices.

A step takes `axis_name` and sees the rows of one device; state goes in and comes out
whole. `Data` runs it under `pmap`, with rows on a leading device axis and everything
else without one, so that resets and averages never know how many devices there are.
"""

import dataclasses
import functools
import inspect

import jax
import numpy as np

AXIS = "data"


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

        def step(*args, axis_name=None):
            del axis_name
            return fn(*args)

        in_axes = (None,) * whole + (0,)
        program = jax.pmap(
            step, axis_name=AXIS, in_axes=in_axes, out_axes=0, devices=self.devices
        )

        def call(*args):
            *before, rows = args
            count = jax.tree.leaves(rows)[0].shape[0]
            size = min(-(-count // self.size), -(-chunk // self.size)) * self.size
            parts = []
            for start in range(0, count, size):
                index = np.arange(start, start + size)
                index = np.where(index < count, index, 0)
                padded = jax.tree.map(lambda x, i=index: np.asarray(x)[i], rows)
                parts.append(self.gather(program(*before, self.shard(padded))))
            whole_rows = jax.tree.map(lambda *x: np.concatenate(x), *parts)
            return jax.tree.map(lambda x: x[:count], whole_rows)

        return call

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
        mesh = jax.sharding.Mesh(np.array(self.devices), (AXIS,))
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())

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


def _positions(step):
    """How many positional arguments a partial still takes."""
    kinds = inspect.signature(step).parameters.values()
    return sum(p.kind is p.POSITIONAL_OR_KEYWORD for p in kinds)


def data(count=None):
    """`Data` over the first `count` devices of this host, all of them by default."""
    available = jax.local_devices()
    if count is not None and not 1 <= count <= len(available):
        raise ValueError(
            f"--devices {count}: this host has {len(available)} "
            f"{available[0].platform} device(s)"
        )
    return Data(tuple(available[:count]))
