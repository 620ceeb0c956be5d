"""Reward models, from preference pairs (Bradley–Terry) or from labelled text.

A model here maps (tokens, mask) to [B, labels], read at the last valid token, which is
the EOS of a complete text ("The N+ Implementation Details", RM 8).
"""

import jax
import jax.numpy as jnp

from rlhf_jax import losses
from rlhf_jax.types import Preferences


def make_pair_loss(model, *, margin=0.0):
    """`loss(params, batch: Preferences, count) -> ([], metrics)`, also for soft labels.

    Chosen and rejected run as one batch. `margin` applies if the batch has no margins.
    Metrics: `accuracy`, `margin`, and the loss.
    """

    def loss(params, batch: Preferences, count):
        tokens = jnp.concatenate([batch.chosen, batch.rejected])
        mask = jnp.concatenate([batch.chosen_mask, batch.rejected_mask])
        scores = model.apply({"params": params}, tokens, mask)[:, 0]
        chosen, rejected = jnp.split(scores, 2)
        value, metrics = losses.bradley_terry(
            chosen,
            rejected,
            preference=batch.preference,
            margin=margin if batch.margin is None else batch.margin,
            count=count,
        )
        return value, {"loss": value, **metrics}

    return loss


def make_odin_loss(model, *, prompt=0, weight=1.0):
    """`loss(params, batch: Preferences, count) -> ([], metrics)` of a model of two
    labels, the quality and the length of a response: see `losses.odin`.

    `score(model)` reads the first label, the quality: the second is left in training.
    prompt: columns of a row before its response, whose length does not count; weight:
    of what keeps the two apart.
    """

    def loss(params, batch: Preferences, count):
        tokens = jnp.concatenate([batch.chosen, batch.rejected])
        mask = jnp.concatenate([batch.chosen_mask, batch.rejected_mask])
        scores = model.apply({"params": params}, tokens, mask)
        lengths = (mask[:, prompt:] != 0).sum(-1)
        value, metrics = losses.odin(
            *jnp.split(scores, 2),
            *jnp.split(lengths, 2),
            params["head"]["kernel"],
            weight=weight,
            preference=batch.preference,
            count=count,
        )
        return value, {"loss": value, **metrics}

    return loss


def make_label_loss(model):
    """`loss(params, batch: Labelled, count) -> ([], metrics)`: cross-entropy."""

    def loss(params, batch, count):
        logits = model.apply({"params": params}, batch.tokens, batch.mask)
        value, metrics = losses.classification(logits, batch.labels, count=count)
        return value, {"loss": value, **metrics}

    return loss


def count(batch):
    """The number of rows on this device, for the loss's denominator. []."""
    return jnp.asarray(jax.tree.leaves(batch)[0].shape[0], jnp.float32)


def score(model):
    """`score(params, tokens, mask) -> [B]`: the score of a reward model."""

    def scalar(params, tokens, mask):
        return model.apply({"params": params}, tokens, mask)[:, 0]

    return scalar


def probability(model, *, label):
    """`score(params, tokens, mask) -> [B]`: a classifier's P(label) in [0, 1].

    P(positive) is the semantic score of the IMDB task.
    """

    def label_probability(params, tokens, mask):
        logits = model.apply({"params": params}, tokens, mask)
        return jax.nn.softmax(logits, axis=-1)[:, label]

    return label_probability
