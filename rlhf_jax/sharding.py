"""Which mesh axis each dimension of a parameter is sharded over, by its path.

A mesh has up to three axes: rows are sharded over "data" and "fsdp", parameters over
"fsdp" and "tensor". FSDP shards the dimension of a matrix that "tensor" does not, so
that together they hold each number once: Rajbhandari et al. 2020, "ZeRO",
arXiv:1910.02054 (stage 3); Shoeybi et al. 2019, "Megatron-LM", arXiv:1909.08053
(columns, then rows). Without "tensor", layers are sharded over "fsdp" as they would be
over "tensor": where states travel, as of one token a row, what devices exchange is then
the states between layers [N, D], not those within [N, F].

The paths of optimiser state, averages and critics end with the path of a parameter, so
they are sharded like it.
"""

import contextlib
import contextvars
import math
import re

import jax

from rlhf_jax import trees

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the axes that rows are sharded over

# The end of a path → the axis of each dimension, without the leading [L] of stacked
# layers. That one is never sharded: a scan reads one layer at a time.
RULES = (
    (r"embedding/token", ("tensor", "fsdp")),  # [V, D]
    (r"embedding/(position|segment)", (None, "fsdp")),  # [T, D]
    (r"unembedding/kernel", ("fsdp", "tensor")),  # [D, V]
    (r"(query|key|value|up|gate)/kernel", ("fsdp", "tensor")),  # [D, H·d] columns
    (r"(query|key|value|up|gate)/bias", ("tensor",)),
    (r"(output|down)/kernel", ("tensor", "fsdp")),  # [H·d, D] rows
    (r"(query|key|value|up|gate)/lora_a", ("fsdp", None)),  # [D, rank]
    (r"(query|key|value|up|gate)/lora_b", (None, "tensor")),
    (r"(output|down)/lora_a", ("tensor", None)),
    (r"(output|down)/lora_b", (None, "fsdp")),
    (r"kernel", ("fsdp", None)),  # any other matrix
)
_RULES = tuple((re.compile(rf"(^|/){end}$"), axes) for end, axes in RULES)
_LAYER = re.compile(r"(^|/)(query|key|value|up|gate|output|down|unembedding)/kernel$")


def spec(path, shape, sizes):
    """The PartitionSpec of a leaf, and the reason if a dimension cannot be sharded.

    Args: path, from `trees.path_name`; the leaf's shape; sizes: {axis: devices} of the
    mesh. Returns (spec, reason): a dimension that its axis does not divide is not
    sharded, and `reason` names it; otherwise `reason` is "". A leaf without a rule is
    replicated.
    """
    stacked = re.search(r"(^|/)layers/", path) is not None
    names = axes(path, shape[stacked:], sizes)
    if len(shape) != len(names) + stacked:
        return jax.P(), ""
    names = (None,) * stacked + names
    kept, reasons = [], []
    for size, axis in zip(shape, names, strict=True):
        count = sizes.get(axis, 1)
        kept.append(axis if count > 1 and size % count == 0 else None)
        if size % count:
            reasons.append(f"{size} does not divide by {axis}:{count}")
    while kept and kept[-1] is None:
        kept.pop()
    reason = f"{path} {list(shape)}: {', '.join(reasons)}" if reasons else ""
    return jax.P(*kept), reason


