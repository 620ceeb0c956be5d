"""sft: the likelihood of the targets, of no other token, and learning it."""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from checks import close

from rlhf_jax import optim, training
from rlhf_jax.algorithms import sft
from rlhf_jax.types import Tokens

LENGTH = tiny.PROMPT + tiny.NEW
CONFIG = optim.Config(max_grad_norm=None)


def texts(seed=0, rows=tiny.ROWS):
    """Texts padded on either side, of which the second half or so is learned."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(2, tiny.VOCAB, (rows, LENGTH)).astype(np.int32)
    starts, stops = rng.integers(0, 3, rows), rng.integers(5, LENGTH + 1, rows)
    slot = np.arange(LENGTH)
    mask = ((slot >= starts[:, None]) & (slot < stops[:, None])).astype(np.int32)
    return Tokens(tokens, mask, mask * (slot >= 4))


@functools.cache
def gradient(model):
    """(params, batch) -> ((loss, metrics), gradients), compiled."""
    return jax.jit(
        jax.value_and_grad(
            lambda params, batch: sft.make_loss(model)(params, batch, sft.count(batch)),
            has_aux=True,
        )
    )


def test_uniform_logits_cost_the_log_of_the_vocabulary():
    params = {"table": jnp.zeros((tiny.VOCAB, tiny.VOCAB))}
    (value, metrics), _ = gradient(tiny.BIGRAM)(params, texts())
    close(value, np.log(tiny.VOCAB))
    close(metrics["nll"], np.log(tiny.VOCAB))


def test_the_loss_is_the_loop_over_targets():
    params, batch = tiny.policy_params(), texts()
    table = np.asarray(params["table"], np.float64)
    logps = table - np.log(np.exp(table).sum(-1, keepdims=True))
    costs, hits = [], []
    for row, t in zip(*np.nonzero(batch.target_mask), strict=True):
        before, token = batch.tokens[row, t - 1], batch.tokens[row, t]
        costs.append(-logps[before, token])
        hits.append(table[before].argmax() == token)
    (value, metrics), _ = gradient(tiny.BIGRAM)(params, batch)
    close(value, np.mean(costs), rtol=1e-5)
    close(metrics["accuracy"], np.mean(hits), rtol=1e-5)
    assert sft.count(batch) == len(costs)


def test_the_first_token_of_a_row_has_nothing_before_it():
    """It is no target even where the mask says so: nothing predicts it."""
    batch = texts()
    everything = batch._replace(
        mask=np.ones_like(batch.mask), target_mask=np.ones_like(batch.mask)
    )
    assert sft.count(everything) == tiny.ROWS * (LENGTH - 1)


def test_the_gradient_is_softmax_less_one_hot_over_the_count():
    params, batch = tiny.policy_params(), texts()
    table = np.asarray(params["table"], np.float64)
    chances = np.exp(table) / np.exp(table).sum(-1, keepdims=True)
    expected = np.zeros_like(table)
    for row, t in zip(*np.nonzero(batch.target_mask), strict=True):
        before, token = batch.tokens[row, t - 1], batch.tokens[row, t]
        expected[before] += chances[before]
        expected[before, token] -= 1
    _, grads = gradient(tiny.BIGRAM)(params, batch)
    close(grads["table"], expected / batch.target_mask.sum(), rtol=1e-4, atol=1e-6)


def test_padding_on_either_side_changes_nothing():
    """Bit for bit, on a real network, which could look at it."""
    params, batch = tiny.policy_params(tiny.DECODER), texts()
    clean = gradient(tiny.DECODER)(params, batch)
    other = np.where(batch.mask == 1, batch.tokens, (batch.tokens + 3) % tiny.VOCAB)
    checks.same(gradient(tiny.DECODER)(params, batch._replace(tokens=other)), clean)


def test_no_targets_are_no_loss_and_no_gradient():
    params = tiny.policy_params()
    batch = texts()._replace(target_mask=np.zeros((tiny.ROWS, LENGTH), np.int32))
    (value, _), grads = gradient(tiny.BIGRAM)(params, batch)
    assert value == 0 and not grads["table"].any()


def test_more_padding_changes_nothing():
    params, batch = tiny.policy_params(), texts()
    wider = jax.tree.map(lambda x: np.pad(x, ((0, 0), (0, 2))), batch)
    close(
        sft.make_loss(tiny.BIGRAM)(params, wider, sft.count(wider))[0],
        gradient(tiny.BIGRAM)(params, batch)[0][0],
    )


# At a rate of 0.1 what a real model ends with hangs on its gradients' last bits.
@pytest.mark.parametrize(
    ("model", "rate"),
    [(tiny.BIGRAM, 0.1), (tiny.DECODER, 0.03)],
    ids=["bigram", "real"],
)
def test_fifty_steps_learn_a_successor(model, rate):
    """Every token is followed by the next id: sure, so the likelihood goes to 1."""
    tokens = (np.arange(LENGTH) + np.arange(tiny.ROWS)[:, None]) % tiny.VOCAB
    ones = np.ones_like(tokens, np.int32)
    batch = Tokens(tokens.astype(np.int32), ones, ones)
    tx = optim.transformation(CONFIG)
    step = jax.jit(
        training.make_step(sft.make_loss(model), tx, config=CONFIG, count=sft.count)
    )
    hyper = training.Hyper(jnp.float32(rate), jnp.int32(50))
    state = training.init(tiny.policy_params(model), tx)
    costs = []
    for _ in range(50):
        state, metrics = step(state, batch, hyper)
        costs.append(float(metrics["nll"]))
    assert costs[0] > 1.5 and costs[-1] < 0.3
    assert metrics["accuracy"] > 0.9
