"""`jit` over a mesh, for models that outgrow a device and for several hosts.

A step is the same function that `parallel.Data` runs under `pmap`, with
`axis_name=None`: rows are global, so plain sums over them are right. Shardings decide
where arrays are held, and the computation does not depend on them.
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
    """Rows and parameters sharded over the devices of all hosts.

    mesh: its axes are those of `sharding`; rows follow the order of its devices, so
    that the rows of a host are contiguous.
    """

    mesh: jax.sharding.Mesh

    @property
    def devices(self):
        """The devices of all hosts."""
        return tuple(self.mesh.devices.flat)

    @property
    def axes(self):
        """The names of the axes that devices are on."""
        return tuple(self.mesh.axis_names)

    @property
    def size(self):
        """How many groups of devices the rows are divided among."""
        sizes = self.mesh.shape
        return math.prod(sizes.get(name, 1) for name in sharding.ROWS)

    @property
    def name(self):
        """As --layout takes it: "fsdp:2,tensor:2"."""
        return ",".join(f"{axis}:{n}" for axis, n in self.mesh.shape.items())

    @property
    def replicated(self):
        """The sharding of an array with a complete copy on every device."""
        return jax.NamedSharding(self.mesh, jax.P())

    @property
    def rows(self):
        """The sharding of rows."""
        return jax.NamedSharding(self.mesh, sharding.rows(self.mesh.axis_names))

    def compile(self, step, *, rows_in=(), rows_out=(), outputs=2, donate=()):
        """See `Data.compile`; what has no rows has the layout that `put` gives it."""
        step = functools.partial(step, axis_name=None)
        return _Program(self, step, rows_in, rows_out, outputs, donate)

    def over_rows(self, fn, *, replicated, chunk=256):
        """See `Data.over_rows`; every host passes all rows and gets all results."""
        program = _Program(self, without_axis(fn), (replicated,), (0,), 1, ())
        return in_chunks(program, self, chunk)

    def shard_rows(self, tree):
        """[N, ...] on every host → [N, ...] divided among the devices by rows."""

        def shard(x):
            x = np.asarray(x)
            if x.shape[0] % self.size:
                raise ValueError(
                    f"{x.shape[0]} rows cannot be shared by {self.size} devices "
                    f"({self.name}); choose a batch size that {self.size} divides, or "
                    "another --layout"
                )
            return jax.make_array_from_callback(x.shape, self.rows, lambda i: x[i])

        return jax.tree.map(shard, tree)

    def rows_like(self, tree):
        """What `shard_rows` makes of rows, as shapes."""

        def shape(x):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=self.rows)

        return jax.tree.map(shape, tree)

    def gather(self, tree):
        """[N, ...] on devices → numpy arrays [N, ...] on every host."""
        return processes.to_numpy(tree)

    def put(self, tree):
        """State from anywhere, laid out as steps return it: see `Data.put`."""
        return jax.tree.map(_put, tree, self.shardings(tree))

    def put_arguments(self, tree):
        """`put` for arguments: `jit` itself copies those not on a device yet."""

        def move(x, at):
            return _put(x, at) if isinstance(x, jax.Array) else x

        return jax.tree.map(move, tree, self.shardings(tree))

    def like(self, shapes):
        """Shapes with the shardings of state, as a target for restoring checkpoints."""

        def target(x, at):
            weak = getattr(x, "weak_type", False)
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at, weak_type=weak)

        return jax.tree.map(target, shapes, self.shardings(shapes))

    def shardings(self, tree):
        """The sharding of each leaf of a state, as a pytree."""
        leaves, structure = jax.tree.flatten(tree)
        return _shardings(self.mesh, structure, tuple(np.shape(x) for x in leaves))

    def snapshot(self, tree):
        """See `Data.snapshot`; with several hosts the copy stays on the devices."""
        return trees.copy(tree) if processes.count() > 1 else jax.device_get(tree)

    def describe(self, params):
        """Lines of text: bytes of parameters a device, and which are not sharded."""
        leaves = jax.tree.leaves(params)
        parts = (at.shard_shape for at in jax.tree.leaves(self.shardings(params)))
        pairs = zip(leaves, parts, strict=True)
        local = sum(math.prod(part(x.shape)) * x.dtype.itemsize for x, part in pairs)
        local, total = local / 1e6, sum(x.nbytes for x in leaves) / 1e6
        count = processes.count()
        hosts = "one host" if count == 1 else f"{count} hosts"
        specs = sharding.specs(params, self.mesh.shape)
        return (
            f"{self.name} on {hosts}: {local:.3g} of {total:.3g} MB of the policy's "
            "parameters on each device",
            *(f"not sharded: {reason}" for _, reason in specs.values() if reason),
        )


class _Program:
    """A step compiled for a mesh, once for each set of shapes that it is given."""

    def __init__(self, layout, step, rows_in, rows_out, outputs, donate):
        self._layout, self._rows_in, self._rows_out = layout, rows_in, rows_out
        self._outputs, self._donate = outputs, donate
        self._programs = {}

        step = traced_for(step, layout.devices[0].platform)

        @functools.wraps(step)
        def traced(*args):
            with jax.sharding.use_abstract_mesh(layout.mesh.abstract_mesh):
                return step(*args)

        self._step = traced

    def __call__(self, *args):
        put = self._layout.put_arguments
        args = [x if i in self._rows_in else put(x) for i, x in enumerate(args)]
        leaves, structure = jax.tree.flatten(args)
        kinds = tuple((np.shape(x), getattr(x, "dtype", type(x))) for x in leaves)
        if (structure, kinds) not in self._programs:
            self._programs[structure, kinds] = self._compile(args)
        return self._programs[structure, kinds](*args)

    def lower(self, *args):
        """Like `lower` of a jitted function: traced for arguments or their shapes."""
        return self._compile(args).lower(*args)

    def _compile(self, args):
        # jit keeps the trace that the shapes come from: the step is traced only once.
        shapes = jax.jit(self._step).trace(*args).out_info
        shapes = shapes if self._outputs > 1 else (shapes,)
        layouts = []
        for i, tree in enumerate(shapes):
            rows = jax.tree.map(lambda _: self._layout.rows, tree)
            layouts.append(
                rows if i in self._rows_out else self._layout.shardings(tree)
            )
        return jax.jit(
            self._step,
            out_shardings=tuple(layouts) if self._outputs > 1 else layouts[0],
            donate_argnums=self._donate,
        )


@functools.lru_cache(maxsize=256)
def _shardings(mesh, structure, shapes):
    tree = jax.tree.unflatten(structure, range(len(shapes)))
    paths = [trees.path_name(p) for p, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return jax.tree.unflatten(
        structure,
        [
            jax.NamedSharding(mesh, sharding.spec(path, shape, mesh.shape)[0])
            for path, shape in zip(paths, shapes, strict=True)
        ],
    )


def _put(x, at):
    if isinstance(x, jax.core.Tracer):  # as under eval_shape
        return x
    if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(at, x.ndim):
        return x
    return processes.put(x, at)


def traced_for(step, platform):
    """A step that is traced for the devices of a platform, see `sharding.platform`."""

    @functools.wraps(step)
    def traced(*args, **named):
        with sharding.tracing_for(platform):
            return step(*args, **named)

    return traced


def without_axis(fn):
    """fn as a step, which ignores its `axis_name`."""

    def step(*args, axis_name=None):
        del axis_name
        return fn(*args)

    return step


def in_chunks(program, layout, chunk):
    """`program(*replicated, rows)` over any number of rows on the host, in chunks."""

    def call(*args):
        *before, rows = args
        count = jax.tree.leaves(rows)[0].shape[0]
        size = min(-(-count // layout.size), -(-chunk // layout.size)) * layout.size
        parts = []
        for start in range(0, count, size):
            index = np.arange(start, start + size)
            index = np.where(index < count, index, 0)
            padded = jax.tree.map(lambda x, i=index: np.asarray(x)[i], rows)
            parts.append(layout.gather(program(*before, layout.shard_rows(padded))))
        joined = jax.tree.map(lambda *x: np.concatenate(x), *parts)
        return jax.tree.map(lambda x: x[:count], joined)

    return call
