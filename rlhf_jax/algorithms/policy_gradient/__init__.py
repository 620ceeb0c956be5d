"""PPO and its like, RSF and online DPO with resets: one iteration, a pure function.

    prompts → rollout → score → KL-regularised reward → advantages
            → minibatch updates → EMA and reset → metrics

`iteration` is the whole line, for scores that are JAX functions. Where the score is
Python, `rollout` and `learn` are the two halves around it: the same functions.
"""

import jax
import jax.numpy as jnp

from rlhf_jax import elastic_reset, importance_sampling, kl, masking, trees
from rlhf_jax.algorithms.policy_gradient import groups, token_mask
from rlhf_jax.algorithms.policy_gradient.collect import (
    experience,
    keys,
    rollout,
    targets,
)
from rlhf_jax.algorithms.policy_gradient.config import GROUPED, Config, Hyper
from rlhf_jax.algorithms.policy_gradient.objective import Sample
from rlhf_jax.algorithms.policy_gradient.state import (
    Batch,
    Experience,
    Networks,
    State,
    Targets,
    elastic,
    init,
)
from rlhf_jax.algorithms.policy_gradient.update import updates

__all__ = [
    "GROUPED",
    "Batch",
    "Config",
    "Experience",
    "Hyper",
    "Networks",
    "State",
    "Targets",
    "elastic",
    "experience",
    "finish",
    "init",
    "iteration",
    "keys",
    "learn",
    "reset",
    "rollout",
    "targets",
]


def iteration(
    state, frozen, batch, hyper, *, networks, tx, config, score, axis_name=None
):
    """One iteration with a score that is a JAX function.

    Args: frozen: parameters of the score; batch of this device; score(frozen, tokens
    [b, S], mask [b, S]) -> [b]. Returns (state, rows, metrics): rows are this device's
    Rollout and scores, metrics are global scalars.
    """
    sampled = rollout(state, batch, networks=networks, config=config)
    scores = score(frozen, sampled.tokens, sampled.mask)
    state, metrics = learn(
        state,
        sampled,
        scores,
        hyper,
        networks=networks,
        tx=tx,
        config=config,
        axis_name=axis_name,
    )
    return state, (sampled, scores), metrics


def learn(state, rollout, scores, hyper, *, networks, tx, config, axis_name=None):
    """Everything after scoring: experience, updates, KL controller, EMA and reset.

    Args: rollout and scores [b] of this device, before `groups.select`, which leaves
    the rows that are learned from. Returns (state, metrics).
    """
    rollout, scores, drawn = groups.select(
        rollout, scores, hyper, config=config, axis_name=axis_name
    )
    data = experience(
        state,
        rollout,
        scores,
        hyper,
        networks=networks,
        config=config,
        axis_name=axis_name,
    )
    coef = state.controller.coef * (config.penalty_in != "none")
    sample = Sample(data, targets(data, coef, hyper, config=config))
    metrics = {**_describe(sample, coef), **groups.describe(data, config), **drawn}
    state, steps = updates(
        state,
        groups.without_truncated(sample, config),
        hyper,
        networks=networks,
        tx=tx,
        config=config,
        axis_name=axis_name,
    )
    controller = _controlled(state.controller, metrics, data.tokens.shape[0], hyper)
    state = state._replace(controller=controller)
    state, ending = finish(state, hyper, networks=networks, tx=tx, config=config)
    described = _describe_updates(steps, state, early_stop=config.early_stop)
    return state, {**metrics, **described, **ending}


def _controlled(controller, metrics, rows, hyper):
    """β of the next iteration, by the rule that `hyper` chooses."""
    adaptive = kl.update(
        controller,
        metrics["objective/kl"],
        rows,
        target=hyper.kl_target,
        horizon=hyper.kl_horizon,
    )
    proportional = kl.proportional(
        controller, metrics["objective/kl_token"], target=hyper.kl_target
    )
    return trees.where(hyper.kl_proportional, proportional, adaptive)


def finish(state, hyper, *, networks, tx, config):
    """Ends an iteration: EMA tick, reset if one is due, iteration counter.

    The reset comes last: between a rollout and its updates it would leave old log-probs
    that belong to another policy.
    """
    if not config.keep_average:
        state = state._replace(iteration=state.iteration + 1)
        return state, {"reset/reset": jnp.zeros(())}
    if config.tick == "iteration":
        every = hyper.tick_every
        now = elastic_reset.due(state.iteration, every=every, at_zero=every == 1)
        elastic = elastic_reset.tick(
            state.learner.params["policy"],
            state.elastic,
            decay=jnp.where(now, hyper.decay, 1.0),
        )
        state = state._replace(elastic=elastic)
    due = elastic_reset.due(
        state.iteration, every=hyper.reset_every, at_zero=hyper.reset_first
    )
    # cond, not where: an iteration without a reset need not copy weights and moments.
    state = jax.lax.cond(
        due,
        lambda state: reset(state, hyper, networks=networks, tx=tx, config=config),
        lambda state: state,
        state,
    )
    if config.masked:
        state = token_mask.refresh(state, hyper)
    state = state._replace(iteration=state.iteration + 1)
    return state, {"reset/reset": due.astype(jnp.float32)}


