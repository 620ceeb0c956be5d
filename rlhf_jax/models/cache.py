"""What a decoder remembers of tokens it has read: keys and values of every layer.

Legend: B rows, P prompt tokens, S slots, K key-value heads, d head width, L layers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.models import stacks


class Cache(NamedTuple):
    """One array per layer, so that a loop writes in place and reads without slicing.

    The layers' parameters are unstacked once, not at every token: that would take 40%
    of the time of a token (8 layers of width 512 on CPU).

    All rows write the same slot, `index` modulo S, and slots are used in a circle: a
    row that begins later than others has its prompt in the slots before that one.
    """

    layers: tuple[Any, ...]  # L × one layer's parameters, kernels in the compute type
    keys: tuple[jax.Array, ...]  # L × [B, K, S, d]
    values: tuple[jax.Array, ...]  # L × [B, K, S, d]
    mask: jax.Array  # [B, S] bool, the slots with a valid token
    index: jax.Array  # [] int32, tokens read; modulo S, the slot to write next
    head: Any = ()  # [D, V], a tied unembedding in a half type; (): as it is


class Prefix(NamedTuple):
    """A text read once, to be continued by many rows: see `Decoder.hidden`."""

    keys: jax.Array  # [B, L, S, K, d]
    values: jax.Array  # [B, L, S, K, d]
    mask: jax.Array  # [B, S], 1 at valid tokens

    @property
    def by_layer(self):
        """(keys, values), [L, B, S, K, d] each."""
        return self.keys.swapaxes(0, 1), self.values.swapaxes(0, 1)


def join(before, new):
    """(keys, values) of what comes before, which may have one row for all, and of new
    tokens [B, T, K, d]: [B, S + T, K, d] each. before: None if nothing does."""
    if before is None:
        return tuple(new)
    rows = new[0].shape[0]
    return tuple(
        jnp.concatenate([jnp.broadcast_to(old, (rows, *old.shape[1:])), x], axis=1)
        for old, x in zip(before, new, strict=True)
    )


def from_prompt(layers, keys, values, mask, length):
    """The cache after a prompt, with S = length slots in all.

    layers: L × parameters; keys and values [L, B, P, K, d]; mask [B, P].
    """
    room = length - mask.shape[1]

    def by_layer(stacked):
        by_head = stacked.swapaxes(2, 3)
        padded = jnp.pad(by_head, [(0, 0)] * 3 + [(0, room), (0, 0)])
        return tuple(padded)

    return Cache(
        layers=layers,
        keys=by_layer(keys),
        values=by_layer(values),
        mask=jnp.pad(mask != 0, [(0, 0), (0, room)]),
        index=jnp.array(mask.shape[1], jnp.int32),
    )


def repeat(memory, copies):
    """The Cache with every row repeated `copies` times, in adjacent rows."""
    return _by_row(lambda x: jnp.repeat(x, copies, axis=0), memory)


def take(memory, rows):
    """The Cache of `rows` [R] alone."""
    return _by_row(lambda x: x[rows], memory)


def _by_row(change, memory):
    return memory._replace(
        keys=tuple(map(change, memory.keys)),
        values=tuple(map(change, memory.values)),
        mask=change(memory.mask),
    )


def replace(memory, rows, new):
    """The Cache with `rows` [R] replaced by those of `new`, which has read prompts.

    Their slots are rolled: the last token of a prompt comes before the slot that is
    written next. new: a Cache of R rows with as many slots.
    """
    ahead = memory.index - new.index

    def put(old, fresh):
        return old.at[rows].set(jnp.roll(fresh, ahead, axis=-2))

    return memory._replace(
        keys=tuple(map(put, memory.keys, new.keys)),
        values=tuple(map(put, memory.values, new.values)),
        mask=put(memory.mask[..., None], new.mask[..., None])[..., 0],
    )


def unstack(stacked, dtype):
    """Parameters [L, ...] as L trees, kernels cast to `dtype` as `Dense` would do.

    Scales and biases keep their type.
    """

    def cast(leaf):
        return leaf.astype(dtype) if leaf.ndim > 1 else leaf

    return tuple(jax.tree.map(cast, layer) for layer in stacks.unstack(stacked))


def write(memory_BKSd, new_BTKd, index):
    """The memory with new keys or values written from slot `index` on."""
    new_BKTd = new_BTKd.swapaxes(1, 2).astype(memory_BKSd.dtype)
    return jax.lax.dynamic_update_slice_in_dim(memory_BKSd, new_BKTd, index, axis=2)
