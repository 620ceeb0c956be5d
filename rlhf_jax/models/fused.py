"""Attention by one operation of the device's library, where a program runs on one.

Legend: B rows, T queries, S keys, H query heads, K key-value heads, d head width.
"""

import jax
import jax.numpy as jnp

_WIDEST = 128  # the widest head that cuDNN takes on every GPU from Ampere on


def attend(q_BTHd, k_BSKd, v_BSKd, mask_BTS, *, scale, cudnn=False):
    """softmax(scale · q kᵀ) v over the positions in the mask. Returns [B, T, H, d].

    mask [B, T, S], or [B, 1, S] if all queries share it; cudnn: by cuDNN's flash
    attention where it takes these shapes, see `takes`. That cannot be vmapped: jax's
    rule for it expects a mask of every head's own.
    """
    flash = cudnn and takes(q_BTHd, k_BSKd)
    if flash:  # which wants the mask of each query
        shape = (len(q_BTHd), q_BTHd.shape[1], k_BSKd.shape[1])
        mask_BTS = jnp.broadcast_to(mask_BTS, shape)
    return jax.nn.dot_product_attention(
        q_BTHd,
        k_BSKd,
        v_BSKd,
        mask=mask_BTS[:, None],
        scale=scale,
        implementation="cudnn" if flash else None,
    )


def takes(q_BTHd, k_BSKd):
    """Whether cuDNN's flash attention takes such queries and keys.

    It computes in 16 bits, in heads of a multiple of 8 and at most 128; where a mask is
    not causal alone, its gradient needs even numbers of queries and of keys.
    """
    T, d = q_BTHd.shape[1], q_BTHd.shape[3]
    half = jnp.dtype(q_BTHd.dtype).itemsize == 2
    return half and d % 8 == 0 and d <= _WIDEST and T % 2 == k_BSKd.shape[1] % 2 == 0
