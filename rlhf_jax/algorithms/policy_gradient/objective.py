"""The losses of an update, as shares of a minibatch's mean.

B rows, T tokens, N rows of a minibatch over all devices.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import aggregation, kl, losses, masking, surrogates
from rlhf_jax.algorithms.policy_gradient import variants
from rlhf_jax.algorithms.policy_gradient.state import Experience, Targets


class Sample(NamedTuple):
    """Rows of a minibatch."""

    data: Experience
    targets: Targets
    weights: Any = ()  # [B, T] of tokens, summing to their average; (): all alike


class Scale(NamedTuple):
    """The traced coefficients of the loss."""

    hyper: Any
    coef: jax.Array  # [] β, used where the KL penalty is in the loss


def weights(valid, tokens, config):
    """What each token of a minibatch weighs, for `Sample.weights`.

    Args: valid [N, T], the whole minibatch's response mask; tokens []: the valid tokens
    of an average minibatch of this rollout, which `dapo` divides by.
    """
    loss_type = config.variant.loss_type
    average = variants.AVERAGE[loss_type]
    of_rollout = loss_type in variants.OF_ROLLOUT
    if average == "tokens" and (not of_rollout or config.minibatch_of == "tokens"):
        return ()
    return aggregation.weights(valid, average, tokens=tokens if of_rollout else None)


def policy(logps, sample, scale, config, count):
    """The policy loss, and β·k3 where the KL penalty is in the loss.

    Args: logps [B, T] of the policy in training; sample: of this micro-batch; count []:
    valid tokens of the whole minibatch, or its pairs. Returns (loss [], metrics).
    """
    data, targets = sample.data, sample.targets
    hyper, coef = scale
    if config.pairs:
        return pairs(logps, data, targets, coef, count)
    valid = data.response_mask
    mean = functools.partial(masking.mean, mask=valid, count=count)
    average = mean
    if not isinstance(sample.weights, tuple):
        average = functools.partial(masking.mean, mask=sample.weights, count=1.0)
    tokens = surrogates.log_ratio(logps, data.logps, valid)
    level = config.variant.importance_sampling_level
    log_ratio = surrogates.log_ratio(logps, data.logps, valid, level=level)
    ratios = tokens, log_ratio
    loss, clipped = _token_losses(logps, ratios, data, targets, hyper, config)
    near = surrogates.near_policy(
        tokens, targets.advantages, valid, threshold=hyper.off_policy_mask_threshold
    )
    value, ratio = average(jnp.where(near, loss, 0.0)), jnp.exp(tokens)
    metrics = {
        "policy_loss": value,
        "approxkl": mean(0.5 * jnp.square(tokens)),
        "clipfrac": mean(clipped.astype(jnp.float32)),
        "ratio": mean(ratio),
        "ratio_error_max": jax.lax.stop_gradient(jnp.abs(jnp.expm1(tokens)).max()),
    }
    if config.early_stop:
        metrics["moved"] = mean(jax.lax.stop_gradient(-tokens))
    if config.penalty_in == "loss":
        penalty = kl.k3(logps, data.reference_logps, mask=valid)
        if config.use_bias_correction_kl:
            penalty *= jnp.exp(log_ratio)
        value += coef * average(penalty)
    return value, metrics


def _token_losses(logps, ratios, data, targets, hyper, config):
    """(loss [B, T], whether a token is clipped [B, T]) of a method.

    ratios: log-ratios of tokens, and those at the method's level.
    """
    (tokens, log_ratio), valid, row = ratios, data.response_mask, config.variant
    logps = masking.zero(logps, valid)
    advantages = jax.lax.stop_gradient(masking.zero(targets.advantages, valid))
    never = jnp.zeros(valid.shape, bool)
    low, high = variants.clips(row, hyper)
    if not row.has_ratio:
        return -advantages * logps, never
    if row.loss_type == "cispo":
        return surrogates.cispo(log_ratio, logps, advantages, cap=high)
    if row.loss_type == "sapo":
        heat = hyper.sapo_temperature_pos, hyper.sapo_temperature_neg
        named = dict(zip(("temperature_pos", "temperature_neg"), heat, strict=True))
        return surrogates.sapo(log_ratio, advantages, **named), never
    if row.loss_type == "vespo":
        names = ("k_pos", "lambda_pos", "k_neg", "lambda_neg")
        named = {name: getattr(hyper, f"vespo_{name}") for name in names}
        return surrogates.vespo(tokens, logps, advantages, **named), never
    return surrogates.clipped(
        log_ratio, advantages, clip=low, clip_high=high, delta=hyper.delta
    )


def pairs(logps, data, targets, coef, count):
    """DPO on two samples of a prompt, adjacent rows, labelled as they were drawn.

    Guo et al. 2024, "Direct Language Model Alignment from Online AI Feedback",
    arXiv:2402.04792. The KL penalty's β is DPO's. The other metrics are means over rows
    of their tokens' mean.
    """
    valid = data.response_mask
    policy, reference = (
        masking.zero(x, valid).sum(-1).reshape(-1, 2).T
        for x in (logps, data.reference_logps)
    )
    label = targets.advantages[::2, 0]  # a response has at least one token
    value, metrics = losses.dpo(
        *policy, *reference, beta=coef, preference=label, count=count
    )
    moved = jax.lax.stop_gradient(masking.zero(logps - data.logps, valid))
    ratio = masking.zero(jnp.exp(moved), valid)
    weights = 1.0 / (2.0 * count * jnp.maximum(valid.sum(-1), 1))
    means = {"approxkl": jnp.square(moved) / 2, "ratio": ratio}
    return value, {
        "policy_loss": value,
        **{name: (x.sum(-1) * weights).sum() for name, x in means.items()},
        "clipfrac": jnp.zeros(()),
        "ratio_error_max": jnp.abs(jnp.expm1(moved)).max(),
        "margins": metrics["margins"],
        "accuracies": metrics["accuracies"],
    }


def critic(values, data, targets, hyper, count):
    """Half the clipped squared error of the critic's values [B, T]."""
    loss, metrics = losses.value_clip(
        values,
        data.values,
        targets.returns,
        data.response_mask,
        clip=hyper.value_clip,
        count=count,
    )
    return loss, {"value_loss": loss, "value_clipfrac": metrics["clipfrac"]}