def reset(state, hyper, *, networks, tx, config):
    """Resets now, whatever the calendar says: Noukhovitch et al. 2023.

    Policy and EMA are reset by `elastic_reset.apply`. The critic and the optimiser's
    moments are kept, as published, unless `hyper` says otherwise; β is never reset.
    """
    learner = state.learner
    policy, moved = elastic_reset.apply(
        learner.params["policy"],
        elastic(state, networks),
        target=hyper.reset_target,
        weight=hyper.reset_weight,
        reset_average=hyper.reset_average,
    )
    value = learner.params["value"]
    if config.keep_initial_value:
        value = trees.where(hyper.reset_value, state.initial_value, value)
    params = {"policy": policy, "value": value}
    opt_state = trees.where(hyper.reset_optimizer, tx.init(params), learner.opt_state)
    return state._replace(
        learner=learner._replace(params=params, opt_state=opt_state),
        elastic=state.elastic._replace(average=moved.average),
    )


def _describe(sample, coef):
    """Metrics of a rollout before the updates, under TRL's names.

    `objective/kl` is summed over response tokens and averaged over samples, in nats,
    against the current reference; `objective/entropy` is the same for −log π.
    """
    data, target, _ = sample
    valid = data.response_mask
    rows = jnp.ones(valid.shape[0])
    gap = kl.k1(data.unmasked, data.reference_logps, mask=valid)
    divergence = gap.sum(-1)
    surprise = -masking.zero(data.logps, valid).sum(-1)
    per_sample = masking.mean(divergence, rows)
    scores = masking.mean(data.scores, rows)
    return {
        "objective/kl": per_sample,
        "objective/kl_token": masking.mean(gap, valid),
        "objective/kl_token_max": jnp.abs(data.unmasked - data.reference_logps).max(),
        "objective/kl_coef": coef,
        "objective/scores": scores,
        "objective/non_score_reward": -coef * per_sample,
        "objective/rlhf_reward": scores - coef * per_sample,
        "objective/entropy": masking.mean(surprise, rows),
        "objective/advantage_std": jnp.sqrt(masking.var(target.advantages, valid)),
        "response/length": masking.mean(valid.sum(-1).astype(jnp.float32), rows),
        "response/ended": masking.mean(data.ended.astype(jnp.float32), rows),
        **_describe_weights(data),
    }


def _describe_weights(data):
    """Importance weights under TRL's names, where there are any."""
    if isinstance(data.weights, tuple):
        return {}
    found = importance_sampling.summary(data.weights, data.response_mask)
    return {f"sampling/importance_sampling_ratio/{k}": x for k, x in found.items()}


def _describe_updates(steps, state, *, early_stop):
    """Means over all updates of an iteration; `steps` are [epochs, minibatches]."""
    if early_stop:  # skipped epochs count as the mean of the others
        taken = ~jnp.isnan(steps["finite"]).any(-1)
        steps = {name: _over_taken(x, taken) for name, x in steps.items()}
    named = {
        "policy/approxkl_avg": steps["approxkl"].mean(),
        "policy/clipfrac_avg": steps["clipfrac"].mean(),
        "loss/policy_avg": steps["policy_loss"].mean(),
        "val/ratio": steps["ratio"].mean(),
        # Of the very first update: generation and training must agree there.
        "val/ratio_first_error": steps["ratio_error_max"][0, 0],
        "optim/grad_norm": steps["grad_norm"].mean(),
        "optim/learning_rate": steps["rate"][-1, -1],
        "optim/finite": steps["finite"].mean(),
        "optim/skipped": state.learner.skipped.astype(jnp.float32),
    }
    if "margins" in steps:
        named["policy/margin_avg"] = steps["margins"].mean()
        named["policy/accuracy_avg"] = steps["accuracies"].mean()
    if "value_loss" in steps:
        named["loss/value_avg"] = steps["value_loss"].mean()
        named["val/clipfrac_avg"] = steps["value_clipfrac"].mean()
    if early_stop:
        named["policy/passes"] = taken.sum().astype(jnp.float32)
    if "entropy" in steps:
        named["policy/entropy_avg"] = steps["entropy"].mean()
    return named


def _over_taken(values, taken):
    """[epochs, minibatches] with skipped epochs filled by the mean of those taken."""
    count = taken.sum() * values.shape[1]
    mean = jnp.where(taken[:, None], values, 0.0).sum() / count
    return jnp.where(taken[:, None], values, mean)
