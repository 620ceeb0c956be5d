"""Preference losses that need no reference: SimPO, CPO, ORPO and plain likelihood.

B rows. π are log-probs of whole answers in nats, c the chosen answer and r the rejected
one. Each loss returns (loss [], metrics) and takes `mask` [B], `count` and `axis_name`
as those of `losses` do. Rewards in the metrics are β·π. `lengths` [B] are the tokens of
the chosen answers; `tokens` [] is their sum, if known, as `count` is that of rows.
"""

import chex
import jax
import jax.numpy as jnp

from rlhf_jax import losses, masking


def simpo(
    policy_chosen, policy_rejected, *, beta, gamma=0.5, label_smoothing=0.0,
    preference=1.0, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """L = −mean log σ(β (π_c − π_r) − γ), π mean log-probs.

    Meng et al. 2024, "SimPO: Simple Preference Optimization with a Reference-Free
    Reward", arXiv:2405.14734, eq. 6: `bradley_terry` with the margin γ.

    Args: mean log-probs [B]; beta, gamma [] may be traced; label_smoothing, preference
    as in `losses.dpo`.
    """
    rewards = beta * policy_chosen, beta * policy_rejected
    rows = {"mask": mask, "count": count, "axis_name": axis_name}
    smooth = preference * (1.0 - label_smoothing)
    smooth = smooth + (1.0 - preference) * label_smoothing
    loss, _ = losses.bradley_terry(*rewards, preference=smooth, margin=gamma, **rows)
    return loss, _metrics(policy_chosen, policy_rejected, beta, preference, rows)


def cpo(
    policy_chosen, policy_rejected, lengths, *, beta, alpha=1.0, label_smoothing=0.0,
    mask=None, count=None, tokens=None, axis_name=None,
):  # fmt: skip
    """L = −mean log σ(β (π_c − π_r)) + α NLL of the chosen, per token.

    Xu et al. 2024, "Contrastive Preference Optimization", arXiv:2401.08417, eq. 3 (with
    α = 1): DPO against a uniform reference, and the likelihood of what was chosen.

    Args: summed log-probs [B]; lengths [B]; label_smoothing as in `losses.dpo`.
    Metrics: those of `losses.dpo`, and `nll`.
    """
    rows = {"mask": mask, "count": count, "axis_name": axis_name}
    zero = jnp.zeros_like(policy_chosen)
    loss, metrics = losses.dpo(
        policy_chosen, policy_rejected, zero, zero,
        beta=beta, label_smoothing=label_smoothing, **rows,
    )  # fmt: skip
    nll, named = sft(
        policy_chosen, lengths, mask=mask, count=tokens, axis_name=axis_name
    )
    return loss + alpha * nll, metrics | named


def orpo(
    policy_chosen, policy_rejected, lengths, *,
    beta, mask=None, count=None, tokens=None, axis_name=None,
):  # fmt: skip
    """L = NLL of the chosen, per token − β mean log σ(log odds_c − log odds_r).

    Hong et al. 2024, "ORPO: Monolithic Preference Optimization without Reference
    Model", arXiv:2403.07691, eq. 6 and 7; log odds = π − log(1 − exp π), π mean
    log-probs, β the paper's λ.

    Args: mean log-probs [B], below 0; lengths [B].
    Metrics: those of `losses.dpo`; `nll`; `log_odds`, the mean log of the odds ratio.
    """
    rows = {"mask": mask, "count": count, "axis_name": axis_name}
    mask = jnp.ones(policy_chosen.shape, jnp.float32) if mask is None else mask
    # −1 rather than 0 in ignored rows: the odds of a certain answer are infinite.
    sides = (jnp.where(mask != 0, x, -1.0) for x in (policy_chosen, policy_rejected))
    chosen, rejected = (x - jax.nn.log1mexp(-x) for x in sides)
    ratio = jax.nn.log_sigmoid(chosen - rejected)
    given = {"count": count, "axis_name": axis_name}
    loss = -beta * masking.mean(ratio, mask, **given)
    summed = masking.zero(policy_chosen, mask) * lengths
    nll, named = sft(summed, lengths, mask=mask, count=tokens, axis_name=axis_name)
    metrics = _metrics(policy_chosen, policy_rejected, beta, 1.0, rows)
    odds = masking.mean(chosen - rejected, mask, **given)
    return nll + loss, {**metrics, **named, "log_odds": odds}


def sft(policy_chosen, lengths, *, mask=None, count=None, axis_name=None):
    """L = −Σ π_c / Σ lengths: maximum likelihood of the chosen answers, per token.

    Args: summed log-probs [B]; lengths [B]; count []: of tokens. Metrics: `nll`.
    """
    chex.assert_equal_shape([policy_chosen, lengths])
    mask = jnp.ones(policy_chosen.shape, jnp.float32) if mask is None else mask
    total = masking.total(policy_chosen, mask, axis_name=axis_name)
    if count is None:
        count = masking.total(lengths, mask, axis_name=axis_name)
    loss = -total / jnp.where(count > 0, count, 1)
    return loss, {"nll": loss}


def _metrics(policy_chosen, policy_rejected, beta, preference, rows):
    zero = jnp.zeros_like(policy_chosen)
    sides = policy_chosen, policy_rejected, zero, zero
    return losses.dpo(*sides, beta=beta, preference=preference, **rows)[1]
