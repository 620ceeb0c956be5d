"""An exponential moving average of parameters."""

import jax
import jax.numpy as jnp


def update(average, params, *, decay):
    """θ̄ ← d·θ̄ + (1 − d)·θ, leaf by leaf, in float32 whatever the dtype of θ.

    In bf16 an average never moves: its steps round to zero. Decay 0 and 1 are exact. A
    parameter equal to its average leaves it unchanged, so untrained weights do not
    drift by rounding.

    Args: average, params: pytrees with the same structure; decay [] in [0, 1], may be
    traced. Returns a float32 pytree.
    """
    decay = jnp.asarray(decay, jnp.float32)
    return jax.tree.map(lambda a, p: _update_leaf(a, p, decay), average, params)


def _update_leaf(average, param, decay):
    average, param = (jnp.asarray(x, jnp.float32) for x in (average, param))
    mixed = decay * average + (1.0 - decay) * param
    keep = (decay == 1.0) | (average == param)
    return jnp.where(decay == 0.0, param, jnp.where(keep, average, mixed))