def specs(tree, sizes):
    """{path: (spec, reason)} for every leaf of a pytree: see `spec`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = [(trees.path_name(path), leaf) for path, leaf in leaves]
    return {name: spec(name, leaf.shape, sizes) for name, leaf in named}


def rows(axis_names):
    """The PartitionSpec of rows [B, ...] on a mesh with these axes: sharded along B."""
    return jax.P(tuple(name for name in ROWS if name in axis_names))


def shard_rows(tree):
    """Constrains the rows of a pytree [B, ...] to be sharded over the current mesh.

    Rows selected by a permutation or for a micro-batch have no fixed sharding, and the
    compiler may compute all of them on every device. Without a mesh, or under `pmap`,
    this is the identity. Raises ValueError if the devices do not divide B.
    """
    mesh = jax.sharding.get_abstract_mesh()
    names = [name for name in ROWS if name in mesh.auto_axes]
    if not names:
        return tree
    count = math.prod(mesh.shape[name] for name in names)

    def constrain(x):
        if x.shape[0] % count:
            raise ValueError(
                f"{x.shape[0]} rows of a minibatch or micro-batch cannot be shared by "
                f"{count} devices; change the batch size, the minibatches, the "
                "micro-batches or --layout"
            )
        return jax.lax.with_sharding_constraint(x, rows(names))

    return jax.tree.map(constrain, tree)


def axes(path, shape, sizes=None):
    """The axis of each dimension of a parameter, by the end of its path; () without a
    rule.

    Args: shape: without the [L] of stacked layers; sizes: {axis: devices}, by default
    those of the current mesh. Without "tensor", "fsdp" takes its dimension of a layer's
    matrix, unless it divides the other one alone.
    """
    found = next((axes for end, axes in _RULES if end.search(path)), ())
    sizes = jax.sharding.get_abstract_mesh().shape if sizes is None else sizes
    matrix = _LAYER.search(path) and len(shape) == len(found)
    if sizes.get("tensor", 1) > 1 or not matrix:
        return found
    alone = {"fsdp": None, "tensor": "fsdp"}
    size = shape[found.index("tensor")]
    return found if size % sizes.get("fsdp", 1) else tuple(alone[x] for x in found)


def gathers(rows, kernel, axes):
    """Whether a product [N, D] × [D, F] moves the weights, not the states.

    It does where the weights are sharded over "fsdp" and are the smaller of the two:
    D·F < N·(D + F).
    """
    mesh = jax.sharding.get_abstract_mesh()
    sharded = "fsdp" in axes and "fsdp" in mesh.auto_axes and mesh.shape["fsdp"] > 1
    inputs, outputs = kernel.shape
    return sharded and inputs * outputs < rows.shape[0] * (inputs + outputs)


def gather(kernel, axes):
    """A sharded matrix, whole on every device but for its "tensor" axis."""
    return _constrained(kernel, [axis if axis == "tensor" else None for axis in axes])


def scatter(kernel, axes):
    """A matrix sharded over its axes."""
    return _constrained(kernel, axes)


def by_rows(x):
    """States [N, ...] with their rows sharded, where the devices divide N."""
    sizes = jax.sharding.get_abstract_mesh().shape
    names = tuple(name for name in ROWS if sizes.get(name, 1) > 1)
    if x.shape[0] % math.prod(sizes[name] for name in names):
        return x
    rest = (jax.P.UNCONSTRAINED,) * (x.ndim - 1)
    return jax.lax.with_sharding_constraint(x, jax.P(names, *rest))


def by_columns(kernel):
    """A matrix [D, F] sharded over "fsdp" by its columns, for products with few rows.

    Where it is sharded by its rows they add up over devices. Without "fsdp", or where
    the devices do not divide F, this is the identity.
    """
    mesh = jax.sharding.get_abstract_mesh()
    count = mesh.shape["fsdp"] if "fsdp" in mesh.auto_axes else 1
    if count == 1 or mesh.shape.get("tensor", 1) > 1 or kernel.shape[1] % count:
        return kernel
    return jax.lax.with_sharding_constraint(kernel, jax.P(None, "fsdp"))


def _constrained(x, axes):
    """x sharded over axes, one for each dimension, where they divide it."""
    sizes = jax.sharding.get_abstract_mesh().shape
    kept = [
        axis if sizes.get(axis, 1) > 1 and size % sizes[axis] == 0 else None
        for size, axis in zip(x.shape, axes, strict=True)
    ]
    return jax.lax.with_sharding_constraint(x, jax.P(*kept))


_PLATFORM = contextvars.ContextVar("platform", default=None)


@contextlib.contextmanager
def tracing_for(platform):
    """A program is traced for devices of a platform: "cpu", "gpu" or "tpu"."""
    before = _PLATFORM.set(platform)
    try:
        yield
    finally:
        _PLATFORM.reset(before)


def platform():
    """The platform that the program being traced is for.

    By default that of the attached devices; a layout may be of devices elsewhere.
    """
    return _PLATFORM.get() or jax.default_backend()
