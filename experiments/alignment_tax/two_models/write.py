"""The chosen average as a model directory, in memory or tensor by tensor."""

import pathlib

import jax
import numpy as np

from experiments.alignment_tax.two_models import merges
from experiments.throughput import measure
from rlhf_jax import huggingface
from rlhf_jax.cli import experiment
from rlhf_jax.huggingface import comparable, directories, streamed, weights
from rlhf_jax.runtime import host
from rlhf_jax.tasks import models

_MIB = 2**20
_SHARE = 0.8  # of the memory that is free, which models may take


def check(path, pair):
    """Raises ValueError where no model can be written, or one of the two stands."""
    folder = pathlib.Path(path)
    if folder.resolve() in (pair.before.resolve(), pair.after.resolve()):
        raise ValueError(
            f"--write {path} is one of the two models: name another folder"
        )
    if folder.exists() and not directories.replaceable(folder):
        raise ValueError(
            f"--write {path} holds something other than a model: name a new folder"
        )


def chosen(config, results, points):
    """The point that --weight, --method or the advice names."""
    if config.weight is not None:
        return _line(config.weight)
    name = config.method or results["advice"]["point"]
    if name is None:
        raise ValueError(
            f"--write {config.write}: no model is advised "
            f"({results['advice']['reason'].rstrip('.')}); name one with --weight or "
            "--method"
        )
    return next(point for point in points if point.name == name)


def unmeasured(config, pair, console):
    """Writes what --weight or --method names, measuring nothing."""
    point = (
        _line(config.weight) if config.method is None else merges.named(config.method)
    )
    if _is_line(point) and pair.adapter is None:
        needed, free = 3 * _size(pair), host.available_memory()
        short = free is not None and needed > _SHARE * free
        if short and not config.streamed:
            experiment.say(
                console,
                [
                    f"two models and their average take {needed / _MIB:,.0f} MiB and "
                    f"{free / _MIB:,.0f} are free: written tensor by tensor"
                ],
            )
        if short or config.streamed:
            return write(config, pair, point, None, console)
    return write(config, pair, point, comparable.load(pair), console)


def write(config, pair, point, both, console):
    """Writes a point as a model directory, and says so; None as `both`: streamed."""
    if both is None or (config.streamed and _is_line(point)):
        streamed.average(config.write, pair, point.weight)
    else:
        averaged = point.make(*both)
        stored = jax.tree.map(lambda x: x.astype(pair.dtype), averaged)
        stored = jax.device_get(stored)
        huggingface.save(config.write, pair.model, stored, pair.tokenizer)
    models.write_stops(config.write, pair.tokenizer)
    kind = f"{point.label}, {pair.dtype}"
    experiment.say(console, [f"wrote     {config.write} ({kind})"])


def held(params):
    """How much memory models take: {"model_mib", "peak_mib", "device_peak_mib"}.

    peak_mib: the largest resident memory of the process, everything in it included.
    """
    leaves = jax.tree.leaves(params)
    size = sum(x.nbytes for x in leaves)
    # The set is the sharding's own, which all arrays of it share: nothing is taken out.
    used = next(iter(leaves[0].devices())).memory_stats() or {}
    device = used.get("peak_bytes_in_use")
    return {
        "model_mib": size / _MIB,
        "peak_mib": measure.peak_bytes() / _MIB,
        "device_peak_mib": None if device is None else device / _MIB,
    }


def _line(weight):
    """The plain average with any weight in [0, 2]."""
    return merges.point("ma" if weight <= 1 else "beyond", weight)


def _is_line(point):
    return point.family in ("ma", "beyond")


def _size(pair):
    """Bytes of one model in float32."""
    shapes = jax.tree.leaves(weights.shapes_of(pair.model))
    return 4 * sum(int(np.prod(x.shape)) for x in shapes)
