"""A pytree as orbax writes it, with its small leaves packed into one array.

orbax takes about two milliseconds a leaf, and a training state has hundreds of small
ones. They are packed into one array of bytes, at the offsets that the manifest lists; a
leaf of `SEPARATE` bytes or more is saved by itself and keeps its sharding. With several
hosts each writes and reads the parts of large leaves that it holds.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import trees
from rlhf_jax.runtime import files, processes

FORMAT = 1
SEPARATE = 4 * 1024**2  # bytes


def describe(path, leaf):
    """What the manifest says about a leaf: {"path", "shape", "dtype"}.

    Raises ValueError for text and other types that arrays cannot hold.
    """
    name = trees.path_name(path)
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    if isinstance(leaf.dtype, np.dtype) and leaf.dtype.kind in "OSUMm":
        raise ValueError(
            f"{name}: a leaf of type {leaf.dtype} cannot be saved as an array; put "
            "text and the like into `extra`"
        )
    return {"path": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _is_key(leaf):
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf):
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def to_bytes(leaf):
    """The bytes of an array, a number or a typed key: uint8 [n]. All hosts call it."""
    return _bytes(processes.to_numpy(_data(leaf)))


def _bytes(value):
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)


def _is_separate(leaf):
    """Whether a leaf is saved as an array by itself."""
    if _is_key(leaf) or not isinstance(leaf, jax.Array):
        return False
    local = leaf.is_fully_addressable or leaf.is_fully_replicated
    return leaf.nbytes >= SEPARATE or not local


def _pack(tree):
    """({"packed": uint8 [n], index of a leaf: the leaf, ...}, manifest of leaves)."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    entries = [describe(path, leaf) for path, leaf in leaves]
    arrays = {str(i): leaf for i, (_, leaf) in enumerate(leaves) if _is_separate(leaf)}
    small = [i for i in range(len(leaves)) if str(i) not in arrays]
    parts, offset = [np.zeros(1, np.uint8)], 1  # orbax refuses an empty array
    values = jax.device_get([_data(leaves[i][1]) for i in small])
    for i, value in zip(small, values, strict=True):
        parts.append(_bytes(value))
        entries[i] |= {"offset": offset, "bytes": parts[-1].size}
        offset += parts[-1].size
        if _is_key(leaves[i][1]):
            entries[i]["key"] = str(jax.random.key_impl(leaves[i][1]))
    return arrays | {"packed": np.concatenate(parts)}, entries


def _checkpointer(ocp):
    """Without OCDBT, which takes twice as long for so few arrays."""
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False))


def write(folder, tree, header):
    """Writes a pytree and its manifest into the empty `folder`.

    header: more of the manifest, small and JSON.
    """
    import orbax.checkpoint as ocp  # 0.3 s, and not needed for --help

    arrays, leaves = _pack(tree)
    with processes.all_or_none():
        _checkpointer(ocp).save(folder / "state", args=ocp.args.PyTreeSave(arrays))
    body = {"format": FORMAT, **header, "leaves": leaves}
    processes.broadcast_from_first(lambda: files.seal(folder, body))


def read(folder, manifest, target):
    """The pytree that `write` saved, with the types and shardings of `target`."""
    import orbax.checkpoint as ocp  # 0.3 s, and not needed for --help

    leaves, structure = jax.tree_util.tree_flatten_with_path(target)
    entries = {
        leaf["path"]: (str(i), leaf) for i, leaf in enumerate(manifest["leaves"])
    }
    entries = [entries[trees.path_name(path)] for path, _ in leaves]
    how = {"packed": ocp.RestoreArgs(restore_type=np.ndarray)}
    for (name, entry), (_, leaf) in zip(entries, leaves, strict=True):
        if "offset" not in entry:
            how[name] = ocp.ArrayRestoreArgs(sharding=_sharding(leaf))
    args = ocp.args.PyTreeRestore(restore_args=how)
    arrays = _checkpointer(ocp).restore(folder / "state", args=args)
    packed = arrays.pop("packed")
    values = [
        _like(leaf, arrays[name] if name in arrays else _unpack(packed, entry))
        for (name, entry), (_, leaf) in zip(entries, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, values)


def _unpack(packed, entry):
    """One leaf out of the packed bytes, in memory of its own."""
    value = packed[entry["offset"] : entry["offset"] + entry["bytes"]].copy()
    if "key" in entry:
        data = value.view(np.uint32).reshape(*entry["shape"], -1)
        return jax.random.wrap_key_data(data, impl=entry["key"])
    return value.view(jnp.dtype(entry["dtype"])).reshape(entry["shape"])


def _sharding(leaf):
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return getattr(leaf, "sharding", None) or default


def _like(leaf, value):
    """A restored value with the type and the sharding of `leaf`."""
    if isinstance(leaf, np.ndarray):
        return np.asarray(value)
    if not hasattr(leaf, "sharding"):  # a number, Python's or numpy's
        return type(leaf)(np.asarray(value).item())
    if getattr(leaf, "weak_type", False) and value.ndim == 0:
        value = value.item()  # weak types change the types of later results
    sharding = _sharding(leaf)
    if getattr(value, "sharding", None) == sharding:
        return value
    return processes.put(value, sharding)
