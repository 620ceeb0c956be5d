"""A causal language model: GPT-2, GPT-NeoX, Llama and their kin, by configuration.

Legend: B rows, T tokens, S slots, D width, V vocabulary, L layers. The parameters of
all layers are one tree of [L, ...] arrays under "layers": scanned over in training,
cut into layers for decoding.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from rlhf_jax import masking
from rlhf_jax.models import cache, config, layers, stacks


class Decoder(nn.Module):
    """tokens [B, T], mask [B, T] → logits [B, T, V] float32.

    The mask (1 valid, 0 padding, on either side; None = all valid) decides who is seen
    and which position a token has, so padding changes nothing at valid positions. An id
    under the mask may be anything, also beyond the vocabulary.
    """

    config: config.Decoder

    def setup(self):
        c = self.config
        self.embedding = layers.Embedding(c)
        self.layers = stacks.stack(self, layers.Block(c, parent=None), _example)
        self.final_norm = layers.Norm(c)
        if not c.tied:
            self.unembedding = layers.Unembedding(c)

    def __call__(self, tokens, mask=None):
        return self.unembed(self.hidden(tokens, mask))

    def hidden(self, tokens, mask=None, at=None):
        """What the last layer says, normalised: [B, T, D] in the compute type.

        at: a slice of positions, or an index [B], one a row: the states there alone,
        [B, n, D]. In a shallow model the last layer computes no others.
        """
        mask = jnp.ones_like(tokens) if mask is None else mask
        return self._forward(tokens, mask, at=at)[0]

    def unembed(self, hidden):
        """Logits [..., V] float32 of hidden states [..., D], any slice of them."""
        c = self.config
        if c.tied:
            table = self.embedding.token
            logits = layers.product(hidden, table.T, c.dtype, jnp.float32)
        else:
            logits = self.unembedding(hidden)
        return layers.capped(logits, c.logit_cap)

    def prefill(self, tokens, mask, length):
        """A left-padded prompt in one pass: logits [B, V] of what follows, and a cache.

        tokens and mask [B, P]; `length` slots hold the prompt and what will follow.
        """
        if length > self.config.max_length:
            prompt = tokens.shape[1]
            raise ValueError(
                f"{prompt} prompt tokens + {length - prompt} new ones exceed the "
                f"context of {self.config.max_length}: shorten the prompts or ask "
                "for fewer new tokens"
            )
        hidden, (keys, values) = self._forward(
            tokens, mask, remember=True, at=slice(-1, None)
        )
        each = cache.unstack(self.layers, self.config.dtype)
        memory = cache.from_prompt(each, keys, values, mask, length)
        return self.unembed(hidden[:, -1]), memory

    def repeat(self, copies, memory):
        """The memory of a `prefill`, each row `copies` times, side by side."""
        return cache.repeat(memory, copies)

    def step(self, token, position, memory):
        """One more token a row: the logits [B, V] after it, and the cache with it.

        token [B] int; position [B] int, how many valid tokens stand before it; memory
        is of a `prefill` with the same parameters, and holds the layers'.
        """
        c = self.config
        position = position[:, None]
        x = self.embedding(token[:, None], position)
        mask = cache.occupy(memory.mask, memory.index)
        shown, near = mask, mask
        if c.window is not None and c.window < mask.shape[1]:
            near = mask & (position - masking.positions(mask) < c.window)
        far_angles, near_angles = _angles(c, position)
        sights = {False: (far_angles, shown), True: (near_angles, near)}
        block = layers.Block(c, parent=None)
        keys, values = [], []
        for params, windowed, *old in zip(
            memory.layers, c.in_window(), memory.keys, memory.values, strict=True
        ):
            angles, seen = sights[windowed]
            x, (k, v) = block.apply(
                {"params": params}, x, angles, old, memory.index, seen, method="step"
            )
            keys.append(k)
            values.append(v)
        memory = memory._replace(
            keys=tuple(keys), values=tuple(values), mask=mask, index=memory.index + 1
        )
        return self.unembed(self.final_norm(x)[:, 0]), memory

    def _forward(self, tokens, mask, remember=False, at=None):
        c = self.config
        length = tokens.shape[1]
        if length > c.max_length:
            raise ValueError(
                f"{length} tokens exceed the context of {c.max_length}: shorten them"
            )
        positions = masking.positions(mask)
        x = self.embedding(masking.zero(tokens, mask), positions)
        sight, in_window = _sight(c, positions, mask)
        body = functools.partial(_apply_block, c, sight, remember)
        x, memory = stacks.scan(body, x, (self.layers, in_window), c, at)
        return self.final_norm(x), memory


def _sight(c, positions, mask):
    """The angles a layer turns by and what each token may look at, [B, T, T] bool; and
    which layers have a window.

    Where some layers have one and some have none, a pair (far, near) of those, and
    bools [L]; else what all layers share, and None.
    """
    length = mask.shape[1]
    causal = jnp.tril(jnp.ones((length, length), bool))
    shown = causal[None] & (mask != 0)[:, None]
    far_angles, near_angles = _angles(c, positions)
    far, near = (far_angles, shown), (near_angles, shown)
    if c.window is None:
        return far, None
    if length > c.window:
        close = positions[:, :, None] - positions[:, None] < c.window
        near = near_angles, shown & close
    if all(c.in_window()):
        return near, None
    return (far, near), jnp.array(c.in_window())


def _angles(c, positions):
    """The rotations of layers without a window and with one, often the same."""
    angles = layers.rotation(c, positions)
    if c.window_theta is None:
        return angles, angles
    return angles, layers.rotation(c, positions, windowed=True)


def _apply_block(c, sight, remember, x, layer, at):
    params, in_window = layer
    if in_window is not None:
        far, near = sight
        sight = jax.tree.map(functools.partial(jnp.where, in_window), near, far)
    angles, shown = sight
    block = layers.Block(c, parent=None)
    x, memory = block.apply({"params": params}, x, angles, shown, at)
    return x, memory if remember else None


def _example(c):
    """Inputs of a block, for its parameters' shapes."""
    x = jnp.zeros((1, 1, c.width), c.dtype)
    angles = layers.rotation(c, jnp.zeros((1, 1), jnp.int32))
    return x, angles, jnp.ones((1, 1, 1), bool)
