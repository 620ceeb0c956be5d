"""Translation by two GRUs with attention and input feeding.

Legend: B rows, S source tokens, T target tokens, E embedding, H hidden, V vocabulary.
Gates are in torch's order (reset, update, candidate), so the kernels here are the
transposed weights of `nn.GRU` and `nn.GRUCell`.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from rlhf_jax import masking
from rlhf_jax.models import config, products

_MASKED = -1e30  # finite: a row without a source gets a mean, not NaN


class Memory(NamedTuple):
    """What the decoder attends to, and the state it carries from token to token."""

    keys: jax.Array  # [B, S, H], W_k of the encoder's states
    values: jax.Array  # [B, S, H], W_c of the encoder's states
    mask: jax.Array  # [B, S] bool
    state: jax.Array  # [B, H]
    feed: jax.Array  # [B, H], the previous token's attentional vector; initially 0


class _Weights(NamedTuple):
    """The weights of a decoder step."""

    feed: jax.Array  # [H, 3H], input feed to input gates
    recurrent: jax.Array  # [H, 3H]
    bias: jax.Array  # [3H], of the recurrent gates
    state: jax.Array  # [H, H], state to attentional vector


class Affine(nn.Module):
    """x W + b over the last axis, both initialised from U(−r, r) with r = 1/√fan."""

    inputs: int
    outputs: int
    fan: int
    bias: bool = True

    def setup(self):
        init = _uniform(self.fan**-0.5)
        self.kernel = self.param("kernel", init, (self.inputs, self.outputs))
        if self.bias:
            self.offset = self.param("bias", init, (self.outputs,))

    def __call__(self, x):
        out = products.product(x, self.kernel, "float32")
        return out + jnp.broadcast_to(self.offset, out.shape) if self.bias else out


class Seq2Seq(nn.Module):
    """Logits [B, T, V] of a target given a source, at once or token by token.

    Lu et al. 2020, "Countering Language Drift with Seeded Iterated Learning",
    arXiv:2003.12694, C.1, and its code: a GRU encodes the source; a GRU cell, starting
    from the mean of the encoder's states, decodes the target. Attention is "general" of
    Luong et al. 2015 (arXiv:1508.04025), and its vector tanh(W [context; state]) is fed
    into the next step. `pad_id` is embedded as 0. The source may be padded on either
    side, the target on the right. Everything is float32. Initialisation is torch's
    default, as in that code.
    """

    config: config.Seq2Seq

    def setup(self):
        c = self.config
        init = nn.initializers.normal(1.0)
        self.source = self.param("source", init, (c.source_vocab, c.embedding))
        self.target = self.param("target", init, (c.target_vocab, c.embedding))
        gates = functools.partial(Affine, outputs=3 * c.hidden, fan=c.hidden)
        self.encoder_input = gates(c.embedding)
        self.encoder_recurrent = gates(c.hidden)
        self.decoder_input = gates(c.embedding + c.hidden)
        self.decoder_recurrent = gates(c.hidden)
        self.key = Affine(c.hidden, c.hidden, c.hidden, bias=False)
        self.combine = Affine(2 * c.hidden, c.hidden, 2 * c.hidden, bias=False)
        self.unembedding = Affine(c.hidden, c.target_vocab, c.hidden)
        self.dropout = nn.Dropout(c.dropout)

    def __call__(
        self, source, source_mask, target, target_mask=None, deterministic=True
    ):
        """Logits of the target: logits[:, t] scores target[:, t].

        The target is shifted behind BOS in here. source and source_mask [B, S], target
        [B, T]; masked ids may be anything. Unless deterministic, dropout with the rng
        "dropout" applies to embeddings and to the decoder states that attend.
        """
        batch = (source, source_mask, target, target_mask)
        return self.unembed(self.hidden(*batch, deterministic=deterministic))

    def features(self, *batch):
        """(logits, features [B, T, E+H]) with features for a value function.

        They are the embedding of the previous token and the input feed: what is known
        before each token. batch: as for a call.
        """
        hidden, fed_BTE = self._teach(*batch)
        feed = jnp.pad(hidden[:, :-1], [(0, 0), (1, 0), (0, 0)])
        return self.unembed(hidden), jnp.concatenate([fed_BTE, feed], axis=-1)

    def hidden(self, *batch, deterministic=True):
        """The attentional vectors [B, T, H], from which `unembed` computes logits."""
        return self._teach(*batch, deterministic=deterministic)[0]

    def unembed(self, hidden):
        """Logits [..., V] of attentional vectors [..., H], all or some of them."""
        return self.unembedding(hidden)

    def encode(self, source, source_mask, deterministic=True):
        """The encoder's states [B, S, H]; padding keeps the state before it."""
        x_BSE = self._embed(self.source, masking.zero(source, source_mask))
        gates = self.encoder_input(self._drop(x_BSE, deterministic))
        valid = source_mask != 0
        weights = self.encoder_recurrent.kernel, self.encoder_recurrent.offset
        start = jnp.zeros((source.shape[0], self.config.hidden))
        read = functools.partial(_read, weights)
        inputs = gates.swapaxes(0, 1), valid.swapaxes(0, 1)
        return jax.lax.scan(read, start, inputs)[1].swapaxes(0, 1)

    def prefill(self, tokens, mask, length):
        """Encodes a source and decodes BOS: logits [B, V] of the first token, memory.

        tokens and mask [B, S]; `length` is ignored: the memory needs no room to grow.
        """
        del length
        memory = self._memory(self.encode(tokens, mask), mask)
        return self.step(jnp.full(tokens.shape[:1], self.config.bos_id), None, memory)

    def step(self, token, position, memory):
        """Decodes one more token [B] per row: logits [B, V] of the next, and memory."""
        del position
        gates = self._gates(self._embed(self.target, token))
        carry, feed = _advance(self._weights(), memory, _carry(memory), (gates, None))
        return self.unembed(feed), memory._replace(state=carry[0], feed=carry[1])

    def replace(self, rows, new, memory):
        """The memory with `rows` [R] replaced by those of `new`, of other sources."""
        return jax.tree.map(lambda old, x: old.at[rows].set(x), memory, new)

    def take(self, rows, memory):
        """The memory of `rows` [R] alone."""
        return jax.tree.map(lambda x: x[rows], memory)

    def _teach(self, source, source_mask, target, target_mask=None, deterministic=True):
        """Teacher forcing: attentional vectors [B, T, H], embeddings [B, T, E]."""
        states = self.encode(source, source_mask, deterministic=deterministic)
        memory = self._memory(states, source_mask)
        if target_mask is not None:
            target = masking.zero(target, target_mask)
        bos = self.config.bos_id
        fed = jnp.pad(target[:, :-1], [(0, 0), (1, 0)], constant_values=bos)
        fed_BTE = self._drop(self._embed(self.target, fed), deterministic)
        gates, kept = self._gates(fed_BTE).swapaxes(0, 1), None
        if not deterministic and self.config.dropout:
            ones = jnp.ones((*gates.shape[:2], self.config.hidden))
            kept = self._drop(ones, deterministic)
        advance = functools.partial(_advance, self._weights(), memory)
        _, hidden = jax.lax.scan(advance, _carry(memory), (gates, kept))
        return hidden.swapaxes(0, 1), fed_BTE

    def _embed(self, table, tokens):
        """Vectors [..., E]; 0 for padding, NaN for an id outside the table."""
        vectors = jnp.take(table, tokens, axis=0, mode="fill")
        return masking.zero(vectors, (tokens != self.config.pad_id)[..., None])

    def _drop(self, x, deterministic):
        return self.dropout(x, deterministic=deterministic)

    def _gates(self, x):
        """The embedding's contribution to the input gates, with bias: [..., 3H]."""
        inputs = self.decoder_input
        out = products.product(x, inputs.kernel[: self.config.embedding], "float32")
        return out + jnp.broadcast_to(inputs.offset, out.shape)

    def _weights(self):
        return _Weights(
            feed=self.decoder_input.kernel[self.config.embedding :],
            recurrent=self.decoder_recurrent.kernel,
            bias=self.decoder_recurrent.offset,
            state=self.combine.kernel[self.config.hidden :],
        )

    def _memory(self, states_BSH, mask):
        """The memory before the first token.

        Products that depend on the source only are computed once, for all positions:
        (W_k s) · h = s · (W_kᵀ h), and W_c Σ a h = Σ a W_c h.
        """
        valid = mask != 0
        count = jnp.maximum(valid.sum(-1, keepdims=True), 1)
        mean = masking.zero(states_BSH, valid[..., None]).sum(1) / count
        context = self.combine.kernel[: self.config.hidden]
        return Memory(
            keys=products.product(states_BSH, self.key.kernel.T, "float32"),
            values=products.product(states_BSH, context, "float32"),
            mask=valid,
            state=mean,
            feed=jnp.zeros_like(mean),
        )


