"""Between safetensors files and parameter trees, with every tensor accounted for.

Parameters are read one by one: each is assembled on the host, moved to its devices, and
freed. They are written file by file.
"""

import gc
import json
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from rlhf_jax import trees
from rlhf_jax.huggingface import names, weight_files

_LISTED = 8  # faults of one kind that a message names
_IGNORED = {"lm_head.weight"}  # a copy of a tied embedding, or unused by a classifier


class _Source(NamedTuple):
    names: tuple[str, ...]  # one, or one per layer
    form: str
    shape: tuple[int, ...]  # of each in the file


class _Written(NamedTuple):
    name: str
    size: int  # bytes
    parts: dict  # {form: (path, layer or None)}


def read(folder, shapes, family, heads, dtype, put):
    """The parameters in a directory, each moved to its devices as soon as it is read.

    All names and shapes are checked before any tensor is read. The host holds at most
    one parameter in `dtype`, one tensor of a file, and what `put` keeps there.

    Args: folder; shapes: our tree, of anything with a shape; family: a key of
    `names.TENSORS`; heads: the number of attention heads; dtype; put: (path, numpy
    array) → leaf, as `device_put` makes it. Raises ValueError naming all tensors that
    are missing, misshapen or left over.
    """
    shapes_of = dict(zip(trees.paths(shapes), jax.tree.leaves(shapes), strict=True))
    with weight_files.opened(folder) as tensors:
        sources = check(folder, tensors, shapes, family)
        leaves = [
            put(path, _read_leaf(tensors, sources[path], leaf.shape, dtype, heads))
            for path, leaf in shapes_of.items()
        ]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def check(folder, tensors, shapes, family):
    """{path: where it comes from} of a tree of parameters.

    tensors: of `weight_files.opened`, of which only headers are read. Raises one
    ValueError that names every tensor that is missing, misshapen or left over.
    """
    sources = {
        path: _source(path, leaf.shape, family)
        for path, leaf in zip(trees.paths(shapes), jax.tree.leaves(shapes), strict=True)
    }
    _check(folder, sources, tensors)
    return sources


def shapes_of(model):
    """A model's parameter tree as shapes and dtypes, without computing anything."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]


def device_put(shapes, sharding):
    """A function (path, array) → the array on the devices of its sharding.

    sharding: None for the default device, a `jax.sharding.Sharding`, a pytree of them,
    or a function (path, shape) → Sharding. shapes: the tree, of anything with a shape.
    Each host puts the shards of its local devices. Raises ValueError for what is not a
    Sharding or does not fit a shape.
    """
    if sharding is None:
        return lambda path, array: _put(array, None)
    paths, leaves = trees.paths(shapes), jax.tree.leaves(shapes)
    if callable(sharding):
        each = [
            sharding(path, leaf.shape) for path, leaf in zip(paths, leaves, strict=True)
        ]
    else:
        each = jax.tree.leaves(jax.tree.broadcast(sharding, shapes))
    for path, leaf, one in zip(paths, leaves, each, strict=True):
        if not isinstance(one, jax.sharding.Sharding):
            raise ValueError(f"sharding of {path} is {one!r}: give a Sharding")
        try:
            one.shard_shape(leaf.shape)
        except ValueError as error:
            raise ValueError(
                f"{path} {leaf.shape} cannot be laid out as {one}: {error}"
            ) from None
    of = dict(zip(paths, each, strict=True))
    return lambda path, array: _shard(array, of[path])


def _shard(array, sharding):
    shards = sharding.addressable_devices_indices_map(array.shape)
    parts = [_put(array[index], device) for device, index in shards.items()]
    return jax.make_array_from_single_device_arrays(array.shape, sharding, parts)


def _put(array, device):
    """The array on a device, once copied, so that the host's memory can be freed.

    On a CPU it may be the array itself.
    """
    copied = jax.device_put(array, device).block_until_ready()
    gc.collect(0)  # makes jax release what it has copied
    return copied


def _is_stacked(path):
    return names.inner(path).startswith("layers/")


def _tensor(path, family):
    """The `names.Tensor` of a parameter. Raises ValueError if the family has none."""
    table = names.TENSORS[family]
    if names.inner(path) not in table:
        raise ValueError(f"{family} has no parameter {path}")
    return table[names.inner(path)]


def _source(path, shape, family):
    tensor = _tensor(path, family)
    layers = range(shape[0]) if _is_stacked(path) else (0,)
    shape = shape[1:] if _is_stacked(path) else shape
    if tensor.form == "transposed" or tensor.form in names.HEAD_THIRDS:
        shape = shape[::-1]
    if tensor.form in names.THIRDS:
        shape = (*shape[:-1], 3 * shape[-1])
    if tensor.form in names.HEAD_THIRDS:
        shape = (3 * shape[0], *shape[1:])
    listed = tuple(names.short(tensor.name.format(layer)) for layer in layers)
    return _Source(listed, tensor.form, tuple(shape))


def _check(folder, sources, tensors):
    """Raises one ValueError that names every tensor that does not fit."""
    wanted = {name: source for source in sources.values() for name in source.names}
    missing = set(wanted) - set(tensors) - {names.OPTIONAL}
    present = sorted(set(wanted) & set(tensors))
    for name in present:
        if not tensors[name].is_float:
            raise ValueError(
                f"{tensors[name].file}: {tensors[name].name} is {tensors[name].dtype}: "
                f"{weight_files.FLOATS_ARE_NEEDED}"
            )
    misshapen = [
        f"{name} is {tensors[name].shape}, not {wanted[name].shape}"
        for name in present
        if tensors[name].shape != wanted[name].shape
    ]
    spare = set(tensors) - set(wanted) - _IGNORED
    left_over = {name for name in spare if not names.BUFFERS.search(name)}
    faults = {"missing": missing, "misshapen": misshapen, "left over": left_over}
    if any(faults.values()):
        named = {kind: shortened(of) for kind, of in faults.items() if of}
        listed = "; ".join(f"{kind}: {text}" for kind, text in named.items())
        raise ValueError(
            f"{folder}: the tensors do not fit config.json, which may be of another "
            f"model; {listed}"
        )


def shortened(faults):
    """The first faults as text, and how many more there are."""
    more = len(faults) - _LISTED
    shown = ", ".join(sorted(faults)[:_LISTED])
    return f"{shown} and {more} more" if more > 0 else shown


def _read_leaf(tensors, source, shape, dtype, heads):
    """One parameter of our tree, layers stacked: a numpy array."""
    leaf = np.zeros(shape, dtype)
    layers = leaf if len(shape) > len(source.shape) else leaf[None]
    for layer, name in zip(layers, source.names, strict=True):
        if name in tensors:
            layer[...] = _take(tensors[name].read(), source.form, heads)
            tensors[name].check_finite(layer)
    return leaf


def _take(array, form, heads):
    """A parameter's part of a tensor in a file."""
    if form == "transposed":
        return array.T
    if form in names.THIRDS:
        return np.split(array, 3, axis=-1)[names.THIRDS.index(form)]
    if form in names.HEAD_THIRDS:
        by_head = array.reshape(heads, 3, -1, *array.shape[1:])
        part = by_head[:, names.HEAD_THIRDS.index(form)]
        return part.reshape(-1, *array.shape[1:]).T
    return array


