"""A layout of its own: many members of one program, side by side.

Arrays of a population have a leading axis of members, [N, ...]. The devices share the
members out and exchange nothing. On accelerators the members of a device are vmapped;
on a CPU they follow one another inside the program, because there a batched product of
small matrices takes longer than one product after the other.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.runtime import mesh, processes

AXIS = "members"


@dataclasses.dataclass(frozen=True, eq=False)
class Members:
    """A pytree marked as one value for each member, not one for all.

    each: [N, ...] where `axes`, a pytree prefix, is 0; where it is None all share it.
    """

    each: Any
    axes: Any = 0


@dataclasses.dataclass(frozen=True)
class Population:
    """N members over `devices`, whose number divides N.

    vmapped: a device runs its members side by side, not one after another.
    """

    devices: tuple
    vmapped: bool

    @property
    def axis_name(self):
        """The vmapped axis, for what members must agree on; None if there is none."""
        return AXIS if self.vmapped else None

    def compile(self, step, *, axes_in, axes_out, donate=(), whole=()):
        """`step(*args)` of one member as one program of all of them.

        Args:
          axes_in: for each argument 0 where members have one each, None where they
            share it, or a pytree prefix of both.
          axes_out: the same of the results; what members share must not depend on any
            one of them.
          donate: positions of arguments whose buffers the results may reuse.
          whole: positions of results that every host gets of all members.
        """
        step = mesh.traced_for(step, self.devices[0].platform)
        spread = _side_by_side if self.vmapped else _in_turn
        program = jax.shard_map(
            spread(step, axes_in, axes_out),
            mesh=self._mesh,
            in_specs=_specs(axes_in),
            out_specs=_specs(axes_out),
            check_vma=False,
        )

        def run(*args):
            results = program(*args)
            if not whole:
                return results
            return tuple(
                jax.lax.with_sharding_constraint(part, self._shared)
                if i in whole
                else part
                for i, part in enumerate(results)
            )

        return jax.jit(run, donate_argnums=donate)

    def put(self, tree, axes=0):
        """Arrays from anywhere, laid out as programs take and return them."""
        return jax.tree.map(processes.put, tree, self._shardings(tree, axes))

    def take(self, tree, number, axes=0):
        """`member` of arrays on devices, which all hosts have then."""
        return _picked(self._shared, axes)(tree, number)

    def like(self, shapes, axes=0):
        """Shapes with the shardings of `put`, to restore checkpoints to."""
        return jax.tree.map(
            lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at),
            shapes,
            self._shardings(shapes, axes),
        )

    def over_rows(self, fn, *, replicated, chunk=256):
        """`Data.over_rows` for members: arguments may be `Members`, results are.

        What is not `Members` is the same for all. fn: fn(*replicated, rows) of one
        member; chunk: the most rows of a member at a time.
        """
        del replicated

        @functools.cache
        def compiled(kinds, structure):
            axes = jax.tree.unflatten(structure, kinds)
            return self.compile(fn, axes_in=axes, axes_out=0)

        def call(*args):
            axes = tuple(x.axes if isinstance(x, Members) else None for x in args)
            kinds, structure = jax.tree.flatten(axes, is_leaf=_is_shared)
            program = compiled(tuple(kinds), structure)
            *before, rows = (x.each if isinstance(x, Members) else x for x in args)
            before = [self.put(x, a) for x, a in zip(before, axes, strict=False)]
            at = 1 if axes[-1] == 0 else 0
            count = jax.tree.leaves(rows)[0].shape[at]
            size, parts = min(count, chunk), []
            for start in range(0, count, size):
                index = np.arange(start, start + size) % count
                part = jax.tree.map(lambda x, i=index: np.take(x, i, axis=at), rows)
                parts.append(processes.to_numpy(program(*before, part)))
            joined = jax.tree.map(lambda *x: np.concatenate(x, axis=1), *parts)
            return Members(jax.tree.map(lambda x: x[:, :count], joined))

        return call

    @property
    def _mesh(self):
        return jax.sharding.Mesh(np.array(self.devices), (AXIS,))

    @property
    def _shared(self):
        return jax.NamedSharding(self._mesh, jax.P())

    def _shardings(self, tree, axes):
        each = jax.NamedSharding(self._mesh, jax.P(AXIS))

        def place(axis, part):
            at = self._shared if axis is None else each
            return jax.tree.map(lambda _: at, part)

        return _by_axis(place, axes, tree)


def of(devices, members, *, vmapped=None):
    """The `Population` of so many members: on as many devices as share them evenly, and
    as many of each host.

    vmapped: by default what is faster on these devices. Raises ValueError where hosts
    cannot share the members.
    """
    hosts = sorted({device.process_index for device in devices})
    own = [[d for d in devices if d.process_index == host] for host in hosts]
    if members % len(hosts):
        raise ValueError(
            f"{members} members cannot be shared by {len(hosts)} hosts; choose a "
            f"number that {len(hosts)} divides"
        )
    each = math.gcd(members // len(hosts), min(map(len, own)))
    chosen = tuple(device for part in own for device in part[:each])
    vmapped = chosen[0].platform != "cpu" if vmapped is None else vmapped
    return Population(chosen, vmapped)


def stack(trees, axes=0):
    """N pytrees → one of [N, ...], where `axes` is 0; where it is None the first's."""

    def join(axis, *parts):
        if axis is None:
            return parts[0]
        return jax.tree.map(lambda *x: jnp.stack(x), *parts)

    return _by_axis(join, axes, *trees)


def axes_of(trees):
    """The axes by which `stack` holds once what is the same array in all trees; 0 where
    everything is."""

    def axis(*leaves):
        return None if all(leaf is leaves[0] for leaf in leaves) else 0

    axes = jax.tree.map(axis, *trees)
    return axes if jax.tree.leaves(axes) else 0


def member(tree, number, axes=0):
    """What `stack` made of the tree of one member: [N, ...] → [...]."""

    def pick(axis, part):
        return part if axis is None else jax.tree.map(lambda x: x[number], part)

    return _by_axis(pick, axes, tree)


@functools.lru_cache(maxsize=16)
def _picked(sharding, axes):
    pick = functools.partial(member, axes=axes)
    return jax.jit(pick, out_shardings=sharding)


def of_member(results, number):
    """What one member has of results that hold `Members`."""

    def pick(part):
        if isinstance(part, Members):
            return member(part.each, number, part.axes)
        return part

    return jax.tree.map(pick, results)


def _is_shared(axis):
    return axis is None


def _by_axis(change, axes, *trees):
    """change(axis, *parts) for every part of trees that `axes` has 0 or None for."""
    return jax.tree.map(change, axes, *trees, is_leaf=_is_shared)


def _specs(axes):
    """Axes as `shard_map` takes them."""
    return _by_axis(lambda axis: jax.P() if axis is None else jax.P(AXIS), axes)


def _side_by_side(step, axes_in, axes_out):
    return jax.vmap(step, in_axes=axes_in, out_axes=axes_out, axis_name=AXIS)


def _in_turn(step, axes_in, axes_out):
    """What `vmap` computes, one member after another."""

    def run(*args):
        own = _by_axis(lambda axis, x: () if axis is None else x, axes_in, args)
        numbers = jnp.arange(jax.tree.leaves(own)[0].shape[0])
        found = jax.lax.map(lambda n: step(*member(args, n, axes_in)), numbers)
        return _by_axis(_first_if_shared, axes_out, found)

    return run


def _first_if_shared(axis, part):
    return jax.tree.map(lambda x: x[0], part) if axis is None else part
