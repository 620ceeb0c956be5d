"""Averages of two directories, tensor by tensor: for models too large for memory.

Held are one tensor of each model and the file that is being written.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import trees
from rlhf_jax.huggingface import directories, weight_files, weights


def average(path, pair, weight, *, max_shard_bytes=directories.SHARD):
    """Writes (1 − w)·before + w·after as the model directory `path`, in `pair.dtype`.

    Every number is that of `averaging.interpolate` of the loaded models in float32,
    cast and saved: both round elementwise.

    Args: pair: of `comparable.read`, both whole models; weight: on `after`, also beyond
    [0, 1]; max_shard_bytes: of a file, all of which is held. Raises ValueError for a
    pair with an adapter. The directory is written atomically, as by `huggingface.save`.
    """
    if pair.adapter is not None:
        raise ValueError(
            f"{pair.after} is an adapter, which cannot be averaged tensor by tensor: "
            "leave --streamed out, or merge it in PEFT (merge_and_unload)"
        )
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jnp.dtype(pair.dtype)),
        weights.shapes_of(pair.model),
    )
    with (
        weight_files.opened(pair.before) as before,
        weight_files.opened(pair.after) as after,
        directories.fresh(path, pair.model, shapes, pair.tokenizer) as (folder, kind),
    ):

        def tensor(name):
            a, b = (_take(tensors, name) for tensors in (before, after))
            return np.asarray(trees.lerp(a, b, weight).astype(pair.dtype))

        weights.write_named(folder, shapes, kind, tensor, max_shard_bytes)


def _take(tensors, name):
    array = jnp.asarray(tensors[name].read(), jnp.float32)
    tensors[name].check_finite(np.asarray(array))
    return array
