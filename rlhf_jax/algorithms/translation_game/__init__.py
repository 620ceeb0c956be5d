"""The pivot-translation game: a sender and a receiver who share only a language.

    French → sender → English message → receiver → German, scored by its likelihood

Both are rewarded for the German alone, so that nothing but their start keeps the
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
    "Batch",
    "Config",
    "Hyper",
    "Lesson",
    "Networks",
    "State",
    "agents",
    "finish",
    "init",
    "reset",
    "speak",
    "step",
    "teach",
]


def step(state, batch, hyper, lesson=None, *, networks, tx, config, axis_name=None):
    """One round and one update of both agents and the critic.

    Args: batch of this device; lesson: None, or gradients of `teach`, that
    `hyper.lesson_coef` weighs. The reward comes from the receiver as it was before the
    update. Returns (state, metrics), metrics global scalars.
    """
    params = state.learner.params
    counts = play.count(batch, axis_name=axis_name)
    message = speak(state, batch, networks=networks, config=config)
    hear = functools.partial(play.listen, networks=networks)
    (heard, rewards), to_receiver = jax.value_and_grad(hear, has_aux=True)(
        params["receiver"], message, batch, counts
    )
    elastic = state.elastic
    learn = functools.partial(play.persuade, networks=networks)
    (_, named), grads = jax.value_and_grad(learn, has_aux=True)(
        {"sender": params["sender"], "value": params["value"]},
        (elastic.initial["sender"], elastic.average["sender"]),
        message,
        batch,
        rewards,
        counts,
        hyper,
    )
    named = {**named, **play.describe(message, batch, rewards, counts)}
    shares = {**grads, "receiver": to_receiver}, {**named, "loss/receiver": heard}
    if axis_name is not None:  # losses are shares of global means: they add up
        shares = jax.lax.psum(shares, axis_name)
    grads, named = shares
    grads = _weighed(grads, lesson, state, hyper)
    rate = optim.learning_rate(
        config.optimizer,
        state.learner.updates,
        peak=hyper.learning_rate,
        total=hyper.total_updates,
    )
    rates = {"sender": hyper.sender_rate * rate, "receiver": rate, "value": rate}
    learner, extra = training.apply(state.learner, grads, tx, rate=rates)
    state, ending = finish(state._replace(learner=learner), hyper)
    return state, {
        **named,
        "optim/grad_norm": extra["grad_norm"],
        "optim/learning_rate": rate,
        "optim/skipped": learner.skipped.astype(jnp.float32),
        **ending,
    }


def speak(state, batch, *, networks, config):
    """This step's messages: row i draws by fold_in(fold_in(key, step), row_id)."""
    key = jax.random.fold_in(state.key, state.iteration)
    return messages.speak(
        networks.sender,
        state.learner.params["sender"],
        batch.source,
        batch.source_mask,
        sampling.row_keys(key, batch.row_ids),
        config=config.sampling,
    )


def _weighed(grads, lesson, state, hyper):
    """The gradients of all losses, each with its coefficient."""
    pull = jax.grad(regularizers.l2)(
        state.learner.params["sender"], state.elastic.initial["sender"]
    )
    sender = jax.tree.map(lambda g, p: g + hyper.l2_coef * p, grads["sender"], pull)
    receiver = jax.tree.map(lambda g: hyper.receiver_coef * g, grads["receiver"])
    if lesson is not None:
        taught = functools.partial(
            jax.tree.map, lambda g, extra: g + hyper.lesson_coef * extra
        )
        sender = taught(sender, lesson["sender"])
        receiver = taught(receiver, lesson["receiver"])
    begun = (state.iteration >= hyper.critic_first).astype(jnp.float32)
    moves = hyper.train_sender * begun
    return {
        "sender": jax.tree.map(lambda g: moves * g, sender),
        "receiver": receiver,
        "value": jax.tree.map(lambda g: hyper.train_sender * g, grads["value"]),
    }


def teach(params, lesson, *, networks, axis_name=None):
    """Gradients of −mean log π(target | source) of both agents: S2P's second loss.

    Gupta et al. 2019 and Lu et al. 2020 (S2P): supervised learning beside self-play, of
    text that people translated. Each mean is over the tokens of its own batch.

    Args: params {"sender", "receiver", ...}; lesson: this device's part. Returns
    ({"sender", "receiver"} gradients, metrics), both global.
    """

    def one(agent, model, pairs):
        tokens = (pairs.target_mask != 0).sum().astype(jnp.float32)
        if axis_name is not None:
            tokens = jax.lax.psum(tokens, axis_name)

        def loss(weights):
            found = messages.logps(model, weights, *pairs[:4])
            return -masking.mean(found, pairs.target_mask, count=tokens)

        return jax.value_and_grad(loss)(params[agent])

    told, to_sender = one("sender", networks.sender, lesson.sender)
    heard, to_receiver = one("receiver", networks.receiver, lesson.receiver)
    grads = {"sender": to_sender, "receiver": to_receiver}
    shares = grads, {"lesson/sender": told, "lesson/receiver": heard}
    return shares if axis_name is None else jax.lax.psum(shares, axis_name)


def finish(state, hyper):
    """The end of a step: EMA tick, reset where one is due, the clock.

    With decay 1 the EMA stands still, and its weights are neither read nor written.
    """
    elastic = jax.lax.cond(
        jnp.asarray(hyper.decay) < 1.0,
        lambda elastic: elastic_reset.tick(
            agents(state.learner.params), elastic, decay=hyper.decay
        ),
        lambda elastic: elastic,
        state.elastic,
    )
    due = elastic_reset.due(state.iteration, every=hyper.reset_every)
    state = jax.lax.cond(
        due,
        lambda state: reset(state, hyper),
        lambda state: state,
        state._replace(elastic=elastic),
    )
    state = state._replace(iteration=state.iteration + 1)
    return state, {"reset/reset": due.astype(jnp.float32)}


def reset(state, hyper):
    """The reset itself: the sender, and with `reset_receiver` the receiver too.

    Critic, moments and clocks stay as they are. Where the receiver is not reset, its
    EMA goes on.
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
