"""Pretraining that runs once: its weights are cached."""

import contextlib
import functools
import hashlib
import json
import pathlib

import jax
import jax.numpy as jnp

from rlhf_jax.algorithms import sft
from rlhf_jax.runtime import checkpoint, files, loop, processes
from rlhf_jax.studies import supervised
from rlhf_jax.studies.trainable import Trainable


def digest(value):
    """12 hex digits of a value as JSON, with `str` for what JSON lacks."""
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:12]


def cached(
    model, data, folder, *, config, steps, rows, learning_rate, layout, report,
    signals=None, seed=0, save_every=250, start=None, make_loss=sft.make_loss,
    count=sft.count, what="pretraining",
):  # fmt: skip
    """The language model at `folder`, pretrained if it is not there yet.

    Args: data() -> rows of the loss, called only when there is something to train;
    report as in `tasks.microworld`; start: weights to go on from, new ones by default;
    make_loss, count: of `supervised.Objective`; what: how the progress is called. A run
    that was stopped resumes from its checkpoint.
    """
    init = functools.partial(_init(model), jax.random.key(seed))
    target = layout.like(jax.eval_shape(init))
    params = checkpoint.load_params(folder, target)
    if params is not None:
        return params
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    with _alone(unfinished, report, signals):
        params = checkpoint.load_params(folder, target)  # another's, perhaps, by now
        checkpoints = checkpoint.Checkpointer(
            unfinished, keep=1, config_digest="pretraining"
        )
        if params is None:
            trainer = supervised.trainer(
                Trainable(init() if start is None else jax.device_get(start)),
                data(),
                supervised.Objective(model, make_loss, count, config),
                rows=rows,
                steps=steps,
                learning_rate=learning_rate,
                seed=seed,
                layout=layout,
            )
            params = supervised.fit(
                trainer,
                steps=steps,
                layout=layout,
                report=_told(report, steps, what),
                checkpoints=checkpoints,
                save_every=save_every,
                signals=signals,
            )
            checkpoint.save_params(folder, params)
        checkpoints.clear()
    return params


def _told(report, steps, what):
    def log(step, metrics):
        report(what, done=step, total=steps, nll=metrics["nll"])

    return log


@contextlib.contextmanager
def _alone(folder, report, signals):
    """Waits while another process pretrains in `folder`, then holds it.

    The first host of a run waits; the others meet it at the next thing they share.
    """
    if not processes.first():
        yield
        return
    said = False

    def wait():
        nonlocal said
        if not said:
            report("waiting for another process that trains the same model ...")
        said = True
        if signals is not None and signals.received:
            raise loop.Interrupted(f"{signals.received} while another pretrains")

    with files.lock(folder, wait):
        yield


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
