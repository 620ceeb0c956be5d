"""reward_model: pairs and labels, against loops, and learning both."""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from checks import close

from rlhf_jax import optim, training
from rlhf_jax.algorithms import reward_model
from rlhf_jax.models import heads
from rlhf_jax.types import Labelled, Preferences

LENGTH = tiny.PROMPT + tiny.NEW
CONFIG = optim.Config(max_grad_norm=None)
REWARD = heads.Classifier(tiny.DECODER.config, 1)
CLASSES = heads.Classifier(tiny.DECODER.config, 3)


class Bag:
    """Scores [B, C] that add up over the valid tokens. Params {"table": [V, C]}."""

    def apply(self, variables, tokens, mask):
        rows = variables["params"]["table"][tokens]
        return (rows * jnp.expand_dims(mask, -1)).sum(1)


BAG = Bag()


def bag_params(classes=1):
    table = np.random.default_rng(5).normal(size=(tiny.VOCAB, classes))
    return {"table": jnp.asarray(0.3 * table, jnp.float32)}


def side(seed):
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, tiny.VOCAB, (tiny.ROWS, LENGTH)).astype(np.int32)
    lengths = rng.integers(2, LENGTH + 1, tiny.ROWS)
    return tokens, (np.arange(LENGTH) < lengths[:, None]).astype(np.int32)


def pairs(preference=None):
    chosen, chosen_mask = side(0)
    rejected, rejected_mask = side(1)
    if preference is None:
        preference = np.linspace(0.0, 1.0, tiny.ROWS)
    preference = np.broadcast_to(np.float32(preference), (tiny.ROWS,))
    return Preferences(chosen, chosen_mask, rejected, rejected_mask, preference)


def bag_scores(params, tokens, mask):
    table = np.asarray(params["table"], np.float64)
    return (table[tokens] * mask[..., None]).sum(1)


def pair_loss(params, batch, **settings):
    loss = reward_model.make_pair_loss(BAG, **settings)
    return jax.jit(loss)(params, batch, reward_model.count(batch))


@functools.cache
def fitted(kind, steps=50):
    """(model, params, metrics first and last) of a real network fitted in 50 steps."""
    model = REWARD if kind == "pairs" else CLASSES
    make, batch = {
        "pairs": (reward_model.make_pair_loss, pairs(1.0)),
        "labels": (reward_model.make_label_loss, labelled()),
    }[kind]
    head = heads.init_head(model, jax.random.key(1))
    params = heads.from_decoder(tiny.policy_params(tiny.DECODER), head)
    tx = optim.transformation(CONFIG)
    step = training.make_step(make(model), tx, config=CONFIG, count=reward_model.count)
    step, state = jax.jit(step), training.init(params, tx)
    hyper = training.Hyper(jnp.float32(2e-2), jnp.int32(steps))
    history = []
    for _ in range(steps):
        state, metrics = step(state, batch, hyper)
        history.append(jax.device_get(metrics))
    return model, state.params, history


def labelled():
    tokens, mask = side(0)
    labels = np.arange(tiny.ROWS, dtype=np.int32) % 3
    return Labelled(tokens, mask, labels)


# Pairs.


def test_equal_texts_cost_log_2_and_are_half_right():
    batch = pairs(1.0)
    same = batch._replace(rejected=batch.chosen, rejected_mask=batch.chosen_mask)
    value, metrics = pair_loss(bag_params(), same)
    close(value, np.log(2.0))
    close(metrics["accuracy"], 0.5)
    assert metrics["margin"] == 0


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_soft_labels_are_the_loop_over_pairs(margin):
    params, batch = bag_params(), pairs()
    gaps = (
        bag_scores(params, batch.chosen, batch.chosen_mask)
        - bag_scores(params, batch.rejected, batch.rejected_mask)
    )[:, 0]
    right = 1 / (1 + np.exp(-(gaps - margin)))
    p = np.asarray(batch.preference, np.float64)
    expected = -(p * np.log(right) + (1 - p) * np.log1p(-right))
    value, metrics = pair_loss(params, batch, margin=margin)
    close(value, expected.mean(), rtol=1e-5)
    close(metrics["loss"], expected.mean(), rtol=1e-5)
    close(metrics["margin"], gaps.mean(), rtol=1e-5)
    agree = np.where(p == 0.5, 0.5, (gaps > 0) == (p > 0.5))
    close(metrics["accuracy"], agree.mean())