def cell(inputs, recurrent, state):
    """One step of a GRU: h′ = (1 − z)·n + z·h.

    r = σ(i_r + u_r), z = σ(i_z + u_z), n = tanh(i_n + r·u_n): Cho et al. 2014,
    arXiv:1406.1078, with the reset after the product, as torch and cuDNN have it.

    Args: inputs [B, 3H] = (i_r, i_z, i_n) = W x + b, recurrent [B, 3H] = (u_r, u_z,
    u_n) = U h + c; state [B, H]. Returns [B, H].
    """
    i_r, i_z, i_n = jnp.split(inputs, 3, axis=-1)
    u_r, u_z, u_n = jnp.split(recurrent, 3, axis=-1)
    update = jax.nn.sigmoid(i_z + u_z)
    candidate = jnp.tanh(i_n + jax.nn.sigmoid(i_r + u_r) * u_n)
    return candidate + update * (state - candidate)


def attend(query, keys, values, mask):
    """Σ_s a_s v_s with a = softmax over the valid s of query · key_s.

    Luong et al. 2015, arXiv:1508.04025; products without the query are already in keys
    and values. query [B, H], keys and values [B, S, H], mask [B, S]. Returns [B, H], 0
    if nothing is valid.
    """
    valid = mask != 0
    # Loop-invariant: the compiler hoists it out of the scan over tokens.
    keys = masking.zero(keys, valid[..., None])
    values = masking.zero(values, valid[..., None])
    scores = jnp.einsum("bsh,bh->bs", keys, query)
    weights = jax.nn.softmax(jnp.where(valid, scores, _MASKED), axis=-1)
    return jnp.einsum("bs,bsh->bh", weights, values)


def _read(weights, state, inputs):
    """One encoder step; padding leaves the state unchanged."""
    (kernel, bias), (gates, valid) = weights, inputs
    new = cell(gates, state @ kernel + bias[None], state)
    state = jnp.where(valid[:, None], new, state)
    return state, state


def _carry(memory):
    return memory.state, memory.feed


def _advance(weights, memory, carry, inputs):
    """One decoder step: GRU cell, attention from its new state, attentional vector.

    carry (state, feed) [B, H]; inputs: the token's gates [B, 3H], and the dropout mask
    of the attending state, [B, H] or None.
    """
    (state, feed), (gates, kept) = carry, inputs
    recurrent = state @ weights.recurrent + weights.bias[None]
    state = cell(gates + feed @ weights.feed, recurrent, state)
    query = state if kept is None else state * kept
    context = attend(query, memory.keys, memory.values, memory.mask)
    feed = jnp.tanh(context + query @ weights.state)
    return (state, feed), feed


def _uniform(bound):
    def init(key, shape):
        return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

    return init
