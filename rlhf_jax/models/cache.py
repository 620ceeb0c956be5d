"""What a decoder remembers of the tokens before: keys and values of every layer.

Legend: B rows, S slots, K key-value heads, d head width.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Cache(NamedTuple):
    """One array a layer, so that a loop writes in place and reads without slicing."""

    keys: tuple[jax.Array, ...]  # L × [B, K, S, d]
    values: tuple[jax.Array, ...]  # L × [B, K, S, d]
    mask: jax.Array  # [B, S] bool, the slots that hold a valid token
    index: jax.Array  # [] int32, the slot that is written next


def from_prompt(keys, values, mask, length):
    """The cache after a prompt, with room for `length` slots in all.

    keys and values [L, B, P, K, d]; mask [B, P]. Returns a Cache of S = length.
    """
    room = length - mask.shape[1]

    def spread(stacked):
        by_head = stacked.swapaxes(2, 3)
        padded = jnp.pad(by_head, [(0, 0)] * 3 + [(0, room), (0, 0)])
        return tuple(padded)

    return Cache(
        keys=spread(keys),
        values=spread(values),
        mask=jnp.pad(mask != 0, [(0, 0), (0, room)]),
        index=jnp.array(mask.shape[1], jnp.int32),
    )


def write(memory_BKSd, new_BTKd, index):
    """The memory with new keys or values from slot `index` on."""
    new_BKTd = new_BTKd.swapaxes(1, 2).astype(memory_BKSd.dtype)
    return jax.lax.dynamic_update_slice_in_dim(memory_BKSd, new_BKTd, index, axis=2)


def occupy(mask, index):
    """The mask with slot `index` valid in every row. mask [B, S] → [B, S]."""
    return mask | (jnp.arange(mask.shape[1]) == index)[None]