def write(folder, params, family, heads, max_shard_bytes):
    """Writes the parameters of a decoder or classifier as the family's tensor files.

    One file, or several of at most `max_shard_bytes` with an index; a larger tensor has
    a file of its own. A decoder head's bias is omitted if it is 0.
    """
    leaves = dict(zip(trees.paths(params), jax.tree.leaves(params), strict=True))
    plan = _plan(leaves, family)
    _write_files(folder, plan, lambda x: _make(leaves, x, heads), max_shard_bytes)


def write_named(folder, shapes, family, tensor, max_shard_bytes):
    """Writes files like those of `write`, each tensor as `tensor(short name)` has it.

    No more than a file is held. shapes: a decoder's tree, of anything with a shape and
    a dtype; tensor: name → numpy array, laid out as in the files.
    """
    leaves = dict(zip(trees.paths(shapes), jax.tree.leaves(shapes), strict=True))
    plan = _plan(leaves, family)
    _write_files(folder, plan, lambda x: tensor(names.short(x.name)), max_shard_bytes)


def _write_files(folder, plan, make, max_shard_bytes):
    """Writes planned tensors, `make(planned)` each, file after file, with an index."""
    shards = _shards(plan, max_shard_bytes)
    index = {"metadata": {"total_size": 0}, "weight_map": {}}
    for number, shard in enumerate(shards, 1):
        file = weight_files.WEIGHTS
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        # safetensors ignores strides.
        tensors = {x.name: np.ascontiguousarray(make(x)) for x in shard}
        safetensors.numpy.save_file(tensors, folder / file, {"format": "pt"})
        index["metadata"]["total_size"] += sum(tensor.size for tensor in shard)
        index["weight_map"] |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        text = json.dumps(index, indent=2, sort_keys=True)
        (folder / weight_files.INDEX).write_text(text + "\n", encoding="utf-8")


def _plan(leaves, family):
    """Every tensor of the files, and the parameters that it consists of."""
    parts, sizes = {}, {}
    for path, leaf in leaves.items():
        tensor = _tensor(path, family)
        if tensor.name == names.OPTIONAL and not np.asarray(leaf).any():
            continue
        layers = range(leaf.shape[0]) if _is_stacked(path) else (None,)
        for layer in layers:
            name = tensor.name.format(layer)
            parts.setdefault(name, {})[tensor.form] = (path, layer)
            size = math.prod(leaf.shape) * leaf.dtype.itemsize
            sizes[name] = sizes.get(name, 0) + size // len(layers)
    return [_Written(name, sizes[name], parts[name]) for name in parts]


def _shards(plan, largest):
    shards, room = [[]], largest
    for tensor in plan:
        if shards[-1] and tensor.size > room:
            shards.append([])
            room = largest
        shards[-1].append(tensor)
        room -= tensor.size
    return shards


def _make(leaves, tensor, heads):
    forms = {
        form: _on_host(leaves[path], layer)
        for form, (path, layer) in tensor.parts.items()
    }
    if set(forms) == set(names.THIRDS):
        return np.concatenate([forms[part] for part in names.THIRDS], axis=-1)
    if set(forms) == set(names.HEAD_THIRDS):
        rows = [forms[part].T for part in names.HEAD_THIRDS]
        by_head = [x.reshape(heads, 1, -1, *x.shape[1:]) for x in rows]
        return np.concatenate(by_head, axis=1).reshape(-1, *rows[0].shape[1:])
    ((form, array),) = forms.items()
    return array.T if form == "transposed" else array


def _on_host(leaf, layer):
    """One layer of a parameter as numpy.

    From an accelerator only this layer is fetched: jax would cache a copy of the whole
    parameter.
    """
    if layer is None:
        return np.asarray(leaf)
    on_cpu = not isinstance(leaf, jax.Array) or all(
        device.platform == "cpu" for device in leaf.devices()
    )
    return np.asarray(leaf)[layer] if on_cpu else np.asarray(leaf[layer])
