"""messages: what is said, how it is heard, and how likely it is."""

import functools

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_game
from checks import close

from rlhf_jax import masking, sampling
from rlhf_jax.algorithms.translation_game import messages
from rlhf_jax.types import Pairs

EOS, PAD = tiny_game.EOS, tiny_game.PAD


@functools.cache
def program(**changes):
    config = sampling.Config(
        max_new_tokens=4, eos_ids=(EOS,), pad_id=PAD, **dict(changes)
    )
    speak = functools.partial(messages.speak, tiny_game.NETWORKS.sender, config=config)
    return jax.jit(speak)


def speak(params, batch, **changes):
    keys = sampling.row_keys(jax.random.key(3), batch.row_ids)
    return program(**changes)(params, batch.source, batch.source_mask, keys)


def test_every_message_heard_ends_and_otherwise_equals_the_draw():
    batch = tiny_game.batch(rows=32, blank=0)
    said = speak(tiny_game.params()["sender"], batch)
    assert 0 < said.ended.mean() < 1  # both kinds occur
    for drawn, heard, mask, ended in zip(*map(np.asarray, said), strict=True):
        length = mask.sum()
        assert heard[length - 1] == EOS and (heard[length:] == PAD).all()
        assert (heard[: length - 1] == drawn[: length - 1]).all()
        assert ended == (drawn[length - 1] == EOS)
        assert EOS not in drawn[: length - 1]


def test_a_message_without_an_end_token_is_refused():
    config = sampling.Config(max_new_tokens=4)
    with pytest.raises(ValueError, match="needs an end token"):
        messages.speak(None, None, None, None, None, config=config)


def test_close_by_hand():
    tokens = jnp.array([[5, 6, 7], [5, EOS, 0], [0, 0, 0]])
    mask = jnp.array([[1, 1, 1], [1, 1, 0], [0, 0, 0]])
    ended = jnp.array([False, True, False])
    closed = messages.close(tokens, mask, ended, end=EOS)
    assert closed.tolist() == [[5, 6, EOS], [5, EOS, 0], [0, 0, 0]]


def test_close_is_the_loop_and_leaves_what_ended(rng):
    tokens = rng.integers(4, 9, (6, 5)).astype(np.int32)
    lengths, ended = rng.integers(1, 6, 6), rng.integers(0, 2, 6) == 1
    mask = (np.arange(5) < lengths[:, None]).astype(np.int32)
    expected = tokens.copy()
    for row, (length, done) in enumerate(zip(lengths, ended, strict=True)):
        if not done:
            expected[row, length - 1] = EOS
    closed = messages.close(jnp.asarray(tokens), mask, jnp.asarray(ended), end=EOS)
    np.testing.assert_array_equal(closed, expected)


def test_logps_are_those_of_the_draw():
    batch = tiny_game.batch(rows=32, blank=0)
    sender, weights = tiny_game.NETWORKS.sender, tiny_game.params()["sender"]
    config = sampling.Config(max_new_tokens=4, eos_ids=(EOS,), pad_id=PAD)
    keys = sampling.row_keys(jax.random.key(3), batch.row_ids)

    @jax.jit
    def both():
        source = batch.source, batch.source_mask
        drawn = sampling.generate(
            sender, weights, messages.Prompts(*source), keys, config=config
        )
        said = drawn.tokens[:, -4:], drawn.response_mask
        return drawn.logps, messages.logps(sender, weights, *source, *said)

    drawn, result = both()
    close(result, drawn, 1e-5, 1e-5)


def _uniform(rows=3, tokens=4, vocab=8):
    class Uniform:
        def apply(self, variables, source, source_mask, target, target_mask):
            return jnp.zeros((*target.shape, vocab))

    mask = checks.ragged(rows, tokens)
    pairs = np.full((rows, tokens), 5, np.int32)
    return Uniform(), Pairs(pairs, mask, pairs, mask)


