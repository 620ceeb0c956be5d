"""Learning from single answers that are desirable or not: KTO.

The baseline z₀ is of a whole minibatch, whatever devices and micro-batches share it:
`make_baseline` writes it into every row before the update.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import masking, ranges, sharding, unpaired_losses
from rlhf_jax.models import responses

LOSSES = ("kto", "apo_zero_unpaired")


class Settings(NamedTuple):
    """Which loss, and what it is called with."""

    loss: Literal[LOSSES] = "kto"  # apo_zero_unpaired: KTO without a baseline
    beta: ranges.Positive = 0.1
    desirable_weight: ranges.NonNegative = 1.0
    """Weight of desirable answers (KTO)."""
    undesirable_weight: ranges.NonNegative = 1.0
    """Weight of undesirable answers (KTO)."""

    def conflicts(self):
        """Settings that contradict each other, and why."""
        if not (self.desirable_weight or self.undesirable_weight):
            reason = "nothing would be learned; give one above 0"
            yield ("loss", "desirable_weight", "undesirable_weight"), reason


class Rows(NamedTuple):
    """Prompts and their answers: [B] rows of one answer."""

    tokens: jax.Array  # [B, T] int32
    mask: jax.Array  # [B, T] int32
    starts: jax.Array  # [B] int32, where the answer begins


class Batch(NamedTuple):
    """Answers, each with a mismatched one: an answer to another prompt."""

    own: Rows
    mismatched: Rows  # the same prompts
    desirable: jax.Array  # [B] float32, 1 or 0
    reference: jax.Array  # [B, 2] float32, log-probs of own and mismatched
    baseline: jax.Array  # [B] float32, z₀ in every row


class Count(NamedTuple):
    """Denominators of a minibatch; None: of the rows given."""

    rows: jax.Array | None = None  # []
    desirable: jax.Array | None = None  # []


def sequence_logps(model, params, rows):
    """log π(answer | prompt): [B] float32, nats; the sum over the answer's tokens."""
    return responses.of_answers(model, params, *rows)[0].sum(-1)


def both_logps(model, params, batch):
    """Of the own and of the mismatched answers: [B, 2]."""
    sides = batch.own, batch.mismatched
    return jnp.stack([sequence_logps(model, params, rows) for rows in sides], -1)


def make_loss(model, **settings):
    """`loss(params, batch: Batch, count: Count) -> ([], metrics)`, as `compare`.

    settings: fields of `Settings`. Raises ValueError for values out of their range.
    """
    settings = Settings(**settings)
    ranges.check(settings)

    def value(params, batch, count):
        logps = sequence_logps(model, params, batch.own)
        return compare(logps, batch, settings, count)

    return value


_ALL = Count()


def compare(logps, batch, settings, count=_ALL):
    """(loss [], metrics) of a policy's log-probs [B] of the answers of a `Batch`.

    Metrics have TRL's names: rewards/{chosen, rejected, margins, accuracies},
    logps/{chosen, rejected} and kl; chosen means desirable.
    """
    total, metrics = unpaired_losses.kto(
        logps,
        batch.reference[:, 0],
        batch.desirable,
        batch.baseline,
        beta=settings.beta,
        desirable_weight=settings.desirable_weight,
        undesirable_weight=settings.undesirable_weight,
        count=count.rows,
        desirable_count=count.desirable,
    )
    kl = metrics.pop("kl")
    others = None if count.rows is None else count.rows - count.desirable
    good, bad = batch.desirable, 1.0 - batch.desirable
    return total, {
        "loss": total,
        **{f"rewards/{name}": value for name, value in metrics.items()},
        "kl": kl,
        "logps/chosen": masking.mean(logps, good, count=count.desirable),
        "logps/rejected": masking.mean(logps, bad, count=others),
    }


def make_baseline(model):
    """`data(params, batch, *, micro_batches, axis_name) -> batch` with its baseline."""

    def data(params, batch, *, micro_batches=1, axis_name=None):
        def logps(rows):
            if axis_name is None:
                rows = sharding.shard_rows(rows)
            return sequence_logps(model, params, rows)

        parts = jax.tree.map(
            lambda x: x.reshape(micro_batches, -1, *x.shape[1:]), batch.mismatched
        )
        found = jax.lax.map(logps, parts).reshape(-1)
        return with_baseline(batch, found, axis_name=axis_name)

    return data


def with_baseline(batch, mismatched, *, axis_name=None):
    """The batch with the baseline of log-probs [B] of its mismatched answers."""
    kl = unpaired_losses.kl_baseline(
        mismatched, batch.reference[:, 1], axis_name=axis_name
    )
    return batch._replace(baseline=jnp.broadcast_to(kl, mismatched.shape))


def count(batch):
    """The `Count` of this device's batch, for the loss's denominators."""
    rows = jnp.asarray(batch.desirable.shape[0], jnp.float32)
    return Count(rows, batch.desirable.sum())
