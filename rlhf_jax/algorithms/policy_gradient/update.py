"""Minibatch updates on an experience, independent of the device layout."""

import functools

import jax
import jax.numpy as jnp

from rlhf_jax import elastic_reset, logprobs, masking, optim, training
from rlhf_jax.algorithms.policy_gradient import collect, objective
from rlhf_jax.algorithms.policy_gradient.objective import Scale


def make_loss(*, networks, config, scale):
    """`loss(params, sample, count) -> ([], metrics)`: shares, as `training` wants them.

    Policy loss (a clipped surrogate or its relatives, REINFORCE, or DPO of pairs) +
    value_coef · value loss − entropy_coef · entropy, + β·k3 when the KL penalty is in
    the loss. `count` is of valid tokens, or of pairs.
    """
    hyper, _ = scale

    def loss(params, sample, count):
        data, targets, _ = sample
        valid = data.response_mask
        policy = networks.policy, params["policy"], data, config
        hidden = collect.response_states(*policy)
        if config.entropy_bonus or config.masked:
            options = {"hidden": hidden, "allowed": data.allowed}
            logps, logits = collect.response_logits(*policy, **options)
        else:
            logps = collect.response_logps(*policy, hidden=hidden)
        total, metrics = objective.policy(logps, sample, scale, config, count)
        if config.entropy_bonus:
            entropy = logprobs.entropy(logits, temperature=collect.temperature(config))
            entropy = masking.mean(entropy, valid, count=count)
            total -= hyper.entropy_coef * entropy
            metrics["entropy"] = entropy
        if config.learns_value:
            values = collect.response_values(
                networks, params, data, config, hidden=hidden
            )
            value_loss, extra = objective.critic(values, data, targets, hyper, count)
            total += hyper.value_coef * value_loss
            metrics |= extra
        return total, metrics

    return loss


def updates(state, sample, hyper, *, networks, tx, config, axis_name=None):
    """Epochs × minibatches of updates on all N rows; each device takes its share.

    Returns (state, metrics), metrics stacked [epochs, minibatches] and NaN for epochs
    that early stopping skipped.
    """
    order = _minibatches(state, sample, config=config, axis_name=axis_name)
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
        elastic = _tick(learner, elastic, hyper, config, config.tick == "epoch")
        return (learner, elastic), metrics

    carry = state.learner, state.elastic
    if config.early_stop:
        stoppable = functools.partial(
            _stoppable, epoch, limit=hyper.stop_kl, axis_name=axis_name
        )
        start = carry, jnp.zeros((), bool)
        (carry, _), metrics = jax.lax.scan(stoppable, start, order)
    else:
        carry, metrics = jax.lax.scan(epoch, carry, order)
    learner, elastic = carry
    shares, extra = metrics
    # Summed once for all updates: an update itself communicates only gradients.
    metrics = {**training.whole(shares, axis_name), **extra}
    return state._replace(learner=learner, elastic=elastic), metrics


def _minibatches(state, sample, *, config, axis_name):
    """Which rows or tokens are in which minibatch: of `orders` or of `deals`.

    Raises ValueError when the rows do not divide among minibatches and devices.
    """
    rows = sample.data.tokens.shape[0]
    shares = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    by_rows = config.minibatch_of == "rows"
    parts = config.minibatches if by_rows else 1  # each sees all rows, some tokens
    kept = config.block > 1
    together = config.block * (config.micro_batches if kept else 1)
    if rows % (parts * shares * together):
        packed = f", {config.candidates} of a prompt together" * kept
        raise ValueError(
            f"{rows} rows do not divide into {parts} minibatches on "
            f"{shares} devices{packed}; change the batch size, the minibatches or "
            "--devices"
        )
    if by_rows:
        return orders(state, rows, config=config)
    return deals(state, sample.data.response_mask, config=config)


def _stoppable(epoch, carry, order, *, limit, axis_name):
    """An epoch, skipped if an earlier one moved too far: TRL's early stopping.

    Too far: E[log π_old − log π] over the tokens of an epoch's last minibatch, as
    measured in its update, exceeds `limit`. That epoch itself still counts, and so does
    its EMA tick.
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
    """The global rows of each minibatch: [epochs, minibatches, rows per minibatch].

    One permutation per epoch, from fold_in(key, epoch) (N 16: reshuffled every epoch);
    where candidates of a prompt are taken together, one of groups.
    """
    _, shuffle_key = collect.keys(state)
    groups = rows // config.block
    permutations = [
        jax.random.permutation(jax.random.fold_in(shuffle_key, epoch), groups)
        for epoch in range(config.epochs)
    ]
    first = jnp.stack(permutations)[..., None] * config.block
    every = first + jnp.arange(config.block)[None, None]
    return every.reshape(config.epochs, config.minibatches, -1)


def deals(state, valid, *, config):
    """The tokens of each minibatch, as masks: [epochs, minibatches, N, T] of 0 and 1.

    Minibatches of RL4LMs and stable-baselines3: each epoch deals the valid tokens of
    all responses, at most the first `config.transitions` in row order, to minibatches
    of equal size (± 1). A token needs its context, so every update runs over all rows.

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
        # The rank of each valid token in a random order; ignored ones come last.
        rank = jnp.argsort(jnp.argsort(jnp.where(flat, draws, flat.size + draws)))
        hit = (rank[None] % config.minibatches == numbers[:, None]) & flat[None]
        return hit.reshape(config.minibatches, *valid.shape)

    return jnp.stack([deal(e) for e in range(config.epochs)]).astype(jnp.int32)


def _minibatch(carry, order, *, sample, loss, hyper, tx, config, axis_name):
    """One update, the body of a scan; carry is (learner, elastic).

    Its metrics are a pair: this device's shares, and what is already global.
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
    elastic = _tick(learner, elastic, hyper, config, config.tick == "update")
    return (learner, elastic), (metrics, {**extra, "rate": rate})


def share(sample, order, *, config, axis_name):
    """This device's rows of a minibatch, and how many valid tokens, or pairs, the whole
    minibatch has.

    order: rows from `orders`, or a token mask from `deals`.
    """
    if config.minibatch_of == "tokens":
        part = sample._replace(data=sample.data._replace(response_mask=order))
    else:
        part = jax.tree.map(lambda x: jnp.take(x, order, axis=0), sample)
    valid = part.data.response_mask
    if config.whitening == "minibatch":
        # Not in the loss, which sees one micro-batch of one device only.
        advantages = masking.whiten(part.targets.advantages, valid)
        part = part._replace(targets=part.targets._replace(advantages=advantages))
    if config.importance_sampling_correction:
        # w · min(r A, clip(r) A) = min(r wA, clip(r) wA) for weights of at least 0.
        advantages = part.targets.advantages * part.data.weights
        part = part._replace(targets=part.targets._replace(advantages=advantages))
    if not config.pairs:
        tokens = sample.data.response_mask.sum() / config.minibatches
        part = part._replace(weights=objective.weights(valid, tokens, config))
    if axis_name is not None:
        size = order.shape[0] // jax.lax.axis_size(axis_name)
        start = jax.lax.axis_index(axis_name) * size
        part = jax.tree.map(
            lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), part
        )
    return part, valid.shape[0] // 2 if config.pairs else valid.sum()


def _tick(learner, elastic, hyper, config, now):
    if not (now and config.keep_average):
        return elastic
    return elastic_reset.tick(learner.params["policy"], elastic, decay=hyper.decay)
