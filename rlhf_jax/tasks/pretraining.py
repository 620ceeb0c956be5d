"""Pretraining that is done once: the weights are kept in the cache."""

import functools
import hashlib
import json

import jax
import jax.numpy as jnp

from rlhf_jax.algorithms import sft
from rlhf_jax.runtime import checkpoint
from rlhf_jax.studies import fitting


def digest(value):
    """12 hex digits of anything JSON can say: the part of a name that changes."""
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:12]


def cached(
    model,
    data,
    folder,
    *,
    config,
    steps,
    rows,
    learning_rate,
    layout,
    report,
    signals=None,
    seed=0,
    save_every=250,
):
    """The language model at `folder`, pretrained if it is not there yet.

    Args: data() -> `Tokens`, called only when there is something to train; report as
    in `tasks.microworld`. A run that was stopped goes on where it was saved.
    """
    sample = jnp.zeros((1, 4), jnp.int32)
    init = functools.partial(model.init, jax.random.key(seed), sample)
    found = checkpoint.load_params(folder, layout.like(jax.eval_shape(init)["params"]))
    if found is not None:
        return found
    fit = fitting.Fit(sft.make_loss(model), sft.count, config, layout)
    partial = checkpoint.Checkpointer(
        folder.with_name(f"{folder.name}.partial"), keep=1, config_digest="pretraining"
    )

    def tell(step, metrics):
        report("pretraining", done=step, total=steps, nll=metrics["nll"])

    params = fit(
        jax.jit(init)()["params"],
        data(),
        steps=steps,
        rows=rows,
        learning_rate=learning_rate,
        seed=seed,
        report=tell,
        checkpoints=partial,
        save_every=save_every,
        signals=signals,
    )
    checkpoint.save_params(folder, params)
    partial.clear()
    return params
