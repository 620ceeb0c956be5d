"""Pytrees that functions exchange; every field documents its shape.

B rows, P prompt tokens, T response tokens, S = P + T. Masks hold 1 for valid and 0
for ignored. Prompts are left-padded, responses right-padded.
"""

from typing import Any, NamedTuple

import jax

Params = Any  # a pytree of arrays
Metrics = dict[str, jax.Array]


class Prompts(NamedTuple):
    """Prompts for a policy to continue."""

    tokens: jax.Array  # [B, P] int32, left-padded
    mask: jax.Array  # [B, P] int32


class Rollout(NamedTuple):
    """Sampled responses, with two log-probs for every token."""

    tokens: jax.Array  # [B, S] int32: prompt, then response, then padding
    mask: jax.Array  # [B, S] int32
    response_mask: jax.Array  # [B, T] int32, up to and including its end
    logps: jax.Array  # [B, T] float32, nats, at the sampling temperature alone
    sampler_logps: jax.Array  # [B, T] float32, nats, of what was sampled from
    ended: jax.Array  # [B] bool, it has an end token or a stop string


class Tokens(NamedTuple):
    """Text for supervised learning; `target_mask` marks the tokens to learn."""

    tokens: jax.Array  # [B, T] int32
    mask: jax.Array  # [B, T] int32
    target_mask: jax.Array  # [B, T] int32, a subset of mask


class Packed(NamedTuple):
    """Several texts in a row for supervised learning; none of them sees another."""

    tokens: jax.Array  # [B, T] int32
    mask: jax.Array  # [B, T] int32
    target_mask: jax.Array  # [B, T] int32, 0 at the first token of every text
    segments: jax.Array  # [B, T] int32, from 1: which of the row's texts; 0: padding


class Labelled(NamedTuple):
    """Text with class labels, for classifiers and classifier rewards."""

    tokens: jax.Array  # [B, T] int32
    mask: jax.Array  # [B, T] int32
    labels: jax.Array  # [B] int32


class Preferences(NamedTuple):
    """Preference pairs; `preference` is the probability that `chosen` is better."""

    chosen: jax.Array  # [B, T] int32, prompt and response
    chosen_mask: jax.Array  # [B, T] int32
    rejected: jax.Array  # [B, T] int32
    rejected_mask: jax.Array  # [B, T] int32
    preference: jax.Array  # [B] float32 in [0, 1]
    margin: jax.Array | None = None  # [B] float32, margin to win by; None: 0


class Pairs(NamedTuple):
    """Sentences and their translations, human or a teacher's; both right-padded.

    A row without a target is padding and is ignored.
    """

    source: jax.Array  # [B, S] int32
    source_mask: jax.Array  # [B, S] int32
    target: jax.Array  # [B, T] int32, EOS included
    target_mask: jax.Array  # [B, T] int32
    keys: jax.Array | None = None  # [B, 2] uint32, key data for each row's dropout
