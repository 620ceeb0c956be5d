"""How much there is to do: floating-point operations and bytes, from shapes alone.

Two operations a multiply-add; matrix products and attention only, which is what is
meant by utilisation. What nobody asks for does not count: attention is half of its
square, which causal masking leaves, and the last layer says something of the positions
alone that are read. A deep model, which computes all of them, is that much less used.
"""

import jax.numpy as jnp


def kernels(c):
    """Weights of one layer that a token is multiplied with."""
    attention = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads)
    return attention + (3 if c.gated else 2) * c.width * c.hidden


def forward(c, tokens, context, asked, *, logits=True):
    """Of a pass over `tokens` tokens, each seeing `context` others on average.

    asked: of how many positions the last layer's states are read; logits: whether
    those are projected to the vocabulary.
    """
    whole = 2 * kernels(c) + 4 * context * c.heads * c.head_dim
    remembered = 4 * c.width * c.kv_heads * c.head_dim  # keys and values, for others
    last = tokens * remembered + asked * (whole - remembered)
    projected = 2 * asked * c.width * c.vocab_size if logits else 0
    return (c.layers - 1) * tokens * whole + last + projected


def prefill(work):
    """The prompts, and the logits of what follows them."""
    tokens = work.rows * work.prompt_length
    return forward(work.decoder, tokens, work.prompt_length / 2, work.rows)


def generate(work):
    """A rollout of one response a prompt: the prompts, then every new token but the
    last is fed back."""
    fed = work.rows * (work.new_tokens - 1)
    context = work.prompt_length + work.new_tokens / 2
    return prefill(work) + forward(work.decoder, fed, context, fed)


def policy(work):
    """A pass over whole rows, for the log-probs of their responses."""
    return _over_rows(work, work.rows * work.new_tokens)


def values(work):
    """A pass over whole rows, for a value at every token of their responses."""
    return _over_rows(work, work.rows * work.new_tokens, logits=False)


def score(work):
    """A pass over whole rows, for one number each."""
    return _over_rows(work, work.rows, logits=False)


def _over_rows(work, asked, **options):
    tokens = work.rows * work.length
    return forward(work.decoder, tokens, work.length / 2, asked, **options)


def update(work, *, critic=False):
    """Forward and backward, which is two forwards, over all rows once."""
    return 3 * (policy(work) + (values(work) if critic else 0))


def iteration(work, *, critic=False, copies=1):
    """Rollout, score, reference (and values), updates.

    copies: how many responses a prompt has, which is read once for all of them.
    """
    rollout = generate(work) - prefill(work) * (1 - 1 / copies)
    experience = score(work) + policy(work) + (values(work) if critic else 0)
    return rollout + experience + update(work, critic=critic)


def decode_bytes(work):
    """What decoding has to read: all weights at each step, and the cache so far.

    Weights in the compute type; of the embedding what serves as unembedding.
    """
    c = work.decoder
    weights = c.layers * kernels(c) + c.width * c.vocab_size
    slots = work.prompt_length + work.new_tokens / 2
    cache = 2 * c.layers * work.rows * slots * c.kv_heads * c.head_dim
    return (work.new_tokens - 1) * jnp.dtype(c.dtype).itemsize * (weights + cache)
