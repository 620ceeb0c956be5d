"""Recipes from Python: keywords to a config, objects to names, and the result.

    result = sft.train(model="path/to/model", dataset=rows, fit={"steps": 100})
    result.model.apply({"params": result.params}, tokens)

Every flag of a command is a keyword, a group of flags a dictionary. A flag that names a
model, rows or a function also takes the object itself: `(model, params, tokenizer)` or
what another recipe returned; a `datasets.Dataset` or a list of dictionaries; a Python
function. config.json and digests then hold a name for it.
"""

import dataclasses
import difflib
import hashlib
import json
import os
import pathlib
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.cli import fields as field_names
from rlhf_jax.cli import trl
from rlhf_jax.runtime import provenance

_BATCH = 1000  # rows read at a time for a digest


class Result(NamedTuple):
    """What a recipe returns; it starts with what `huggingface.load` returns."""

    model: Any  # the module; `model.apply({"params": params}, tokens, mask)`
    params: Any  # float32, adapters merged
    tokenizer: Any
    folder: pathlib.Path  # of the run; folder / "model" opens with transformers
    metrics: dict[str, float]  # of the model on held-out rows: its evaluation
    records: list[dict]  # of metrics.jsonl, training and evaluations, of its seed
    directory: str = "model"  # of the model, in the folder
    seeds: tuple["Result", ...] = ()  # one of each seed, this one the first of them

    @property
    def model_folder(self):
        """The model directory, for the next recipe or other programs."""
        return self.folder / self.directory


def configure(config, flags):
    """`config` with the values of `flags`, in which groups of flags are dictionaries.

    Raises ValueError for an unknown flag, suggesting the nearest one.
    """
    fields, values = vars(config), {}
    for name, value in field_names.renamed(config, flags).items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]}" if near else f"choose from {list(fields)}"
            if trl.ours(name):
                hint = f"TRL's {name} is {' or '.join(trl.ours(name))} here"
            raise ValueError(f"{name}: there is no such flag; {hint}")
        before = fields[name]
        if isinstance(value, dict) and dataclasses.is_dataclass(before):
            value = configure(before, value)
        elif isinstance(value, list) and isinstance(before, tuple):
            value = tuple(value)
        values[name] = value
    return dataclasses.replace(config, **values)


def names(config):
    """`config` with a name in place of every object that was given in Python."""
    named = {key: _name(value) for key, value in vars(config).items()}
    changed = {k: name for k, name in named.items() if name is not vars(config)[k]}
    return dataclasses.replace(config, **changed) if changed else config


def _name(value):
    """A value as config.json holds it: itself, or a name for an object."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Result):
        return str(value.model_folder)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list) and value and isinstance(value[0], dict):
        starts = range(0, len(value), _BATCH)
        return _rows_name(len(value), (value[i : i + _BATCH] for i in starts))
    if isinstance(value, tuple) and len(value) == 3 and hasattr(value[0], "apply"):
        return f"model given in Python ({_digest(_weights(*value[:2]))})"
    if isinstance(value, tuple | list):
        # A list that names several things may hold objects in their place.
        named = tuple(map(_name, value))
        same = all(name is one for name, one in zip(named, value, strict=True))
        return value if same else named
    if all(hasattr(value, name) for name in ("column_names", "iter", "__len__")):
        return _rows_name(len(value), value.iter(_BATCH))
    if dataclasses.is_dataclass(value) and not callable(value):
        return names(value)
    return provenance.name_of(value)


def _rows_name(count, batches):
    text = (json.dumps(batch, sort_keys=True, default=str) for batch in batches)
    return f"{count} rows given in Python ({_digest(part.encode() for part in text)})"


def _weights(model, params):
    yield repr(model).encode()
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        yield jax.tree_util.keystr(path).encode()
        yield np.ascontiguousarray(jax.device_get(leaf)).tobytes()


def _digest(parts):
    """12 hex digits that identify a sequence of bytes."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(part)
    return sha256.hexdigest()[:12]
