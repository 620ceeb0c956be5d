"""How much work there is: floating-point operations and bytes, from shapes alone.

A multiply-add counts as two operations. Only matrix products and attention count, as is
usual for utilisation, and only where the result is needed: attention is the half of its
square that causal masking leaves, and the last layer counts only at the positions that
are read. A deep model computes it everywhere, so its utilisation is that much lower.
"""

import jax.numpy as jnp


def kernels(c):
    """Number of weights in one layer that each token is multiplied with."""
    attention = c.width * c.head_dim * (2 * c.heads + 2 * c.kv_heads)
    return attention + (3 if c.gated else 2) * c.width * c.hidden


def forward(c, tokens, context, asked, *, logits=True):
    """Operations of a pass over `tokens` tokens that see `context` others on average.

    asked: number of positions whose last states are read; logits: whether those are
    projected to the vocabulary.
    """
    whole = 2 * kernels(c) + 4 * context * c.heads * c.head_dim
    remembered = 4 * c.width * c.kv_heads * c.head_dim  # keys and values, for others
    last = tokens * remembered + asked * (whole - remembered)
    projected = 2 * asked * c.width * c.vocab_size if logits else 0
    return (c.layers - 1) * tokens * whole + last + projected


def prefill(work):
    """Operations on the prompts, up to the logits of the first new tokens."""
    tokens = work.rows * work.prompt_length
    return forward(work.decoder, tokens, work.prompt_length / 2, work.rows)


def generate(work):
    """A rollout of one response per prompt: the prompts, then all new tokens but the
    last are fed back."""
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
    if work.packed:  # the prompt of a group is read once
        tokens -= work.prompt_length * (work.rows - work.rows // work.candidates)
    return forward(work.decoder, tokens, work.length / 2, asked, **options)


def update(work, *, critic=False):
    """Forward and backward, which is two forwards, over all rows once."""
    return 3 * (policy(work) + (values(work) if critic else 0))


def iteration(work, *, critic=False, copies=1):
    """Rollout, score, reference (and values), updates.

    copies: responses per prompt; each prompt is read once for all of them.
    """
    rollout = generate(work) - prefill(work) * (1 - 1 / copies)
    experience = policy(work) + (values(work) if critic else 0)
    experience += score(work) if work.judged else 0
    return rollout + experience + update(work, critic=critic)


def decode_bytes(work):
    """Bytes that decoding has to read: at each step all weights, and the cache so far.

    Weights count in the compute type; of the embeddings only the unembedding counts.
    """
    c = work.decoder
    weights = c.layers * kernels(c) + c.width * c.vocab_size
    slots = work.prompt_length + work.new_tokens / 2
    cache = 2 * c.layers * work.rows * slots * c.kv_heads * c.head_dim
    return (work.new_tokens - 1) * jnp.dtype(c.dtype).itemsize * (weights + cache)