def test_a_pair_and_its_mirror_cost_the_same():
    params, batch = bag_params(), pairs()
    turned = Preferences(
        batch.rejected,
        batch.rejected_mask,
        batch.chosen,
        batch.chosen_mask,
        1 - batch.preference,
    )
    value, metrics = pair_loss(params, batch)
    mirrored, others = pair_loss(params, turned)
    close(mirrored, value)
    close(others["margin"], -metrics["margin"])


def test_both_sides_of_a_pair_see_the_same_network():
    """The mask decides where a text is read: what is behind its end changes nothing."""
    model, params, _ = fitted("pairs")
    batch = pairs(1.0)
    loss = jax.jit(reward_model.make_pair_loss(model))
    clean = loss(params, batch, reward_model.count(batch))
    dirty = batch._replace(
        chosen=np.where(batch.chosen_mask, batch.chosen, 7),
        rejected=np.where(batch.rejected_mask, batch.rejected, 9),
    )
    checks.same(loss(params, dirty, reward_model.count(dirty)), clean)


# Labels.


def test_labels_are_the_loop_over_rows():
    params, batch = bag_params(3), labelled()
    scores = bag_scores(params, batch.tokens, batch.mask)
    logps = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    expected = -logps[np.arange(tiny.ROWS), batch.labels].mean()
    loss = jax.jit(reward_model.make_label_loss(BAG))
    value, metrics = loss(params, batch, reward_model.count(batch))
    close(value, expected, rtol=1e-5)
    close(metrics["loss"], expected, rtol=1e-5)
    close(metrics["accuracy"], (scores.argmax(-1) == batch.labels).mean())


def test_equal_scores_cost_the_log_of_the_classes():
    params = {"table": jnp.zeros((tiny.VOCAB, 3))}
    batch = labelled()
    value, _ = reward_model.make_label_loss(BAG)(
        params, batch, reward_model.count(batch)
    )
    close(value, np.log(3.0))


def test_rows_are_counted():
    assert reward_model.count(pairs()) == tiny.ROWS == reward_model.count(labelled())
    assert reward_model.count(labelled()).dtype == jnp.float32


# Scores.


def test_the_score_is_the_scalar_and_the_probability_the_softmax():
    tokens, mask = side(0)
    params = bag_params()
    score = reward_model.score(BAG)(params, tokens, mask)
    assert score.shape == (tiny.ROWS,)
    close(score, bag_scores(params, tokens, mask)[:, 0], rtol=1e-5, atol=1e-6)
    params = bag_params(3)
    chances = [
        reward_model.probability(BAG, label=label)(params, tokens, mask)
        for label in range(3)
    ]
    close(sum(chances), np.ones(tiny.ROWS), rtol=1e-5)
    scores = np.exp(bag_scores(params, tokens, mask))
    close(chances[1], (scores / scores.sum(-1, keepdims=True))[:, 1], rtol=1e-5)


# Learning.


@pytest.mark.parametrize("kind", ["pairs", "labels"])
def test_fifty_steps_separate_the_texts(kind):
    _, _, history = fitted(kind)
    assert history[0]["loss"] > 0.4 and history[-1]["loss"] < 0.1
    assert history[-1]["accuracy"] == 1.0


def test_a_fitted_reward_model_scores_the_chosen_above_the_rejected():
    model, params, _ = fitted("pairs")
    batch, score = pairs(1.0), jax.jit(reward_model.score(model))
    chosen = score(params, batch.chosen, batch.chosen_mask)
    assert (chosen > score(params, batch.rejected, batch.rejected_mask)).all()
