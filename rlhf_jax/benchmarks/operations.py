"""How much there is to do: floating-point operations and bytes, from shapes alone.

Two operations a multiply-add; matrix products and attention only, which is what is
meant by utilisation. Attention counts what causal masking leaves: half.
"""

import jax.numpy as jnp


def kernels(c):
    """Weights of one layer that a token is multiplied with."""
    attention = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads)
    return attention + (3 if c.gated else 2) * c.width * c.hidden


def forward(c, tokens, context, logits):
    """Of a pass over `tokens` tokens, each seeing `context` others on average.

    logits: how many positions are projected to the vocabulary.
    """
    attention = 4 * context * c.heads * c.head_dim
    layers = c.layers * (2 * kernels(c) + attention)
    return tokens * layers + 2 * logits * c.width * c.vocab_size


def prefill(work):
    """The prompts, and the logits of what follows them."""
    tokens = work.rows * work.prompt_length
    return forward(work.decoder, tokens, work.prompt_length / 2, work.rows)


def generate(work):
    """A rollout: the prompts, then every new token but the last is fed back."""
    fed = work.rows * (work.new_tokens - 1)
    context = work.prompt_length + work.new_tokens / 2
    return prefill(work) + forward(work.decoder, fed, context, fed)


def update(work, *, critic=False):
    """Forward and backward, which is two forwards, over all rows once."""
    tokens, logits = work.rows * work.length, work.rows * work.new_tokens
    values = forward(work.decoder, tokens, work.length / 2, 0) if critic else 0
    return 3 * (forward(work.decoder, tokens, work.length / 2, logits) + values)


def iteration(work, *, critic=False):
    """Rollout, score, reference (and values), updates."""
    tokens, logits = work.rows * work.length, work.rows * work.new_tokens
    score = forward(work.decoder, tokens, work.length / 2, 0)
    reference = forward(work.decoder, tokens, work.length / 2, logits)
    values = score if critic else 0
    return generate(work) + score + reference + values + update(work, critic=critic)


def decode_bytes(work):
    """What decoding has to read: all weights at each step, and the cache so far.

    Weights in the compute type; of the embedding what serves as unembedding.
    """
    c = work.decoder
    weights = c.layers * kernels(c) + c.width * c.vocab_size
    slots = work.prompt_length + work.new_tokens / 2
    cache = 2 * c.layers * work.rows * slots * c.kv_heads * c.head_dim
    return (work.new_tokens - 1) * jnp.dtype(c.dtype).itemsize * (weights + cache)
