"""From prompts to the inputs of the losses: rollout, experience, targets.

All of it is data, computed with the weights before the update: no gradient flows.
"""

import functools

import jax
import jax.numpy as jnp

from rlhf_jax import (
    advantages,
    continuous,
    importance_sampling,
    masking,
    rewards,
    sampling,
    sharding,
    trees,
)
from rlhf_jax.algorithms.policy_gradient import state as held
from rlhf_jax.algorithms.policy_gradient import token_mask
from rlhf_jax.algorithms.policy_gradient.state import Experience, Targets
from rlhf_jax.models import responses
from rlhf_jax.types import Prompts


def keys(state):
    """The two keys of this iteration: (sampling, shuffling)."""
    sample_key, shuffle_key = jax.random.split(
        jax.random.fold_in(state.key, state.iteration)
    )
    return sample_key, shuffle_key


def rollout(state, batch, *, networks, config):
    """K responses to each prompt on this device.

    Candidate k of a prompt draws from fold_in(iteration key, row_id·K + k), so samples
    do not depend on the device layout.

    Args: batch of B prompts. Returns Rollout of B·K rows, candidates side by side.
    """
    sample_key, _ = keys(state)
    count = config.candidates
    ids = batch.row_ids[:, None] * count + jnp.arange(count)[None, :]
    model, params = networks.policy, state.learner.params["policy"]
    if config.masked:
        model = token_mask.Masked(model, config)
        params = token_mask.Pair(params, state.masking)
    return continuous.take_turns(
        model,
        params,
        Prompts(batch.tokens, batch.mask),
        sampling.row_keys(sample_key, ids.reshape(-1)),
        config=config.sampling,
        rows_per_slot=config.rows_per_slot,
        copies=count,
    )


def experience(state, rollout, scores, hyper, *, networks, config, axis_name=None):
    """Adds reference log-probs and values to a rollout, then gathers all rows.

    Args: rollout and scores [b] of this device. Returns Experience of N global rows,
    the same on every device.
    """
    elastic = held.elastic(state, networks)
    reference = elastic.initial
    if config.keep_average:
        average = elastic.average
        reference = trees.where(hyper.reference_average, average, reference)

    def reference_pass(part):
        return response_logps(networks.policy, reference, part, config)

    def value_pass(part):
        return response_values(networks, state.learner.params, part, config)

    valid = rollout.response_mask
    logps, masks = _policy_logps(state, rollout, networks.policy, config)
    values = jnp.zeros_like(logps)
    if config.learns_value:
        values = _in_parts(value_pass, rollout, config)
    references = _in_parts(reference_pass, rollout, config)
    data = Experience(
        tokens=rollout.tokens,
        mask=rollout.mask,
        response_mask=valid,
        logps=masking.zero(logps, valid),
        reference_logps=masking.zero(references, valid),
        values=masking.zero(values, valid),
        scores=paid(scores, rollout, hyper, config),
        ended=rollout.ended,
        weights=_weights(logps, rollout, config),
        **masks,
    )
    if axis_name is None:
        return data
    return jax.tree.map(
        lambda x: jax.lax.all_gather(x, axis_name, axis=0, tiled=True), data
    )


def _policy_logps(state, rollout, model, config):
    """The old log-probs [b, T], and the Experience fields that only NLPO fills."""
    params, valid = state.learner.params["policy"], rollout.response_mask

    def full_pass(part):
        return response_logps(model, params, part, config)

    def masked_pass(part):
        return _masked(model, params, state.masking, part, config)

    if config.masked:
        logps, free, bits = _in_parts(masked_pass, rollout, config)
        return logps, {"free_logps": masking.zero(free, valid), "allowed": bits}
    if config.recompute_logps:
        return _in_parts(full_pass, rollout, config), {}
    return rollout.logps, {}  # from the logits that sampled (N+ 19)


def _weights(logps, rollout, config):
    """Corrections for what sampled the tokens, () where none are asked for."""
    cap = config.importance_sampling_correction
    if not cap:
        return ()
    given = logps, rollout.sampler_logps, rollout.response_mask
    return importance_sampling.truncated(*given, cap=cap)


def _masked(model, params, masking_params, data, config):
    """(log-probs under the token mask, log-probs without it, the mask as bits)."""
    tokens = responses.tokens(data)
    free, logits = response_logits(model, params, data, config)
    _, others = response_logits(model, masking_params, data, config)
    bits = token_mask.pack(token_mask.allowed(others, config=config), tokens)
    logits = token_mask.apply(logits, token_mask.unpack(bits, logits.shape[-1]))
    logps = responses.logps(logits, data, temperature=temperature(config))
    return logps, free, bits


def response_states(model, params, data, config):
    """The policy's states [b, T, D] before the response tokens."""
    return responses.states(model, params, data, copies=config.together)


