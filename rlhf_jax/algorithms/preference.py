"""Learning from pairs without a reward model: DPO and IPO.

The policy's own log-probs are the reward: β(log π − log ρ), ρ the reference. Those of
the reference are data: made once, or before each step, by `sequence_logps`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import logprobs, losses, masking
from rlhf_jax.types import Preferences

LOSSES = ("dpo", "ipo")


class Batch(NamedTuple):
    """Pairs, where their answers begin, and what the reference thinks of them."""

    pairs: Preferences  # [B, T]
    starts: jax.Array  # [B] int32, of both answers
    reference: jax.Array  # [B, 2] float32, log-probs of chosen and rejected


def sequence_logps(model, params, pairs, starts, *, mean=False):
    """log π(answer | prompt) of both answers: [B, 2] float32, nats.

    Σ_t log π(token_t | tokens_<t) over the answer's tokens, its end included; their
    mean where `mean`, as IPO has it (Azar et al. 2023). Both sides are one batch.
    """
    tokens = jnp.concatenate([pairs.chosen, pairs.rejected])
    mask = jnp.concatenate([pairs.chosen_mask, pairs.rejected_mask])
    first = jnp.expand_dims(jnp.concatenate([starts, starts]), 1)
    place = jnp.expand_dims(jnp.arange(tokens.shape[1]), 0)
    answer = (mask * (place >= first))[:, 1:]
    variables = {"params": params}
    hidden = model.apply(variables, tokens, mask, method="hidden")
    logits = model.apply(variables, hidden[:, :-1], method="unembed")
    logps = masking.zero(logprobs.of_tokens(logits, tokens[:, 1:]), answer).sum(-1)
    if mean:
        logps = logps / jnp.maximum(answer.sum(-1), 1)
    return jnp.stack(jnp.split(logps, 2), axis=-1)


def make_loss(model, *, loss="dpo", beta, label_smoothing=0.0):
    """`loss(params, batch: Batch, count) -> ([], metrics)`.

    `losses.dpo` on summed log-probs, or `losses.ipo` on means. Metrics under TRL's
    names: rewards/{chosen, rejected, margins, accuracies}, logps/{chosen, rejected}.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss={loss!r}: choose one of {LOSSES}")
    if loss == "ipo" and label_smoothing:
        raise ValueError(
            f"label_smoothing={label_smoothing} is DPO's (cDPO); IPO takes soft labels "
            "as a column preference"
        )

    def value(params, batch, count):
        logps = sequence_logps(
            model, params, batch.pairs, batch.starts, mean=loss == "ipo"
        )
        return compare(
            logps,
            batch.reference,
            batch.pairs.preference,
            loss=loss,
            beta=beta,
            label_smoothing=label_smoothing,
            count=count,
        )

    return value


def compare(
    logps,
    reference,
    preference,
    *,
    loss,
    beta,
    label_smoothing=0.0,
    count=None,
):
    """(loss [], metrics) of log-probs [B, 2] against the reference's [B, 2].

    Args: preference [B], the probability that the first of two is better.
    """
    sides = (logps[:, 0], logps[:, 1], reference[:, 0], reference[:, 1])
    if loss == "ipo":
        total, found = losses.ipo(*sides, beta=beta, preference=preference, count=count)
    else:
        total, found = losses.dpo(
            *sides,
            beta=beta,
            label_smoothing=label_smoothing,
            preference=preference,
            count=count,
        )
    rows = jnp.ones(logps.shape[0])
    return total, {
        "loss": total,
        **{f"rewards/{name}": found[name] for name in found},
        "logps/chosen": masking.mean(logps[:, 0], rows, count=count),
        "logps/rejected": masking.mean(logps[:, 1], rows, count=count),
    }


def count(batch):
    """The pairs of a batch on this device: the denominator of its loss. []."""
    return jnp.asarray(batch.starts.shape[0], jnp.float32)
