"""A text encoder: DistilBERT, BERT and RoBERTa, by configuration.

Legend: B rows, T tokens, D width, L layers. As in the decoder, the layers' parameters
are one tree of [L, ...] arrays under "layers".
"""

import functools

import jax.numpy as jnp
from flax import linen as nn

from rlhf_jax import masking
from rlhf_jax.models import config, layers, stacks


class Encoder(nn.Module):
    """tokens [B, T], mask [B, T] → hidden states [B, T, D] in the compute type.

    Every valid token attends to every other. The mask (1 valid, 0 padding on either
    side; None: all valid) determines positions, so padding changes nothing at valid
    positions, and masked ids may be anything.
    """

    config: config.Encoder

    def setup(self):
        c = self.config
        self.embedding = Embedding(c)
        self.layers = stacks.stack(self, Block(c, parent=None), _example)

    def __call__(self, tokens, mask=None, at=None):
        """at: the positions to return, as in `stacks.pick`; by default all."""
        c = self.config
        mask = jnp.ones_like(tokens) if mask is None else mask
        if tokens.shape[1] > c.max_length:
            raise ValueError(
                f"{tokens.shape[1]} tokens exceed the context of {c.max_length}: "
                "shorten them"
            )
        x = self.embedding(masking.zero(tokens, mask), masking.positions(mask))
        body = functools.partial(_apply_block, c, (mask != 0)[:, None])
        return stacks.scan(body, x, self.layers, c, at)[0]


class Embedding(nn.Module):
    """norm(token + position + first segment), [B, T, D]."""

    config: config.Encoder

    def setup(self):
        c = self.config
        rows = {"token": c.vocab_size, "position": c.max_length + c.first_position}
        rows |= {"segment": c.segments} if c.segments else {}
        init = nn.initializers.normal(0.02)
        self.tables = {
            name: self.param(name, init, (count, c.width))
            for name, count in rows.items()
        }
        self.norm = layers.Norm(c)

    def __call__(self, tokens_BT, positions_BT):
        """An id or a position outside its table gives NaN."""
        tables = self.tables
        x = jnp.take(tables["token"], tokens_BT, axis=0, mode="fill")
        index = positions_BT + self.config.first_position
        x = x + jnp.take(tables["position"], index, axis=0, mode="fill")
        if self.config.segments:
            x = x + tables["segment"][0][None, None]
        return self.norm(x)


class Block(nn.Module):
    """x = norm(x + attention(x)), then norm(x + mlp(x))."""

    config: config.Encoder

    def setup(self):
        self.attention = layers.Attention(self.config)
        self.attention_norm = layers.Norm(self.config)
        self.mlp = layers.MLP(self.config)
        self.mlp_norm = layers.Norm(self.config)

    def __call__(self, x_BTD, mask_B1T, at=None):
        update, _ = self.attention(x_BTD, None, mask_B1T, at)
        x_BTD = self.attention_norm(stacks.pick(x_BTD, at) + update)
        return self.mlp_norm(x_BTD + self.mlp(x_BTD))


def _apply_block(c, visible, x, params, at):
    return Block(c, parent=None).apply({"params": params}, x, visible, at), None


def _example(c):
    """Example inputs of a block, to initialise its parameters."""
    return jnp.zeros((1, 1, c.width), c.dtype), jnp.ones((1, 1, 1), bool)
