"""Messages between agents: what a sender says, and how a receiver hears it.

Legend: B rows, S source tokens, T message tokens, V vocabulary. A sender is a
generator of `sampling` whose prompts are source sentences, and a model whose
`apply(variables, source, source_mask, target, target_mask)` is logits [B, T, V], of
which `logits[:, t]` scores `target[:, t]`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import logprobs, losses, masking, sampling
from rlhf_jax.types import Prompts


class Message(NamedTuple):
    """What was said, token by token; `heard` differs from `drawn` in rows cut short."""

    drawn: jax.Array  # [B, T] int32, as the sender drew it
    heard: jax.Array  # [B, T] int32, with an end in every row
    mask: jax.Array  # [B, T] int32, up to and including the end
    ended: jax.Array  # [B] bool, the sender said the end itself


def speak(model, params, source, source_mask, keys, *, config):
    """A sender's messages to source sentences, ends repaired.

    Args: source, source_mask [B, S]; keys [B], unused where `config` is greedy; config:
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
    """The last valid token of a row that never ended becomes `end`.

    A receiver was taught that sentences end: one that does not is a kind of input it
    never saw. tokens, mask [B, T]; ended [B] bool. Returns [B, T], mask unchanged.
    """
    place = jnp.arange(tokens.shape[-1])[None]
    last = place == masking.last_valid(mask)[:, None]
    open_ended = (~ended & (mask != 0).any(-1))[:, None]
    return jnp.where(last & open_ended, jnp.asarray(end, tokens.dtype), tokens)


def logps(model, params, source, source_mask, target, target_mask):
    """log π(target_t | source, target_<t): [B, T] float32, nats, 0 at padding.

    source, source_mask [B, S]; target, target_mask [B, T]. The gradient flows to the
    parameters.
    """
    logits = model.apply({"params": params}, source, source_mask, target, target_mask)
    found = logprobs.of_tokens(logits, masking.zero(target, target_mask))
    return masking.zero(found, target_mask)


def make_loss(model):
    """`loss(params, batch: Pairs, count) -> ([], metrics)`: likelihood of translations.

    L = −1/N Σ log π(target_t | source, target_<t) over the tokens of the targets, N of
    them. Where the batch has keys, each row is dropped out by its own: masks do not
    depend on how rows lie on devices. Metrics: `nll`, nats a token.
    """

    def loss(params, batch, count):
        if batch.keys is None:
            found = logps(model, params, *batch[:4])
        else:
            drop = jax.vmap(_dropped, (None, None, 0))
            found = drop(model, params, batch)
        return losses.nll(found, batch.target_mask, count=count)

    return loss


def _dropped(model, params, row):
    """`logps` [T] of one row, with dropout."""
    *pair, key = row
    source, source_mask, target, target_mask = (jnp.expand_dims(x, 0) for x in pair)
    logits = model.apply(
        {"params": params},
        source,
        source_mask,
        target,
        target_mask,
        deterministic=False,
        rngs={"dropout": jax.random.wrap_key_data(key)},
    )
    found = logprobs.of_tokens(logits, masking.zero(target, target_mask))
    return masking.zero(found, target_mask)[0]


def count(batch):
    """The target tokens of `Pairs` on this device: the denominator of the loss. []."""
    return (batch.target_mask != 0).sum()


def sentence_means(values, mask):
    """Σ_t x_t / length: the mean of each row over its own tokens, 0 for an empty row.

    values, mask [B, T]. Returns [B] float32.
    """
    total = masking.zero(values.astype(jnp.float32), mask).sum(-1)
    return total / jnp.maximum((mask != 0).sum(-1), 1)


def evenly(mask):
    """Weights 1/length at valid tokens: with `count` rows, every sentence counts alike.

    masking.mean(x, evenly(mask), count=rows) is the mean over sentences of the mean
    over tokens, where masking.mean(x, mask) is over tokens. mask [B, T] → [B, T].
    """
    valid = (mask != 0).astype(jnp.float32)
    return valid / jnp.maximum(valid.sum(-1, keepdims=True), 1.0)
