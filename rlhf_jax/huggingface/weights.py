"""Tensors of safetensors files to parameter trees and back, each one accounted for.

Reading goes parameter by parameter: one is put together on the host, placed, and
forgotten. Writing goes file by file.
"""

import contextlib
import gc
import json
from typing import NamedTuple

import jax
import numpy as np
import safetensors
import safetensors.numpy

from rlhf_jax import trees
from rlhf_jax.huggingface import names

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_LISTED = 8  # faults of one kind that a message names
_REPEATED = {"lm_head.weight"}  # a copy of a tied embedding, or of no use to a trunk


class _Source(NamedTuple):
    names: tuple[str, ...]  # one, or one a layer
    form: str
    shape: tuple[int, ...]  # of each of them in the file


class _Written(NamedTuple):
    name: str
    size: int  # bytes
    parts: dict  # {form: (path, layer or None)}


# In


def read(folder, shapes, family, heads, dtype, place):
    """The parameters in a directory, each placed as soon as it is read.

    Every tensor's name and shape is checked before any is read. On the host stand at
    most one parameter in `dtype`, one tensor of a file, and what `place` keeps there.

    Args: folder; shapes: our tree, of anything with a shape; family: a key of
    `names.TENSORS`; heads: of its attention; dtype; place: (path, numpy array) → what
    stands in the tree. Raises ValueError naming all that is missing, misshapen or left
    over.
    """
    files = _files(folder)
    shapes_of = dict(zip(trees.paths(shapes), jax.tree.leaves(shapes), strict=True))
    sources = {
        path: _source(path, leaf.shape, family) for path, leaf in shapes_of.items()
    }
    with contextlib.ExitStack() as stack:
        opened = {
            file: stack.enter_context(safetensors.safe_open(folder / file, "np"))
            for file in {file for file, _ in files.values()}
        }
        found = {name: (opened[file], full) for name, (file, full) in files.items()}
        _check(folder, sources, found)
        leaves = [
            place(path, _read_leaf(found, sources[path], leaf.shape, dtype, heads))
            for path, leaf in shapes_of.items()
        ]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def placing(shapes, sharding):
    """`place(path, array)`: the array on the devices `sharding` says.

    sharding: None for the default device, a `jax.sharding.Sharding`, a pytree of them,
    or a callable (path, shape) → Sharding. shapes: the tree, of anything with a shape.
    On many hosts each places the part that its own devices hold.
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
    return lambda path, array: _spread(array, of[path])


def _spread(array, sharding):
    places = sharding.addressable_devices_indices_map(array.shape)
    parts = [_put(array[index], device) for device, index in places.items()]
    return jax.make_array_from_single_device_arrays(array.shape, sharding, parts)


def _put(array, device):
    """On the device, and there already, so that the array here can be forgotten. On a
    CPU it may be the array itself."""
    there = jax.device_put(array, device).block_until_ready()
    gc.collect(0)  # when jax lets go of what it has copied
    return there


def _inner(path):
    return path.removeprefix("trunk/")


def _is_stacked(path):
    return _inner(path).startswith("layers/")


def _tensor(path, family):
    """Where a parameter stands in a file."""
    table = names.TENSORS[family]
    if _inner(path) not in table:
        raise ValueError(f"{family} has no place for the parameter {path}")
    return table[_inner(path)]


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


def _files(folder):
    """{short tensor name: (file, full tensor name)} of one or several weight files."""
    index = folder / INDEX
    if index.is_file():
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        listed = sorted(set(weight_map.values()))
    elif (folder / WEIGHTS).is_file():
        listed = [WEIGHTS]
    else:
        raise ValueError(
            f"{folder} has no {WEIGHTS}: save it once more with transformers' "
            "save_pretrained, which writes safetensors"
        )
    found = {}
    for file in listed:
        if not (folder / file).is_file():
            raise ValueError(f"{folder} lacks {file}, which {INDEX} names")
        with safetensors.safe_open(folder / file, "np") as content:
            found |= {names.short(name): (file, name) for name in content.keys()}
    return found


def _check(folder, sources, found):
    """Raise one ValueError that names every tensor that does not fit."""
    wanted = {name: source for source in sources.values() for name in source.names}
    missing = set(wanted) - set(found) - {names.OPTIONAL}
    misshapen = []
    for name in sorted(set(wanted) & set(found)):
        file, full = found[name]
        shape = tuple(file.get_slice(full).get_shape())
        if shape != wanted[name].shape:
            misshapen.append(f"{name} is {shape}, not {wanted[name].shape}")
    spare = set(found) - set(wanted) - _REPEATED
    left_over = {name for name in spare if not names.is_buffer(name)}
    faults = {"missing": missing, "misshapen": misshapen, "left over": left_over}
    if any(faults.values()):
        said = "; ".join(f"{kind}: {_list(of)}" for kind, of in faults.items() if of)
        raise ValueError(f"{folder}: the tensors do not fit config.json; {said}")


def _list(faults):
    more = len(faults) - _LISTED
    shown = ", ".join(sorted(faults)[:_LISTED])
    return f"{shown} and {more} more" if more > 0 else shown


def _read_leaf(found, source, shape, dtype, heads):
    """One parameter of our tree, its layers stacked: numpy, of `shape` and `dtype`."""
    leaf = np.zeros(shape, dtype)
    layers = leaf if len(shape) > len(source.shape) else leaf[None]
    for layer, name in zip(layers, source.names, strict=True):
        if name in found:
            file, full = found[name]
            layer[...] = _take(file.get_tensor(full), source.form, heads)
    return leaf


def _take(array, form, heads):
    """What a parameter has of a tensor in a file."""
    if form == "transposed":
        return array.T
    if form in names.THIRDS:
        return np.split(array, 3, axis=-1)[names.THIRDS.index(form)]
    if form in names.HEAD_THIRDS:
        by_head = array.reshape(heads, 3, -1, *array.shape[1:])
        part = by_head[:, names.HEAD_THIRDS.index(form)]
        return part.reshape(-1, *array.shape[1:]).T
    return array


# Out


def write(folder, params, family, heads, max_shard_bytes):
    """Write a decoder's or a classifier's parameters as the family's files have them.

    One file, or several of at most `max_shard_bytes` and an index (a tensor larger than
    that stands alone). A decoder head's bias of 0 is left out.
    """
    leaves = dict(zip(trees.paths(params), jax.tree.leaves(params), strict=True))
    shards = _shards(_plan(leaves, family), max_shard_bytes)
    index = {"metadata": {"total_size": 0}, "weight_map": {}}
    for number, shard in enumerate(shards, 1):
        file = WEIGHTS
        if len(shards) > 1:
            file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {
            # safetensors writes memory as it lies.
            tensor.name: np.ascontiguousarray(_make(leaves, tensor, heads))
            for tensor in shard
        }
        safetensors.numpy.save_file(tensors, folder / file, {"format": "pt"})
        index["metadata"]["total_size"] += sum(tensor.size for tensor in shard)
        index["weight_map"] |= dict.fromkeys(tensors, file)
    if len(shards) > 1:
        text = json.dumps(index, indent=2, sort_keys=True)
        (folder / INDEX).write_text(text + "\n", encoding="utf-8")


def _plan(leaves, family):
    """Every tensor of the files, and which parameters it is made of."""
    parts, sizes = {}, {}
    for path, leaf in leaves.items():
        tensor = _tensor(path, family)
        if tensor.name == names.OPTIONAL and not np.asarray(leaf).any():
            continue
        layers = range(leaf.shape[0]) if _is_stacked(path) else (None,)
        for layer in layers:
            name = tensor.name.format(layer)
            parts.setdefault(name, {})[tensor.form] = (path, layer)
            sizes[name] = sizes.get(name, 0) + leaf.nbytes // len(layers)
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
    """One layer of a parameter. From an accelerator it comes alone, for jax would keep
    a copy of all that is fetched at once."""
    if layer is None:
        return np.asarray(leaf)
    near = not isinstance(leaf, jax.Array) or all(
        device.platform == "cpu" for device in leaf.devices()
    )
    return np.asarray(leaf)[layer] if near else np.asarray(leaf[layer])
