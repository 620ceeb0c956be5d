"""Learning from preference pairs without a reward model: DPO and IPO.

The implicit reward is β(log π − log ρ), ρ the reference. The reference's log-probs are
data, computed once or before each step by `sequence_logps`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import logprobs, losses, masking
from rlhf_jax.types import Preferences

LOSSES = ("dpo", "ipo")


class Batch(NamedTuple):
    """Preference pairs with the reference's log-probs."""

    pairs: Preferences  # [B, T]
    starts: jax.Array  # [B] int32, where both answers begin
    reference: jax.Array  # [B, 2] float32, log-probs of chosen and rejected


def sequence_logps(model, params, pairs, starts, *, mean=False):
    """log π(answer | prompt) of both answers: [B, 2] float32, nats.

    Σ_t log π(token_t | tokens_<t) over the answer's tokens, EOS included, or with
    `mean` their mean, as IPO needs (Azar et al. 2023). Both sides run as one batch.
    """
    tokens = jnp.concatenate([pairs.chosen, pairs.rejected])
    mask = jnp.concatenate([pairs.chosen_mask, pairs.rejected_mask])
    first = jnp.expand_dims(jnp.concatenate([starts, starts]), 1)
    position = jnp.expand_dims(jnp.arange(tokens.shape[1]), 0)
    answer = (mask * (position >= first))[:, 1:]
    variables = {"params": params}
    hidden = model.apply(variables, tokens, mask, method="hidden")
    logits = model.apply(variables, hidden[:, :-1], method="unembed")
    logps = masking.zero(logprobs.of_tokens(logits, tokens[:, 1:]), answer).sum(-1)
    if mean:
        logps = logps / jnp.maximum(answer.sum(-1), 1)
    return jnp.stack(jnp.split(logps, 2), axis=-1)


def make_loss(model, *, loss="dpo", beta, label_smoothing=0.0):
    """`loss(params, batch: Batch, count) -> ([], metrics)`.

    `losses.dpo` on summed log-probs, or `losses.ipo` on mean ones. Metrics have TRL's
    names: rewards/{chosen, rejected, margins, accuracies}, logps/{chosen, rejected}.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}: choose one of {LOSSES}")
    if loss == "ipo" and label_smoothing:
        raise ValueError(
            f"label_smoothing={label_smoothing} is for DPO (cDPO); give IPO soft "
            "labels in a column preference"
        )

    def value(params, batch, count):
        logps = sequence_logps(
            model, params, batch.pairs, batch.starts, mean=loss == "ipo"
        )
        kind = {"loss": loss, "beta": beta, "label_smoothing": label_smoothing}
        return compare(
            logps, batch.reference, batch.pairs.preference, **kind, count=count
        )

    return value


def compare(
    logps, reference, preference, *, loss, beta, label_smoothing=0.0, count=None
):
    """(loss [], metrics) of log-probs [B, 2] of (chosen, rejected) and the reference's.

    Args: reference [B, 2]; preference [B], the probability that `chosen` is better.
    """
    sides = (logps[:, 0], logps[:, 1], reference[:, 0], reference[:, 1])
    shared = {"beta": beta, "preference": preference, "count": count}
    if loss == "ipo":
        total, rewards = losses.ipo(*sides, **shared)
    else:
        total, rewards = losses.dpo(*sides, **shared, label_smoothing=label_smoothing)
    rows = jnp.ones(logps.shape[0])
    return total, {
        "loss": total,
        **{f"rewards/{name}": value for name, value in rewards.items()},
        "logps/chosen": masking.mean(logps[:, 0], rows, count=count),
        "logps/rejected": masking.mean(logps[:, 1], rows, count=count),
    }


def count(batch):
    """The number of pairs on this device, for the loss's denominator. []."""
    return jnp.asarray(batch.starts.shape[0], jnp.float32)
