"""Tensors of safetensors files to parameter trees and back, each one accounted for."""

import contextlib
import json
from typing import NamedTuple

import jax
import numpy as np
import safetensors

from rlhf_jax import huggingface_names as names
from rlhf_jax import trees

WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_LISTED = 8  # faults of one kind that a message names
_OPTIONAL = {"score.bias"}  # 0 when absent
_REPEATED = {"lm_head.weight"}  # a copy of a tied embedding, or of no use to a trunk


class _Source(NamedTuple):
    names: tuple[str, ...]  # one, or one a layer
    form: str
    shape: tuple[int, ...]  # of each of them in the file


def read(folder, shapes, family, dtype):
    """The parameters in a directory as numpy arrays of `dtype`.

    Every tensor's name and shape is checked before any is read.

    Args: folder; shapes: our tree, of anything with a shape; family: a key of
    `names.TENSORS`; dtype. Raises ValueError naming all that is missing, misshapen or
    left over.
    """
    files = _files(folder)
    sources = {
        path: _source(path, leaf.shape, family)
        for path, leaf in zip(trees.paths(shapes), jax.tree.leaves(shapes), strict=True)
    }
    with contextlib.ExitStack() as stack:
        opened = {
            file: stack.enter_context(safetensors.safe_open(folder / file, "np"))
            for file in {file for file, _ in files.values()}
        }
        found = {name: (opened[file], full) for name, (file, full) in files.items()}
        _check(folder, sources, found)
        leaves = [
            _read_leaf(found, source, leaf.shape, dtype)
            for source, leaf in zip(
                sources.values(), jax.tree.leaves(shapes), strict=True
            )
        ]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)


def to_tensors(params, family):
    """{name: numpy array} of a decoder or a classifier, as the family's files have it.

    A head's bias of 0 is left out.
    """
    parts = {}
    for path, leaf in zip(trees.paths(params), jax.tree.leaves(params), strict=True):
        leaf = np.asarray(leaf)
        tensor = names.TENSORS[family][_inner(path)]
        if tensor.path == "head/bias" and not leaf.any():
            continue
        stacked = leaf if _is_stacked(path) else leaf[None]
        for layer, array in enumerate(stacked):
            array = array.T if tensor.form == "transposed" else array
            parts.setdefault(tensor.name.format(layer), {})[tensor.form] = array
    return {name: _join(forms) for name, forms in parts.items()}


def _join(forms):
    if len(forms) == 1:
        return np.ascontiguousarray(*forms.values())
    return np.concatenate([forms[part] for part in names.THIRDS], axis=-1)


def _inner(path):
    return path.removeprefix("trunk/")


def _is_stacked(path):
    return _inner(path).startswith("layers/")


def _source(path, shape, family):
    tensor = names.TENSORS[family][_inner(path)]
    layers = range(shape[0]) if _is_stacked(path) else (0,)
    shape = shape[1:] if _is_stacked(path) else shape
    if tensor.form == "transposed":
        shape = shape[::-1]
    elif tensor.form in names.THIRDS:
        shape = (*shape[:-1], 3 * shape[-1])
    listed = tuple(names.short(tensor.name.format(layer)) for layer in layers)
    return _Source(listed, tensor.form, tuple(shape))


def _files(folder):
    """{short tensor name: (file, full tensor name)} of one or several weight files."""
    index = folder / _INDEX
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
            raise ValueError(f"{folder} lacks {file}, which {_INDEX} names")
        with safetensors.safe_open(folder / file, "np") as content:
            found |= {names.short(name): (file, name) for name in content.keys()}
    return found


def _check(folder, sources, found):
    """Raise one ValueError that names every tensor that does not fit."""
    wanted = {name: source for source in sources.values() for name in source.names}
    missing = set(wanted) - set(found) - _OPTIONAL
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


def _read_leaf(found, source, shape, dtype):
    """One parameter of our tree, its layers stacked: numpy, of `shape` and `dtype`."""
    leaf = np.zeros(shape, dtype)
    layers = leaf if len(shape) > len(source.shape) else leaf[None]
    for layer, name in zip(layers, source.names, strict=True):
        if name in found:
            file, full = found[name]
            layer[...] = _take_form(file.get_tensor(full), source.form)
    return leaf


def _take_form(array, form):
    if form == "transposed":
        return array.T
    if form in names.THIRDS:
        return np.split(array, 3, axis=-1)[names.THIRDS.index(form)]
    return array
