"""Which axis of a mesh each dimension of a parameter is cut along, by its path.

A mesh has up to three axes: "data" and "fsdp" share out rows, "fsdp" and "tensor" cut
parameters. FSDP cuts a matrix along the dimension that "tensor" leaves, so that both
together hold each number once: Rajbhandari et al. 2020, "ZeRO", arXiv:1910.02054 (stage
3); Shoeybi et al. 2019, "Megatron-LM", arXiv:1909.08053 (columns, then rows).

Optimiser state, averages and critics carry the path of the parameter at their end, and
are cut like it.
"""

import math
import re

import jax

from rlhf_jax import trees

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the axes that share out rows

# The end of a path → the axis of each dimension, the leading [L] of stacked layers
# apart, which is never cut: a scan reads one layer of it at a time.
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


def spec(path, shape, sizes):
    """The PartitionSpec of a leaf, and in words what of it had to stay whole.

    Args: path: as `trees.path_name` gives it; shape: of the leaf; sizes {axis: devices}
    of a mesh. Returns (spec, reason): a dimension that its axis does not divide stays
    whole, and `reason` names it, else it is "". What no rule knows is not cut.
    """
    axes = next((axes for end, axes in _RULES if end.search(path)), ())
    stacked = re.search(r"(^|/)layers/", path) is not None
    if len(shape) != len(axes) + stacked:
        return jax.P(), ""
    axes = (None,) * stacked + axes
    kept, reasons = [], []
    for size, axis in zip(shape, axes, strict=True):
        count = sizes.get(axis, 1)
        kept.append(axis if count > 1 and size % count == 0 else None)
        if size % count:
            reasons.append(f"{size} does not divide by {axis}:{count}")
    while kept and kept[-1] is None:
        kept.pop()
    reason = f"{path} {list(shape)}: {', '.join(reasons)}" if reasons else ""
    return jax.P(*kept), reason


def specs(tree, sizes):
    """{path: (spec, reason)} of every leaf of a pytree, as `spec` has them."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    named = [(trees.path_name(path), leaf) for path, leaf in leaves]
    return {name: spec(name, leaf.shape, sizes) for name, leaf in named}


def rows(axis_names):
    """The PartitionSpec of rows on a mesh with these axes: [B, ...] cut along B."""
    return jax.P(tuple(name for name in ROWS if name in axis_names))


def spread(tree):
    """A pytree of [B, ...] whose rows lie spread over the mesh that is traced for.

    Rows that were picked out of all rows, by a permutation or for a micro-batch, lie
    where the compiler likes: it may well compute all of them on every device. Where
    nothing is traced for a mesh, or under `pmap`, this is the identity.
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
