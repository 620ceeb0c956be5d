"""Minibatch updates on an experience: one loss, one permutation, every layout alike."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import elastic_reset, kl, logprobs, losses, masking, optim, training
from rlhf_jax.algorithms.policy_gradient import collect
from rlhf_jax.algorithms.policy_gradient.state import Experience, Targets


class Sample(NamedTuple):
    """Rows of a minibatch."""

    data: Experience
    targets: Targets


class Scale(NamedTuple):
    """What the loss multiplies with, traced."""

    hyper: Any
    coef: jax.Array  # [] β, used where the KL penalty is in the loss


def make_loss(*, networks, config, scale):
    """`loss(params, sample, count) -> ([], metrics)`: shares, as `training` has them.

    Policy term (clipped surrogate, or REINFORCE) + value_coef · value term
    − entropy_coef · entropy + β·k3 where the penalty is in the loss.
    """
    hyper, coef = scale

    def loss(params, sample, count):
        data, targets = sample
        valid = data.response_mask
        hidden = collect.before_responses(networks.policy, params["policy"], data)
        logps, logits = collect.response_logits(
            networks.policy,
            params["policy"],
            data,
            config,
            hidden=hidden,
            allowed=data.allowed,
        )
        total, metrics = _policy_loss(logps, data, targets, hyper, config, count)
        metrics = {"policy_loss": total, **metrics}
        if config.kl_in == "loss":
            penalty = kl.k3(logps, data.reference_logps, mask=valid)
            total += coef * masking.mean(penalty, valid, count=count)
        if config.entropy_bonus:
            entropy = logprobs.entropy(logits, temperature=collect.temperature(config))
            entropy = masking.mean(entropy, valid, count=count)
            total -= hyper.entropy_coef * entropy
            metrics["entropy"] = entropy
        if config.learns_value:
            values = collect.response_values(
                networks, params, data, config, hidden=hidden
            )
            value_loss, extra = losses.value_clip(
                values,
                data.values,
                targets.returns,
                valid,
                clip=hyper.value_clip,
                count=count,
            )
            total += hyper.value_coef * value_loss
            metrics["value_loss"] = value_loss
            metrics["value_clipfrac"] = extra["clipfrac"]
        return total, metrics

    return loss


def _policy_loss(logps, data, targets, hyper, config, count):
    valid = data.response_mask
    value, metrics = losses.ppo_clip(
        logps, data.logps, targets.advantages, valid, clip=hyper.clip, count=count
    )
    if config.algorithm in ("reinforce", "rsf"):
        value, _ = losses.reinforce(logps, targets.advantages, valid, count=count)
    gap = jax.lax.stop_gradient(jnp.abs(jnp.expm1(logps - data.logps)))
    gap = jnp.where(valid != 0, gap, 0.0).max()
    names = ("approxkl", "clipfrac", "ratio")
    found = {**{n: metrics[n] for n in names}, "ratio_error_max": gap}
    if config.early_stop:
        moved = jax.lax.stop_gradient(data.logps - logps)
        found["moved"] = masking.mean(moved, valid, count=count)
    return value, found


def updates(state, sample, hyper, *, networks, tx, config, axis_name=None):
    """Epochs × minibatches of updates on all N rows; each device takes its share.

    Returns (state, metrics), metrics stacked [epochs, minibatches]; those of a pass
    that was left out are NaN.
    """
    rows = sample.data.tokens.shape[0]
    shares = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    by_rows = config.minibatch_of == "rows"
    parts = config.minibatches if by_rows else 1  # each sees all rows, some tokens
    if rows % (parts * shares):
        raise ValueError(
            f"{rows} rows do not divide into {parts} minibatches on "
            f"{shares} devices; change the batch size, the minibatches or --devices"
        )
    if by_rows:
        dealt = orders(state, rows, config=config)
    else:
        dealt = deals(state, sample.data.response_mask, config=config)
    scale = Scale(hyper, state.controller.coef)
    minibatch = functools.partial(
        _minibatch,
        sample=sample,
        loss=make_loss(networks=networks, config=config, scale=scale),
        hyper=hyper,
        tx=tx,
        config=config,
        axis_name=axis_name,
    )

    def epoch(carry, order):
        (learner, elastic), metrics = jax.lax.scan(minibatch, carry, order)
        elastic = _tick(learner, elastic, hyper, config.tick == "epoch")
        return (learner, elastic), metrics

    carry = state.learner, state.elastic
    if config.early_stop:
        stoppable = functools.partial(
            _stoppable, epoch, limit=hyper.stop_kl, axis_name=axis_name
        )
        start = carry, jnp.zeros((), bool)
        (carry, _), metrics = jax.lax.scan(stoppable, start, dealt)
    else:
        carry, metrics = jax.lax.scan(epoch, carry, dealt)
    learner, elastic = carry
    shares, extra = metrics
    # Once for all updates: within one, devices meet to add up gradients and no more.
    metrics = {**training.whole(shares, axis_name), **extra}
    return state._replace(learner=learner, elastic=elastic), metrics


def _stoppable(epoch, carry, order, *, limit, axis_name):
    """A pass, unless one before it went too far: TRL's early stopping.

    Too far is E[log π_old − log π] over the tokens of the pass's last minibatch, as its
    update found it, above `limit`. The pass that is too long still counts, its EMA tick
    with it.
    """
    inner, stopped = carry
    shapes = jax.eval_shape(epoch, inner, order)[1]
    nothing = jax.tree.map(lambda s: jnp.full(s.shape, jnp.nan, s.dtype), shapes)
    inner, metrics = jax.lax.cond(
        stopped, lambda inner, order: (inner, nothing), epoch, inner, order
    )
    shares, _ = metrics
    last = training.whole({"moved": shares["moved"][-1]}, axis_name)
    return (inner, stopped | (last["moved"] > limit)), metrics


def orders(state, rows, *, config):
    """Which global rows are in which minibatch: [epochs, minibatches, rows of one].

    One permutation an epoch, from fold_in(key, epoch) (N 16: reshuffled every epoch).
    """
    _, shuffle_key = collect.keys(state)
    permutations = [
        jax.random.permutation(jax.random.fold_in(shuffle_key, epoch), rows)
        for epoch in range(config.epochs)
    ]
    return jnp.stack(permutations).reshape(config.epochs, config.minibatches, -1)


def deals(state, valid, *, config):
    """Which tokens are in which minibatch: [epochs, minibatches, N, T] of 0 and 1.

    RL4LMs' (stable-baselines3's) minibatches: the valid tokens of all responses, row
    after row and at most `config.transitions` of them, are dealt out anew each epoch,
    to minibatches of equal size (± 1). What stands before a token is read with it, so
    an update costs a pass over every row.

    Args: valid [N, T], the response mask.
    """
    _, shuffle_key = collect.keys(state)
    flat = valid.reshape(-1) != 0
    if config.transitions:
        flat &= jnp.cumsum(flat) <= config.transitions
    numbers = jnp.arange(config.minibatches)

    def deal(epoch):
        key = jax.random.fold_in(shuffle_key, epoch)
        draws = jax.random.permutation(key, flat.size)
        # The rank of each valid token in a random order; the others come behind.
        rank = jnp.argsort(jnp.argsort(jnp.where(flat, draws, flat.size + draws)))
        hit = (rank[None] % config.minibatches == numbers[:, None]) & flat[None]
        return hit.reshape(config.minibatches, *valid.shape)

    return jnp.stack([deal(e) for e in range(config.epochs)]).astype(jnp.int32)


def _minibatch(carry, order, *, sample, loss, hyper, tx, config, axis_name):
    """One update, as the body of a scan; carry is (learner, elastic).

    Its metrics are (shares of this device, what all devices know).
    """
    learner, elastic = carry
    part, count = share(sample, order, config=config, axis_name=axis_name)
    grads, metrics = training.gradients(
        loss,
        learner.params,
        part,
        count=count,
        micro_batches=config.micro_batches,
        axis_name=axis_name,
    )
    rate = optim.learning_rate(
        config.optimizer,
        learner.updates,
        peak=hyper.learning_rate,
        total=hyper.total_updates,
    )
    learner, extra = training.apply(learner, grads, tx, rate=rate)
    elastic = _tick(learner, elastic, hyper, config.tick == "update")
    return (learner, elastic), (metrics, {**extra, "rate": rate})


def share(sample, order, *, config, axis_name):
    """This device's rows of a minibatch, and the valid tokens of the whole of it.

    order: the rows, of `orders`, or the tokens, of `deals`.
    """
    if config.minibatch_of == "tokens":
        part = sample._replace(data=sample.data._replace(response_mask=order))
    else:
        part = jax.tree.map(lambda x: jnp.take(x, order, axis=0), sample)
    valid = part.data.response_mask
    if config.whitening == "minibatch":
        # Not in the loss, which sees a device's rows of one micro-batch.
        advantages = masking.whiten(part.targets.advantages, valid)
        part = part._replace(targets=part.targets._replace(advantages=advantages))
    if axis_name is not None:
        size = order.shape[0] // jax.lax.axis_size(axis_name)
        start = jax.lax.axis_index(axis_name) * size
        part = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), part
        )
    return part, valid.sum()


def _tick(learner, elastic, hyper, now):
    if not now:
        return elastic
    return elastic_reset.tick(learner.params["policy"], elastic, decay=hyper.decay)
