"""The optimiser: what is static comes from Config, what a sweep changes is traced.

The transformation built here ends at a unit learning rate; `training.apply` multiplies
by −lr, so that one compiled program serves every learning rate.
"""

import dataclasses
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import optax

from rlhf_jax import ranges, trees


@dataclasses.dataclass(frozen=True)
class Config:
    """Adam, its schedule and gradient clipping."""

    beta1: Annotated[float, ranges.Range(at_least=0, below=1)] = 0.9
    beta2: Annotated[float, ranges.Range(at_least=0, below=1)] = 0.999
    eps: ranges.NonNegative = 1e-5  # "The N Implementation Details", detail 21
    """Adam's ε."""
    weight_decay: ranges.NonNegative = 0.0
    """Decoupled; never on biases and norms."""
    max_grad_norm: ranges.Limit | None = 1.0
    """Gradients are clipped to this global norm."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """The learning rate's, down to 0 at the end of training."""
    warmup: ranges.Natural = 0
    """Updates of linear warm-up."""

    def __post_init__(self):
        ranges.check(self)


def transformation(config):
    """Clip by global norm, Adam, decoupled weight decay: optax, at learning rate 1.

    Returns an `optax.GradientTransformation` whose updates still want a factor −lr.
    """
    parts = []
    if config.max_grad_norm is not None:
        parts.append(optax.clip_by_global_norm(config.max_grad_norm))
    parts.append(optax.scale_by_adam(config.beta1, config.beta2, config.eps))
    if config.weight_decay:
        parts.append(optax.add_decayed_weights(config.weight_decay, _decayed))
    return optax.chain(*parts)


def _decayed(params):
    """Which leaves are decayed: kernels and embeddings, by their names.

    Not by their rank: the biases of stacked layers are [L, D].
    """

    def decays(path, _):
        return trees.path_name(path).rsplit("/", 1)[-1] not in ("bias", "scale")

    return jax.tree_util.tree_map_with_path(decays, params)


def learning_rate(config, update, *, peak, total):
    """The learning rate of an update: warm-up, then the schedule down to 0 at `total`.

    Args: update [] int, 0-based; peak [] and total [] may be traced; a constant
    schedule does not read `total`. Returns [] float32.
    """
    update = jnp.asarray(update, jnp.float32)
    rate = jnp.asarray(peak, jnp.float32)
    if config.schedule != "constant":
        span = jnp.maximum(total - config.warmup, 1)
        left = 1.0 - jnp.clip((update - config.warmup) / span, 0.0, 1.0)
        if config.schedule == "cosine":
            left = 0.5 * (1.0 - jnp.cos(jnp.pi * left))
        rate = rate * left
    if config.warmup:
        rate = rate * jnp.minimum(1.0, (update + 1.0) / config.warmup)
    return rate
