"""Pretraining that runs once: its weights are cached."""

import functools
import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp

from rlhf_jax.algorithms import sft
from rlhf_jax.runtime import checkpoint
from rlhf_jax.studies import supervised
from rlhf_jax.studies.trainable import Trainable


def digest(value):
    """12 hex digits of a value as JSON, with `str` for what JSON lacks."""
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:12]


def cached(
    model, data, folder, *, config, steps, rows, learning_rate, layout, report,
    signals=None, seed=0, save_every=250,
):  # fmt: skip
    """The language model at `folder`, pretrained if it is not there yet.

    Args: data() -> `Tokens`, called only when there is something to train; report as
    in `tasks.microworld`. A run that was stopped resumes from its checkpoint.
    """
    init = functools.partial(_init(model), jax.random.key(seed))
    target = layout.like(jax.eval_shape(init))
    params = checkpoint.load_params(folder, target)
    if params is not None:
        return params
    name = folder.with_name(f"{folder.name}.unfinished")
    unfinished = checkpoint.Checkpointer(name, keep=1, config_digest="pretraining")
    trainer = supervised.trainer(
        Trainable(init()),
        data(),
        supervised.Objective(model, sft.make_loss, sft.count, config),
        rows=rows,
        steps=steps,
        learning_rate=learning_rate,
        seed=seed,
        layout=layout,
    )

    def log(step, metrics):
        report("pretraining", done=step, total=steps, nll=metrics["nll"])

    params = supervised.fit(
        trainer,
        steps=steps,
        layout=layout,
        report=log,
        checkpoints=unfinished,
        save_every=save_every,
        signals=signals,
    )
    checkpoint.save_params(folder, params)
    unfinished.clear()
    return params


@functools.lru_cache(maxsize=8)
def _init(model):
    """`init(key) -> params`, compiled once for all seeds."""
    sample = jnp.zeros((1, 4), jnp.int32)
    return jax.jit(lambda key: model.init(key, sample)["params"])


def identity(dataset):
    """A dataset in a cache key: its name, and the sizes of local files."""
    path = pathlib.Path(dataset)
    files = sorted(path.glob("*")) if path.is_dir() else [path]
    return [dataset, [(f.name, f.stat().st_size) for f in files if f.is_file()]]
