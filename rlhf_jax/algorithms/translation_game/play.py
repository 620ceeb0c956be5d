"""The losses of a round of the game: the receiver's and the sender's.

B rows, S source tokens, M message tokens, T target tokens. Losses are this device's
share of a global mean: sums over its rows, divided by global counts.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import kl, logprobs, losses, masking, trees
from rlhf_jax.algorithms.translation_game import messages


class Counts(NamedTuple):
    """Denominators over all devices."""

    rows: jax.Array  # [] sentences
    target_tokens: jax.Array  # []


def count(batch, *, axis_name=None):
    """The global `Counts` of a batch, from this device's rows of it."""
    valid = batch.target_mask != 0
    counts = Counts(*(x.sum().astype(jnp.float32) for x in (valid.any(-1), valid)))
    return counts if axis_name is None else jax.lax.psum(counts, axis_name)


def listen(params, message, batch, counts, *, networks):
    """L = −mean log π_r(German | message): the receiver's loss, and the rewards.

    The mean is over all German tokens. A sentence's reward R is the mean log-prob of
    its reference German. Returns (loss [], rewards [B]); no gradient flows through
    rewards.
    """
    heard, target = (message.heard, message.mask), (batch.target, batch.target_mask)
    logps = messages.logps(networks.receiver, params, *heard, *target)
    loss = -masking.mean(logps, batch.target_mask, count=counts.target_tokens)
    rewards = messages.sentence_means(logps, batch.target_mask)
    return loss, jax.lax.stop_gradient(rewards)


def persuade(params, anchors, message, batch, rewards, counts, hyper, *, networks):
    """The sender's loss, REINFORCE with a learned baseline, and its penalties.

    L = mean −(R − b_t) log π_t · c_π + mean (R − b_t)² · c_b − mean H_t · c_H
        + mean KL(π_t ‖ ρ_t) · β,

    each a mean over sentences of the mean over a message's tokens. All tokens share the
    reward R [B]; the baseline b_t reads the sender's features without training them. KL
    is exact over the vocabulary. Lee et al. 2019 and Lu et al. 2020 (arXiv:2003.12694),
    whose coefficients c are 1, 10, 0.001.

    Args: params {"sender", "value"}; anchors: the sender's initial weights and EMA, one
    of which is ρ; message of this sender; rewards [B]. Returns (loss [], metrics).
    """
    weights = messages.evenly(message.mask) * _rows(batch)
    over = {"count": counts.rows}
    inputs = (batch.source, batch.source_mask, message.drawn, message.mask)
    logits, features = networks.sender.apply(
        {"params": params["sender"]}, *inputs, method="features"
    )
    logps = logprobs.of_tokens(logits, message.drawn)
    values = networks.value.apply({"params": params["value"]}, features)
    gap = jnp.expand_dims(rewards, 1) - values
    policy, _ = losses.reinforce(logps, gap, weights, **over)
    error = masking.mean(jnp.square(gap), weights, **over)
    entropy = masking.mean(logprobs.entropy(logits), weights, **over)

    def divergence():
        initial, average = anchors
        reference = trees.where(jnp.asarray(hyper.reference_average), average, initial)
        fixed = networks.sender.apply({"params": reference}, *inputs)
        return masking.mean(kl.exact(logits, fixed), weights, **over)

    # Without a penalty, the forward pass of the reference is skipped.
    penalty = jax.lax.cond(
        jnp.asarray(hyper.kl_coef) > 0, divergence, lambda: jnp.zeros(())
    )
    loss = hyper.policy_coef * policy + hyper.value_coef * error
    loss = loss - hyper.entropy_coef * entropy + hyper.kl_coef * penalty
    return loss, {
        "loss/policy_avg": policy,
        "loss/value_avg": error,
        "objective/entropy": entropy,
        "objective/kl": penalty,
        "objective/advantage": masking.mean(gap, weights, **over),
    }


def describe(message, batch, rewards, counts):
    """This device's shares of metrics of a round: its rewards and messages."""
    rows = (batch.target_mask != 0).any(-1).astype(jnp.float32)
    over = {"count": counts.rows}
    length = message.mask.sum(-1).astype(jnp.float32)
    return {
        "objective/scores": masking.mean(rewards, rows, **over),
        "response/length": masking.mean(length, rows, **over),
        "response/ended": masking.mean(message.ended.astype(jnp.float32), rows, **over),
        "response/tokens": masking.total(length, rows),
        "response/rows": rows.sum(),
    }


def _rows(batch):
    """1 for a sentence, 0 for a padding row: [B, 1]."""
    return (batch.target_mask != 0).any(-1, keepdims=True).astype(jnp.float32)
