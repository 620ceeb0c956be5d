"""The pivot-translation game: two agents translate through a pivot language.

    French → sender → English message → receiver → German, scored by its likelihood

Both agents are rewarded for the German only, so nothing but their pretraining keeps the
messages English: Lee et al. 2019, "Countering Language Drift via Visual Grounding";
Lu et al. 2020, arXiv:2003.12694; Noukhovitch et al. 2023, arXiv:2312.07551.
"""

import functools

import jax
import jax.numpy as jnp

from rlhf_jax import (
    elastic_reset,
    masking,
    optim,
    regularizers,
    sampling,
    training,
    trees,
)
from rlhf_jax.algorithms.translation_game import messages, play
from rlhf_jax.algorithms.translation_game.state import (
    Batch,
    Config,
    Hyper,
    Lesson,
    Networks,
    State,
    agents,
    init,
)

__all__ = [
    "Batch", "Config", "Hyper", "Lesson", "Networks", "State", "agents", "finish",
    "init", "reset", "speak", "step", "teach",
]  # fmt: skip


def step(state, batch, hyper, lesson=None, *, networks, tx, config, axis_name=None):
    """One round of the game and one update of both agents and the critic.

    Args: batch of this device; lesson: gradients from `teach`, weighted by
    `hyper.lesson_coef`, or None. The reward comes from the receiver before the update.
    Returns (state, metrics), metrics global scalars.
    """
    counts = play.count(batch, axis_name=axis_name)
    message = speak(state, batch, networks=networks, config=config)
    grads, metrics = _gradients(state, message, batch, counts, hyper, networks=networks)
    if axis_name is not None:  # losses are shares of global means: they add up
        grads, metrics = jax.lax.psum((grads, metrics), axis_name)
    grads = _weighted(grads, lesson, state, hyper)
    schedule = {"peak": hyper.learning_rate, "total": hyper.total_updates}
    rate = optim.learning_rate(config.optimizer, state.learner.updates, **schedule)
    rates = {"sender": hyper.sender_rate * rate, "receiver": rate, "value": rate}
    learner, extra = training.apply(state.learner, grads, tx, rate=rates)
    state = finish(state._replace(learner=learner), hyper)
    return state, {
        **metrics,
        "optim/grad_norm": extra["grad_norm"],
        "optim/learning_rate": rate,
        "optim/skipped": learner.skipped.astype(jnp.float32),
    }


def _gradients(state, message, batch, counts, hyper, *, networks):
    """This device's shares of the gradients of all losses, and of the metrics."""
    params, elastic = state.learner.params, state.elastic
    listen = functools.partial(play.listen, networks=networks)
    (loss, rewards), receiver_grads = jax.value_and_grad(listen, has_aux=True)(
        params["receiver"], message, batch, counts
    )
    persuade = functools.partial(play.persuade, networks=networks)
    learning = {"sender": params["sender"], "value": params["value"]}
    anchors = elastic.initial["sender"], elastic.average["sender"]
    (_, metrics), grads = jax.value_and_grad(persuade, has_aux=True)(
        learning, anchors, message, batch, rewards, counts, hyper
    )
    metrics = {**metrics, **play.describe(message, batch, rewards, counts)}
    grads = {**grads, "receiver": receiver_grads}
    return grads, {**metrics, "loss/receiver": loss}


def speak(state, batch, *, networks, config):
    """This step's messages; a row's key is fold_in(fold_in(key, step), row_id)."""
    key = jax.random.fold_in(state.key, state.iteration)
    keys = sampling.row_keys(key, batch.row_ids)
    sender, params = networks.sender, state.learner.params["sender"]
    source = batch.source, batch.source_mask
    return messages.speak(sender, params, *source, keys, config=config.sampling)


def _weighted(grads, lesson, state, hyper):
    """The sums of the gradients of all losses, times their coefficients."""
    pull = jax.grad(regularizers.l2)(
        state.learner.params["sender"], state.elastic.initial["sender"]
    )
    sender = jax.tree.map(lambda g, p: g + hyper.l2_coef * p, grads["sender"], pull)
    receiver = jax.tree.map(lambda g: hyper.receiver_coef * g, grads["receiver"])
    if lesson is not None:
        add = functools.partial(
            jax.tree.map, lambda g, extra: g + hyper.lesson_coef * extra
        )
        sender = add(sender, lesson["sender"])
        receiver = add(receiver, lesson["receiver"])
    started = (state.iteration >= hyper.critic_first).astype(jnp.float32)
    trained = hyper.train_sender * started
    return {
        "sender": jax.tree.map(lambda g: trained * g, sender),
        "receiver": receiver,
        "value": jax.tree.map(lambda g: hyper.train_sender * g, grads["value"]),
    }


def teach(params, lesson, *, networks, axis_name=None):
    """Gradients of −mean log π(target | source) of both agents: S2P's supervised loss.

    Gupta et al. 2019 and Lu et al. 2020 (S2P): supervised learning on human
    translations alongside self-play. Each mean is over the tokens of the agent's batch.

    Args: params {"sender", "receiver", ...}; lesson: this device's rows. Returns
    ({"sender", "receiver"} gradients, metrics), both global.
    """

    def one(agent, model, pairs):
        tokens = (pairs.target_mask != 0).sum().astype(jnp.float32)
        if axis_name is not None:
            tokens = jax.lax.psum(tokens, axis_name)

        def loss(weights):
            logps = messages.logps(model, weights, *pairs[:4])
            return -masking.mean(logps, pairs.target_mask, count=tokens)

        return jax.value_and_grad(loss)(params[agent])

    sender_loss, sender = one("sender", networks.sender, lesson.sender)
    receiver_loss, receiver = one("receiver", networks.receiver, lesson.receiver)
    grads = {"sender": sender, "receiver": receiver}
    shares = grads, {"lesson/sender": sender_loss, "lesson/receiver": receiver_loss}
    return shares if axis_name is None else jax.lax.psum(shares, axis_name)


def finish(state, hyper):
    """Ends a step: EMA tick and step counter. Resets are the caller's, by `reset`.

    With decay 1 the EMA is constant, and its weights are neither read nor written.
    """
    elastic = jax.lax.cond(
        jnp.asarray(hyper.decay) < 1.0,
        lambda elastic: elastic_reset.tick(
            agents(state.learner.params), elastic, decay=hyper.decay
        ),
        lambda elastic: elastic,
        state.elastic,
    )
    return state._replace(elastic=elastic, iteration=state.iteration + 1)


def reset(state, hyper):
    """Resets the sender, and with `reset_receiver` the receiver too.

    The critic, the optimiser's moments and the counters are kept. If the receiver is
    not reset, neither is its EMA.
    """
    params = state.learner.params
    before, elastic = agents(params), state.elastic
    after, moved = elastic_reset.apply(
        before,
        elastic,
        target=hyper.reset_target,
        weight=hyper.reset_weight,
        reset_average=hyper.reset_average,
    )
    both = jnp.asarray(hyper.reset_receiver)
    after["receiver"] = trees.where(both, after["receiver"], before["receiver"])
    average = {
        "sender": moved.average["sender"],
        "receiver": trees.where(
            both, moved.average["receiver"], elastic.average["receiver"]
        ),
    }
    learner = state.learner._replace(params={**params, **after})
    return state._replace(learner=learner, elastic=moved._replace(average=average))
