"""From prompts to what the losses read: rollout, experience, targets.

All of it is data: made with the weights as they were, it carries no gradient.
"""

import jax
import jax.numpy as jnp

from rlhf_jax import (
    advantages,
    logprobs,
    masking,
    rewards,
    sampling,
    sharding,
    trees,
)
from rlhf_jax.algorithms.policy_gradient import restrict
from rlhf_jax.algorithms.policy_gradient.state import Experience, Targets
from rlhf_jax.types import Prompts


def keys(state):
    """The two keys of this iteration: (sampling, shuffling)."""
    sample_key, shuffle_key = jax.random.split(
        jax.random.fold_in(state.key, state.iteration)
    )
    return sample_key, shuffle_key


def rollout(state, batch, *, networks, config):
    """K responses to each prompt on this device, every row with a key of its own.

    The key of candidate k of a prompt is fold_in(iteration key, row_id·K + k): what is
    sampled does not depend on how the rows lie on devices.

    Args: batch of B prompts. Returns Rollout of B·K rows, candidates side by side.
    """
    sample_key, _ = keys(state)
    count = config.candidates
    ids = batch.row_ids[:, None] * count + jnp.arange(count)[None, :]
    model, params = networks.policy, state.learner.params["policy"]
    if config.masked:
        model = restrict.Restricted(model, config)
        params = restrict.Pair(params, state.masking)
    return sampling.generate(
        model,
        params,
        Prompts(batch.tokens, batch.mask),
        sampling.row_keys(sample_key, ids.reshape(-1)),
        config=config.sampling,
        copies=count,
    )


def experience(state, rollout, scores, hyper, *, networks, config, axis_name=None):
    """A rollout with reference log-probs and values; then all rows on every device.

    Args: rollout and scores [b] of this device. Returns Experience of N global rows.
    """
    params = state.learner.params
    reference = trees.where(
        hyper.reference_average, state.elastic.average, state.elastic.initial
    )

    def reference_pass(part):
        return response_logits(networks.policy, reference, part, config)[0]

    def policy_pass(part):
        return response_logits(networks.policy, params["policy"], part, config)[0]

    def value_pass(part):
        return response_values(networks, params, part, config)

    def masked_pass(part):
        return _masked(networks.policy, params["policy"], state.masking, part, config)

    valid = rollout.response_mask
    logps = rollout.logps  # from the logits that sampled (N+ 19)
    masks = {}
    if config.masked:
        logps, free, bits = _in_parts(masked_pass, rollout, config.micro_batches)
        masks = {"free_logps": masking.zero(free, valid), "allowed": bits}
    elif config.recompute_logps:
        logps = _in_parts(policy_pass, rollout, config.micro_batches)
    values = jnp.zeros_like(logps)
    if config.learns_value:
        values = _in_parts(value_pass, rollout, config.micro_batches)
    references = _in_parts(reference_pass, rollout, config.micro_batches)
    data = Experience(
        tokens=rollout.tokens,
        mask=rollout.mask,
        response_mask=valid,
        logps=masking.zero(logps, valid),
        reference_logps=masking.zero(references, valid),
        values=masking.zero(values, valid),
        scores=_missing_eos(scores, rollout.ended, hyper, config),
        ended=rollout.ended,
        **masks,
    )
    if axis_name is None:
        return data
    return jax.tree.map(
        lambda x: jax.lax.all_gather(x, axis_name, axis=0, tiled=True), data
    )


def _masked(model, params, masking_params, data, config):
    """A rollout's (log-probs under the mask, log-probs without, bits of the mask)."""
    tokens = data.tokens[:, data.tokens.shape[1] - data.response_mask.shape[1] :]
    free, logits = response_logits(model, params, data, config)
    _, others = response_logits(model, masking_params, data, config)
    bits = restrict.pack(restrict.allowed(others, config=config), tokens)
    logits = restrict.restrict(logits, restrict.unpack(bits, logits.shape[-1]))
    logps = logprobs.of_tokens(logits, tokens, temperature=temperature(config))
    return logps, free, bits


def response_logits(model, params, data, config, *, hidden=None, allowed=()):
    """Log-probs and logits at the response positions alone.

    Nothing else is projected to the vocabulary. Logits are divided by the sampling
    temperature in every pass (N 10). `hidden`: of `before_responses`, where it is
    there already; `allowed`: bits of `restrict.pack`, () where nothing is masked.

    Returns (logps [b, T] float32, logits [b, T, V]).
    """
    if hidden is None:
        hidden = before_responses(model, params, data)
    logits = model.apply({"params": params}, hidden, method="unembed")
    if not isinstance(allowed, tuple):
        logits = restrict.restrict(logits, restrict.unpack(allowed, logits.shape[-1]))
    start = data.tokens.shape[1] - data.response_mask.shape[1]
    logps = logprobs.of_tokens(
        logits, data.tokens[:, start:], temperature=temperature(config)
    )
    return logps, logits


def before_responses(model, params, data):
    """The hidden states that each token of a response follows, [b, T, D].

    That of token t stands at index P − 1 + t.
    """
    return model.apply(
        {"params": params}, data.tokens, data.mask, method="hidden", at=_before(data)
    )


def _before(data):
    length = data.response_mask.shape[1]
    start = data.tokens.shape[1] - length
    return slice(start - 1, start - 1 + length)


def response_values(networks, params, data, config, *, hidden=None):
    """V(s_t) of the state before each response token. Returns [b, T] float32.

    hidden: the policy's, of `before_responses`, where it is there already.
    """
    variables = {"params": params["value"]}
    if config.value == "separate":
        return networks.value.apply(variables, data.tokens, data.mask, at=_before(data))
    if hidden is None:
        hidden = before_responses(networks.policy, params["policy"], data)
    return networks.value.apply(variables, hidden)


def temperature(config):
    """The temperature of every log-prob: sampling's, 1 when sampling is greedy."""
    return config.sampling.temperature or 1.0


def targets(data, coef, hyper, *, config):
    """KL-regularised rewards, then advantages and returns, over all rows at once.

    Scores are bounded first, where `hyper` says so; the metrics show them as they were.

    Args: data of N global rows, candidates of a prompt side by side; coef [] is β.
    Statistics over rows need no axis name here: every device holds every row.
    """
    valid = data.response_mask
    beta = coef if config.kl_in == "reward" else 0.0
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
        groups = shaped.sum(-1).reshape(-1, config.candidates)
        rule = {
            "rloo": advantages.leave_one_out,
            "grpo": advantages.group_normalized,
            "rsf": advantages.best,
        }[config.algorithm]
        advantage = rule(groups).reshape(-1, 1) * valid.astype(jnp.float32)
        returns = jnp.zeros_like(advantage)
    if config.whitening == "rollout":
        advantage = masking.whiten(advantage, valid)
    return Targets(advantage, returns)


def _missing_eos(scores, ended, hyper, config):
    scores = scores.astype(jnp.float32)
    if config.missing_eos == "none":
        return scores
    return rewards.missing_eos(
        scores, ended, penalty=hyper.missing_eos, mode=config.missing_eos
    )


def _in_parts(fn, data, parts):
    """fn over `parts` slices of the rows one after another, to bound memory."""
    rows = data.tokens.shape[0]
    if parts == 1 or rows % parts:
        return fn(data)
    cut = jax.tree.map(lambda x: x.reshape(parts, rows // parts, *x.shape[1:]), data)
    out = jax.lax.map(lambda part: fn(sharding.spread(part)), cut)
    return jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), out)
