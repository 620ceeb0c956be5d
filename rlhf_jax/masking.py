"""Means, variances, whitening and positions under masks.

A mask is 1 at valid positions and 0 at ignored ones. Values at ignored positions, even
inf and NaN, affect neither results nor gradients.
"""

import jax
import jax.numpy as jnp


def zero(x, mask):
    """x where the mask is non-zero, 0 elsewhere; the gradient there is exactly 0.

    Multiplying by the mask would let NaN and inf through (NaN · 0 = NaN).
    """
    x = jnp.asarray(x)
    return jnp.where(jnp.broadcast_to(mask, x.shape) != 0, x, jnp.zeros((), x.dtype))


def total(x, mask, *, axis_name=None):
    """Σ x·mask over every element, and over devices when `axis_name` is given.

    x [...]; mask broadcasts to x. Returns [] float32: bf16 would count to 256 only.
    """
    x = zero(x, mask)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    value = (x * jnp.broadcast_to(mask, x.shape)).sum()
    return value if axis_name is None else jax.lax.psum(value, axis_name)


def mean(x, mask, *, count=None, axis_name=None):
    """Σ x·mask / count: the only token reducer in this code base.

    x [...]; mask broadcasts to x; `count` [] is the denominator, Σ mask by default.
    Give it when x is part of a larger minibatch whose valid tokens are counted already.
    With `axis_name` the sum and the default count are summed over devices before the
    division; a given `count` must already be global.

    Returns [], 0 when nothing is valid.
    """
    x = jnp.asarray(x)
    value = total(x, mask, axis_name=axis_name)
    if count is None:
        count = total(jnp.ones_like(x), mask, axis_name=axis_name)
    return value / jnp.where(count > 0, count, 1)


def var(x, mask, *, axis_name=None):
    """Population variance Σ mask·(x − mean)² / Σ mask (ddof 0). Returns []."""
    center = mean(x, mask, axis_name=axis_name)
    return mean(jnp.square(zero(x, mask) - center), mask, axis_name=axis_name)


def whiten(x, mask, *, shift_mean=True, axis_name=None):
    """(x − mean) / √(var + 1e-8); `shift_mean=False` adds the mean back.

    Population variance, ε inside the root: "The N Implementation Details of RLHF with
    PPO", detail 18. x and mask [B, T]. Returns [B, T], 0 at ignored positions.
    """
    center = mean(x, mask, axis_name=axis_name)
    variance = var(x, mask, axis_name=axis_name)
    scaled = (zero(x, mask) - center) * jax.lax.rsqrt(variance + 1e-8)
    return zero(scaled if shift_mean else scaled + center, mask)


def positions(mask):
    """Position of each token among its row's valid ones: max(Σ_{s ≤ t} mask_s − 1, 0).

    0 before the first, so left padding shifts nothing. mask [B, T] → [B, T].
    """
    return jnp.maximum(jnp.cumsum(mask.astype(jnp.int32), axis=-1) - 1, 0)


def last_valid(mask):
    """Index of each row's last valid position, 0 if there is none. [B, T] → [B]."""
    index = jnp.arange(mask.shape[-1])
    return jnp.max(jnp.where(mask != 0, index, 0), axis=-1)


def up_to_first(hit):
    """1 up to and including the first True of each row, then 0; all 1 without a True.

    hit [B, T] bool, such as `tokens == eos`. Returns [B, T] int32.
    """
    hit = hit.astype(jnp.int32)
    before = jnp.cumsum(hit, axis=-1) - hit
    return (before == 0).astype(jnp.int32)
