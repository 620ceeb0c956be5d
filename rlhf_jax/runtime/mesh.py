"""The layout of models that outgrow a device, and of many hosts: `jit` over a mesh.

The step is the one that `parallel.Data` runs under `pmap`, with `axis_name=None`: rows
are global, and plain sums over them are right. What lies where is a matter of shardings
alone, so that what is computed does not know them.
"""

import dataclasses
import functools
import math

import jax
import numpy as np

from rlhf_jax import sharding, trees
from rlhf_jax.runtime import processes


@dataclasses.dataclass(frozen=True)
class Mesh:
    """All hosts' devices on the axes of `sharding`; parameters cut along two of them.

    mesh: rows lie in the order of its devices, so that each host's are together.
    """

    mesh: jax.sharding.Mesh

    @property
    def devices(self):
        """Of all hosts."""
        return tuple(self.mesh.devices.flat)

    @property
    def size(self):
        """Over how many groups of devices rows are shared out."""
        sizes = self.mesh.shape
        return math.prod(sizes.get(name, 1) for name in sharding.ROWS)

    @property
    def name(self):
        """As --layout takes it: "fsdp:2,tensor:2"."""
        return ",".join(f"{axis}:{n}" for axis, n in self.mesh.shape.items())

    @property
    def whole(self):
        """The sharding of what every device has all of."""
        return jax.NamedSharding(self.mesh, jax.P())

    @property
    def rows(self):
        """The sharding of rows."""
        return jax.NamedSharding(self.mesh, sharding.rows(self.mesh.axis_names))

    def compile(self, step, *, rows_in=(), rows_out=(), outputs=2, donate=()):
        """As `Data.compile`; what has no rows is laid out by `place`, in and out."""
        step = functools.partial(step, axis_name=None)
        return _Program(self, step, rows_in, rows_out, outputs, donate)

    def over_rows(self, fn, *, whole, chunk=256):
        """As `Data.over_rows`; every host has all rows and is given all results."""
        program = _Program(self, without_axis(fn), (whole,), (0,), 1, ())
        return in_chunks(program, self, chunk)

    def shard(self, tree):
        """[N, ...] on every host → the same, each device with its own rows."""

        def cut(x):
            x = np.asarray(x)
            self._check(x.shape[0])
            return jax.make_array_from_callback(x.shape, self.rows, lambda i: x[i])

        return jax.tree.map(cut, tree)

    def shard_own(self, tree):
        """[N / hosts, ...], a host's own rows → [N, ...], first those of host 0.

        For data of which each host reads its share alone: `batching.Epochs` with
        `process_index` and `process_count`.
        """

        def cut(x):
            x = np.asarray(x)
            self._check(x.shape[0] * processes.count())
            return jax.make_array_from_process_local_data(self.rows, x)

        return jax.tree.map(cut, tree)

    def _check(self, rows):
        if rows % self.size:
            raise ValueError(
                f"{rows} rows cannot be shared by {self.size} devices ({self.name}); "
                f"choose a batch size that {self.size} divides, or another --layout"
            )

    def gather(self, tree):
        """[N, ...] on devices → the same as numpy arrays, on every host."""
        return processes.values(tree)

    def place(self, tree):
        """State from anywhere, laid out as steps return it: see `Data.place`."""
        leaves, structure = jax.tree.flatten(tree)
        pairs = zip(leaves, self.shardings(tree), strict=True)
        return jax.tree.unflatten(structure, [_put(x, where) for x, where in pairs])

    def arrange(self, tree):
        """`place` for arguments: `jit` itself copies what is not on a device yet."""
        leaves, structure = jax.tree.flatten(tree)
        pairs = zip(leaves, self.shardings(tree), strict=True)
        moved = [_put(x, at) if isinstance(x, jax.Array) else x for x, at in pairs]
        return jax.tree.unflatten(structure, moved)

    def like(self, shapes):
        """Shapes with the shardings that state has: what a checkpoint restores to."""
        leaves, structure = jax.tree.flatten(shapes)
        made = [
            jax.ShapeDtypeStruct(
                x.shape,
                x.dtype,
                sharding=where,
                weak_type=getattr(x, "weak_type", False),
            )
            for x, where in zip(leaves, self.shardings(shapes), strict=True)
        ]
        return jax.tree.unflatten(structure, made)

    def shardings(self, tree):
        """The sharding of each leaf of a state, in the order of `jax.tree.leaves`."""
        leaves, structure = jax.tree.flatten(tree)
        return _shardings(self.mesh, structure, tuple(np.shape(x) for x in leaves))

    def keep(self, tree):
        """As `Data.keep`; with many hosts a copy on the devices, for no host has all
        of it."""
        return trees.copy(tree) if processes.count() > 1 else jax.device_get(tree)

    def describe(self, params):
        """Lines on how parameters lie: bytes a device, and what could not be cut."""
        found = sharding.specs(params, self.mesh.shape)
        places = zip(jax.tree.leaves(params), self.shardings(params), strict=True)
        sizes = [
            (math.prod(where.shard_shape(x.shape)) * x.dtype.itemsize, x.nbytes)
            for x, where in places
        ]
        own, total = (sum(column) / 1e6 for column in zip(*sizes, strict=True))
        count = processes.count()
        place = "one host" if count == 1 else f"{count} hosts"
        reasons = [reason for _, reason in found.values() if reason]
        return (
            f"{self.name} on {place}: {own:.3g} of {total:.3g} MB of the policy's "
            "parameters on each device",
            *(f"not cut: {reason}" for reason in reasons),
        )