def response_logps(model, params, data, config, *, hidden=None):
    """Log-probs [b, T] float32 of the response tokens, as `response_logits` has them,
    where nobody reads the logits."""
    if hidden is None:
        hidden = response_states(model, params, data, config)
    given = {"temperature": temperature(config)}
    return responses.logps_of_states(
        model, params, hidden, responses.tokens(data), **given
    )


def response_logits(model, params, data, config, *, hidden=None, allowed=()):
    """Log-probs and logits of the response tokens, under the token mask if any.

    Log-probs are taken at the sampling temperature in every pass (N 10). `hidden`: the
    policy's `responses.states`, if computed already; `allowed`: the bits of
    `token_mask.pack`, () without a mask.

    Returns (logps [b, T] float32, logits [b, T, V]).
    """
    logits = responses.logits(model, params, data, hidden=hidden)
    if not isinstance(allowed, tuple):
        logits = token_mask.apply(logits, token_mask.unpack(allowed, logits.shape[-1]))
    logps = responses.logps(logits, data, temperature=temperature(config))
    return logps, logits


def response_values(networks, params, data, config, *, hidden=None):
    """V(s_t) of the state before each response token. Returns [b, T] float32.

    hidden: the policy's `responses.states`, if computed already.
    """
    variables = {"params": params["value"]}
    if config.value == "separate":
        at = responses.positions(data)
        return networks.value.apply(variables, data.tokens, data.mask, at=at)
    if hidden is None:
        hidden = response_states(networks.policy, params["policy"], data, config)
    return networks.value.apply(variables, hidden)


def temperature(config):
    """The temperature of every log-prob: the sampling temperature, or 1 if greedy."""
    return config.sampling.temperature or 1.0


def targets(data, coef, hyper, *, config):
    """KL-regularised rewards, then advantages and returns, over all rows at once.

    `hyper.reward_bound` bounds the scores here; metrics report them unbounded.

    Args: data: N global rows, the candidates of a prompt side by side; coef [] is β.
    Every device holds every row, so statistics over rows need no axis name.
    """
    valid = data.response_mask
    beta = coef if config.penalty_in == "reward" else 0.0
    shaped = rewards.chi2_regularized(
        rewards.bounded(data.scores, bound=hyper.reward_bound),
        data.unmasked,
        data.reference_logps,
        valid,
        beta=beta,
        weight=hyper.chi2_weight,
    )
    if config.whiten_rewards:
        shaped = masking.whiten(shaped, valid, shift_mean=False)
    if config.learns_value:
        # λ = 1 makes the advantage return − value: REINFORCE with a learned baseline.
        lam = 1.0 if config.algorithm == "reinforce" else hyper.lam
        advantage, returns = advantages.gae(
            shaped, data.values, valid, gamma=hyper.gamma, lam=lam
        )
    else:
        advantage = _without_critic(shaped, valid, hyper, config)
        returns = jnp.zeros_like(advantage)
    if config.whitening == "rollout":
        advantage = masking.whiten(advantage, valid)
    return Targets(advantage, returns)


def _without_critic(shaped, valid, hyper, config):
    """Advantages [N, T] from sums of rewards, or from the candidates of a prompt."""
    row = config.variant
    if row.advantage == "return":
        return advantages.returns(shaped, valid, gamma=hyper.gamma)
    std = {"ddof": 1, "epsilon": 1e-4}  # TRL's
    rule = {
        "leave_one_out": advantages.leave_one_out,
        "best": advantages.best,
        "wins": advantages.wins,
        "group": {
            "group": functools.partial(advantages.group_normalized, **std),
            "batch": functools.partial(advantages.batch_normalized, **std),
            "none": advantages.baseline,
        }[row.scale_rewards],
    }[row.advantage]
    groups = shaped.sum(-1).reshape(-1, config.candidates)
    return rule(groups).reshape(-1, 1) * valid.astype(jnp.float32)


def paid(scores, rollout, hyper, config):
    """Scores [b] float32 after the rules for responses that do not end, or end late."""
    scores = scores.astype(jnp.float32)
    if config.missing_eos != "none":
        scores = rewards.missing_eos(
            scores, rollout.ended, penalty=hyper.missing_eos, mode=config.missing_eos
        )
    valid, cache = rollout.response_mask, hyper.soft_punish_cache
    late = rewards.soft_overlong_punishment(
        valid, max_length=valid.shape[1], cache=cache
    )
    return scores + jnp.where(cache > 0, late, 0.0)


def _in_parts(fn, data, config):
    """fn over slices of the rows, one after another, to save memory."""
    parts, together = config.micro_batches, config.block
    rows = data.tokens.shape[0]
    if parts == 1 or rows % (parts * together):
        return fn(data)
    cut = jax.tree.map(lambda x: x.reshape(parts, rows // parts, *x.shape[1:]), data)
    out = jax.lax.map(lambda part: fn(sharding.shard_rows(part)), cut)
    return jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), out)
