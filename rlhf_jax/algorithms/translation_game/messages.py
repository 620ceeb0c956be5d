"""Messages from a sender to a receiver, and the likelihood of translations.

Legend: B rows, S source tokens, T message tokens, V vocabulary. A sender is a
generator (see `sampling`) prompted with source sentences, and a model whose
`apply(variables, source, source_mask, target, target_mask)` returns logits [B, T, V],
where `logits[:, t]` scores `target[:, t]`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import logprobs, losses, masking, sampling
from rlhf_jax.types import Prompts


class Message(NamedTuple):
    """Sampled messages; `heard` differs from `drawn` in rows that never ended."""

    drawn: jax.Array  # [B, T] int32, as the sender sampled it
    heard: jax.Array  # [B, T] int32, as the receiver reads it: EOS in every row
    mask: jax.Array  # [B, T] int32, up to and including EOS
    ended: jax.Array  # [B] bool, the sender sampled EOS itself


def speak(model, params, source, source_mask, keys, *, config):
    """A sender's messages for source sentences, each made to end with EOS.

    Args: source, source_mask [B, S]; keys [B], unused if `config` is greedy; config:
    sampling.Config with at least one end token. Returns `Message`; no gradient.
    """
    if not config.eos_ids:
        raise ValueError("eos_ids=(): a message needs an end token; give its id")
    prompts = Prompts(source, source_mask)
    drawn = sampling.generate(model, params, prompts, keys, config=config)
    tokens = drawn.tokens[:, -config.max_new_tokens :]
    heard = close(tokens, drawn.response_mask, drawn.ended, end=config.eos_ids[0])
    return Message(tokens, heard, drawn.response_mask, drawn.ended)


def close(tokens, mask, ended, *, end):
    """Replaces the last valid token of rows that never ended by `end`.

    The receiver was trained on complete sentences only. tokens, mask [B, T]; ended [B]
    bool. Returns tokens [B, T]; the mask still applies.
    """
    position = jnp.arange(tokens.shape[-1])[None]
    last = position == masking.last_valid(mask)[:, None]
    open_ended = (~ended & (mask != 0).any(-1))[:, None]
    return jnp.where(last & open_ended, jnp.asarray(end, tokens.dtype), tokens)


def logps(model, params, source, source_mask, target, target_mask):
    """log π(target_t | source, target_<t): [B, T] float32, nats, 0 at padding.

    source, source_mask [B, S]; target, target_mask [B, T]. The gradient flows to the
    parameters.
    """
    logits = model.apply({"params": params}, source, source_mask, target, target_mask)
    token_logps = logprobs.of_tokens(logits, masking.zero(target, target_mask))
    return masking.zero(token_logps, target_mask)


def make_loss(model):
    """`loss(params, batch: Pairs, count) -> ([], metrics)`: likelihood of translations.

    L = −1/N Σ log π(target_t | source, target_<t) over the N tokens of the targets. If
    the batch has keys, each row's dropout uses its key, so dropout does not depend on
    the device layout. Metrics: `nll` in nats per token.
    """

    def loss(params, batch, count):
        if batch.keys is None:
            token_logps = logps(model, params, *batch[:4])
        else:
            by_row = jax.vmap(_dropout_logps, (None, None, 0))
            token_logps = by_row(model, params, batch)
        return losses.nll(token_logps, batch.target_mask, count=count)

    return loss


def _dropout_logps(model, params, row):
    """`logps` [T] of one row, with dropout."""
    *pair, key = row
    pair = [jnp.expand_dims(x, 0) for x in pair]
    rngs = {"dropout": jax.random.wrap_key_data(key)}
    logits = model.apply({"params": params}, *pair, deterministic=False, rngs=rngs)
    target, target_mask = pair[2:]
    token_logps = logprobs.of_tokens(logits, masking.zero(target, target_mask))
    return masking.zero(token_logps, target_mask)[0]


def count(batch):
    """The number of target tokens on this device, for the loss's denominator. []."""
    return (batch.target_mask != 0).sum()


def sentence_means(values, mask):
    """Σ_t x_t / length: the mean of each row over its valid tokens, 0 if it has none.

    values, mask [B, T]. Returns [B] float32.
    """
    total = masking.zero(values.astype(jnp.float32), mask).sum(-1)
    return total / jnp.maximum((mask != 0).sum(-1), 1)


def evenly(mask):
    """Weights of 1/length at valid tokens, so that every sentence has equal weight.

    masking.mean(x, evenly(mask), count=rows) is the mean over sentences of their means
    over tokens, while masking.mean(x, mask) is over tokens. mask [B, T] → [B, T].
    """
    valid = (mask != 0).astype(jnp.float32)
    return valid / jnp.maximum(valid.sum(-1, keepdims=True), 1.0)