class _Program:
    """A step compiled for a mesh, once for each set of shapes it is called with."""

    def __init__(self, layout, step, rows_in, rows_out, outputs, donate):
        self._layout, self._rows_in, self._rows_out = layout, rows_in, rows_out
        self._outputs, self._donate = outputs, donate
        self._programs = {}

        @functools.wraps(step)
        def traced(*args):
            with jax.sharding.use_abstract_mesh(layout.mesh.abstract_mesh):
                return step(*args)

        self._step = traced

    def __call__(self, *args):
        arrange = self._layout.arrange
        args = [x if i in self._rows_in else arrange(x) for i, x in enumerate(args)]
        leaves, structure = jax.tree.flatten(args)
        kinds = tuple((np.shape(x), getattr(x, "dtype", type(x))) for x in leaves)
        if (structure, kinds) not in self._programs:
            self._programs[structure, kinds] = self._compile(args)
        return self._programs[structure, kinds](*args)

    def lower(self, *args):
        """As a jitted function's: traced for arguments or their shapes."""
        return self._compile(args).lower(*args)

    def _compile(self, args):
        """The traced step is found again by `jit`: it is traced once, for its shapes
        and for itself."""
        shapes = jax.jit(self._step).trace(*args).out_info
        shapes = shapes if self._outputs > 1 else (shapes,)
        layouts = []
        for i, tree in enumerate(shapes):
            if i in self._rows_out:
                layouts.append(jax.tree.map(lambda _: self._layout.rows, tree))
                continue
            leaves = self._layout.shardings(tree)
            layouts.append(jax.tree.unflatten(jax.tree.structure(tree), leaves))
        return jax.jit(
            self._step,
            out_shardings=tuple(layouts) if self._outputs > 1 else layouts[0],
            donate_argnums=self._donate,
        )


@functools.lru_cache(maxsize=256)
def _shardings(mesh, structure, shapes):
    tree = jax.tree.unflatten(structure, range(len(shapes)))
    paths = [trees.path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return tuple(
        jax.NamedSharding(mesh, sharding.spec(path, shape, mesh.shape)[0])
        for path, shape in zip(paths, shapes, strict=True)
    )


def _put(x, where):
    if isinstance(x, jax.core.Tracer):  # as where a state's shapes alone are asked for
        return x
    if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(where, x.ndim):
        return x
    return processes.put(x, where)


def without_axis(fn):
    """fn as a step, whose `axis_name` it has no use for."""

    def step(*args, axis_name=None):
        del axis_name
        return fn(*args)

    return step


def in_chunks(program, layout, chunk):
    """`program(*whole, rows)` of a layout over any number of rows on the host."""

    def call(*args):
        *before, rows = args
        count = jax.tree.leaves(rows)[0].shape[0]
        size = min(-(-count // layout.size), -(-chunk // layout.size)) * layout.size
        parts = []
        for start in range(0, count, size):
            index = np.arange(start, start + size)
            index = np.where(index < count, index, 0)
            padded = jax.tree.map(lambda x, i=index: np.asarray(x)[i], rows)
            parts.append(layout.gather(program(*before, layout.shard(padded))))
        whole_rows = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        return jax.tree.map(lambda x: x[:count], whole_rows)

    return call