def test_logps_and_loss_of_a_sender_that_knows_nothing():
    model, pairs = _uniform()
    result = messages.logps(model, {}, *pairs[:4])
    close(result, -np.log(8) * pairs.target_mask)
    loss = messages.make_loss(model)
    value, metrics = loss({}, pairs, messages.count(pairs))
    close(value, np.log(8))
    assert metrics["nll"] == value


@functools.cache
def likelihood():
    """(value and gradient of the mean log-prob, as a compiled function of a batch)."""
    sender = tiny_game.NETWORKS.sender

    def loss(params, batch):
        return messages.make_loss(sender)(params, batch, messages.count(batch))[0]

    return jax.jit(jax.value_and_grad(loss))


def pairs(rows=4):
    rng = np.random.default_rng(5)
    sides = (
        tiny_game.sentences(rng, rows, 5, n)
        for n in (tiny_game.FRENCH, tiny_game.ENGLISH)
    )
    return Pairs(*(x for side in sides for x in side))


def test_junk_reaches_neither_value_nor_gradient():
    clean, params = pairs(), tiny_game.params()["sender"]
    expected = likelihood()(params, clean)
    for junk in (10**6, -1, 7):
        dirty = clean._replace(
            source=np.where(clean.source_mask, clean.source, junk),
            target=np.where(clean.target_mask, clean.target, junk),
        )
        checks.same(likelihood()(params, dirty), expected)


def test_the_loss_is_the_mean_over_all_target_tokens():
    batch, params = pairs(), tiny_game.params()["sender"]
    result = jax.jit(
        functools.partial(messages.logps, tiny_game.NETWORKS.sender, params)
    )(*batch[:4])
    result = np.asarray(result, np.float64)
    total, tokens = 0.0, 0
    for row, length in zip(result, batch.target_mask.sum(-1), strict=True):
        total, tokens = total - row[:length].sum(), tokens + length
    close(likelihood()(params, batch)[0], total / tokens, 1e-5, 1e-6)


def test_a_step_along_the_gradient_makes_translations_likelier():
    batch, params = pairs(), tiny_game.params()["sender"]
    before, grads = likelihood()(params, batch)
    moved = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    assert likelihood()(moved, batch)[0] < before


def test_dropout_is_drawn_for_each_row_from_its_key():
    model = tiny_game.translator(tiny_game.FRENCH, tiny_game.ENGLISH, dropout=0.5)
    params, plain = tiny_game.params()["sender"], pairs()
    data = jax.random.key_data(sampling.row_keys(jax.random.key(0), np.arange(4)))

    @jax.jit
    def rows(batch):
        return jax.vmap(messages._dropout_logps, (None, None, 0))(model, params, batch)

    result = rows(plain._replace(keys=data))
    again = rows(plain._replace(keys=data))
    np.testing.assert_array_equal(result, again)
    turned = jax.tree.map(lambda x: x[::-1], plain._replace(keys=data))
    close(rows(turned)[::-1], result, 1e-6, 1e-6)
    other = rows(plain._replace(keys=data[::-1]))
    assert (np.asarray(other) != np.asarray(result)).any()
    assert not np.asarray(result)[plain.target_mask == 0].any()


def test_sentence_means_by_hand():
    mask = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 0]])
    values = np.array([[1.0, 2.0, np.nan], [4.0, np.inf, 9.0], [np.nan] * 3])
    close(messages.sentence_means(jnp.asarray(values), mask), [1.5, 4.0, 0.0])


def test_evenly_weighs_every_sentence_alike(rng):
    mask = checks.ragged()
    values = rng.normal(size=mask.shape).astype(np.float32)
    rows = [row[m == 1].mean() for row, m in zip(values, mask, strict=True) if m.any()]
    weights = messages.evenly(mask)
    close(masking.mean(values, weights, count=len(rows)), np.mean(rows), 1e-6, 1e-6)
    close(weights.sum(-1), mask.any(-1).astype(np.float32))
