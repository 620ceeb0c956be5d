"""A causal language model: GPT-2, GPT-NeoX, the Llama family, by configuration.

Legend: B rows, T tokens, S slots, D width, V vocabulary, L layers. The parameters of
all layers are one tree of [L, ...] arrays under "layers", scanned over in training and
unstacked for decoding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from rlhf_jax import masking, sharding
from rlhf_jax.models import branches, cache, config, layers, products, stacks


class Decoder(nn.Module):
    """tokens [B, T], mask [B, T] → logits [B, T, V] float32.

    The mask (1 valid, 0 padding on either side; None: all valid) determines attention
    and positions, so padding changes nothing at valid positions. Masked ids may be
    anything, even outside the vocabulary.
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

    def hidden(self, tokens, mask=None, at=None, segments=None, after=None):
        """The normalised hidden states of the last layer: [B, T, D], compute type.

        at: a slice of positions, or an index [B], one per row: only these states, as
        [B, n, D]. In a shallow model the last layer computes no others.

        segments: a numpy array [T] of 0, 1, ... n: segment 0 is common to the others,
        which do not see each other, and each of which follows it directly. Or an array
        [B, T]: tokens see those of their own segment alone, whose positions start at 0.
        Or two arrays [B, T], of texts and of their branches: tokens see those of their
        own text that are of branch 0, its beginning, or of their own branch.

        after: the `prefix` of a text that the tokens continue, of one row for all or of
        as many. The states are those of the whole text, but for rounding, and so are
        gradients.
        """
        mask = jnp.ones_like(tokens) if mask is None else mask
        return self._forward(tokens, mask, at=at, segments=segments, after=after)[0]

    def prefix(self, tokens, mask=None):
        """Reads a text [B, S] to be continued: a `cache.Prefix`."""
        mask = jnp.ones_like(tokens) if mask is None else mask
        # Of the last layer only keys and values are needed.
        _, memory = self._forward(tokens, mask, remember=True, at=slice(-1, None))
        return cache.Prefix(*(x.swapaxes(0, 1) for x in memory), mask)

    def unembed(self, hidden):
        """Logits [..., V] float32 of hidden states [..., D], all or some of them."""
        c = self.config
        if c.tied:
            table = self.embedding.token
            axes = sharding.axes("embedding/token", table.shape)[::-1]
            logits = products.product(hidden, table.T, c.dtype, jnp.float32, axes=axes)
        else:
            logits = self.unembedding(hidden)
        return layers.capped(logits, c.logit_cap)

    def prefill(self, tokens, mask, length):
        """Reads a left-padded prompt: logits [B, V] of the next token, and a cache.

        tokens and mask [B, P]; the cache has `length` slots for prompt and response.
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
        c = self.config
        if c.tied and c.dtype != "float32":
            # Few rows times a transposed table take 7 times as long in bf16 on CPU.
            table = self.embedding.token.astype(c.dtype)
            memory = memory._replace(head=sharding.by_columns(table.T))
        return self.unembed(hidden[:, -1]), memory

    def repeat(self, copies, memory):
        """The cache with every row repeated `copies` times, in adjacent rows."""
        return cache.repeat(memory, copies)

    def replace(self, rows, new, memory):
        """The cache with `rows` [R] replaced by those of `new`: see `cache.replace`."""
        return cache.replace(memory, rows, new)

    def take(self, rows, memory):
        """The cache of `rows` [R] alone."""
        return cache.take(memory, rows)

    def step(self, token, position, memory):
        """Reads one more token per row: logits [B, V] of the next, and the new cache.

        token [B] int; position [B] int, the number of valid tokens before it; memory:
        the cache of a `prefill` with the same parameters, which it holds unstacked.
        """
        c = self.config
        position = position[:, None]
        x = self.embedding(token[:, None], position)
        slots = memory.mask.shape[1]
        slot = memory.index % slots
        mask = memory.mask | (jnp.arange(slots) == slot)[None]
        near = mask
        if c.window is not None and c.window < slots:
            age = (slot - jnp.arange(slots)) % slots  # tokens of a row are adjacent
            near = mask & (age < c.window)[None]
        full_angles, window_angles = _angles(c, position)
        contexts = {False: (full_angles, mask), True: (window_angles, near)}
        block = layers.Block(c, parent=None)
        keys, values = [], []
        for params, windowed, *old in zip(
            memory.layers, c.in_window(), memory.keys, memory.values, strict=True
        ):
            angles, visible = contexts[windowed]
            x, (k, v) = block.apply(
                {"params": params}, x, angles, old, slot, visible, method="step"
            )
            keys.append(k)
            values.append(v)
        memory = memory._replace(
            keys=tuple(keys), values=tuple(values), mask=mask, index=memory.index + 1
        )
        x = self.final_norm(x)[:, 0]
        if isinstance(memory.head, tuple):
            return self.unembed(x), memory
        logits = products.product(x, memory.head, c.dtype, jnp.float32)
        return layers.capped(logits, c.logit_cap), memory

    def _forward(
        self, tokens, mask, remember=False, at=None, segments=None, after=None
    ):
        c = self.config
        _check_length(c, tokens, segments, after)
        visible = _visible(mask, segments, after)
        positions = masking.positions(mask)
        if segments is not None or after is not None:
            positions = jnp.maximum(visible.sum(-1) - 1, 0)
        x = self.embedding(masking.zero(tokens, mask), positions)
        context, in_window = _context(c, positions, visible, after)
        if at is None and after is None and _are_static(segments):
            context = _apart(context, segments)
        before = None if after is None else after.by_layer
        body = functools.partial(_apply_block, c, context, remember)
        x, memory = stacks.scan(body, x, (self.layers, in_window, before), c, at)
        return self.final_norm(x), memory


def _are_static(segments):
    """Whether they are alike in all rows, known before the program runs."""
    return segments is not None and not _are_branched(segments) and segments.ndim == 1


def _are_branched(segments):
    return isinstance(segments, tuple)


def _check_length(c, tokens, segments, after):
    if _are_branched(segments):
        return  # a row may hold more than the context, its texts may not
    length = tokens.shape[1]
    if _are_static(segments):
        common, *others = np.bincount(segments)
        length = int(common) + int(max(others))
    if after is not None:
        length += after.mask.shape[1]
    if length > c.max_length:
        raise ValueError(
            f"{length} tokens exceed the context of {c.max_length}: shorten them"
        )


def _visible(mask, segments, after):
    """[B, T, S] bool: which tokens each one sees, whatever the layer.

    The S tokens are those before, if any, and the T of the mask.
    """
    causal = jnp.tril(jnp.ones((mask.shape[1],) * 2, bool))
    if _are_static(segments):
        causal &= (segments == 0)[None] | (segments[:, None] == segments[None])
    visible = causal[None] & (mask != 0)[:, None]
    if _are_branched(segments):
        texts, parts = segments
        visible &= texts[:, :, None] == texts[:, None]
        visible &= (parts == 0)[:, None] | (parts[:, :, None] == parts[:, None])
    elif segments is not None and segments.ndim == 2:
        visible &= segments[:, :, None] == segments[:, None]
    if after is None:
        return visible
    earlier = jnp.broadcast_to(
        (after.mask != 0)[:, None], (*mask.shape, after.mask.shape[1])
    )
    return jnp.concatenate([earlier, visible], axis=-1)


def _context(c, positions, visible, after):
    """(rotary angles, attention mask [B, T, S] bool), and which layers have a window.

    If only some layers have one: a pair of contexts, without and with it, and bools
    [L]. Otherwise the context of all layers, and None.
    """
    full_angles, window_angles = _angles(c, positions)
    full, window = (full_angles, visible), (window_angles, visible)
    if c.window is None:
        return full, None
    if visible.shape[2] > c.window:
        read = positions
        if after is not None:
            earlier = masking.positions(after.mask)
            earlier = jnp.broadcast_to(earlier, (len(read), earlier.shape[1]))
            read = jnp.concatenate([earlier, read], axis=1)
        near = positions[:, :, None] - read[:, None] < c.window
        window = window_angles, visible & near
    if all(c.in_window()):
        return window, None
    return (full, window), jnp.array(c.in_window())


def _apart(context, segments):
    """A context, or a pair of them, whose masks are `branches.Visible`."""
    first, second = context
    if isinstance(second, tuple):
        return _apart(first, segments), _apart(second, segments)
    return first, branches.split(second, segments)


def _angles(c, positions):
    """The rotary angles of layers without and with a window, often the same."""
    angles = layers.rotation(c, positions)
    if c.window_theta is None:
        return angles, angles
    return angles, layers.rotation(c, positions, windowed=True)


def _apply_block(c, context, remember, x, layer, at):
    params, in_window, before = layer
    if in_window is not None:
        full, window = context
        context = jax.tree.map(functools.partial(jnp.where, in_window), window, full)
    angles, visible = context
    block = layers.Block(c, parent=None)
    x, memory = block.apply({"params": params}, x, angles, visible, at, before)
    return x, memory if remember else None


def _example(c):
    """Example inputs of a block, to initialise its parameters."""
    x = jnp.zeros((1, 1, c.width), c.dtype)
    angles = layers.rotation(c, jnp.zeros((1, 1), jnp.int32))
    return x, angles, jnp.ones((1, 1, 1), bool)
