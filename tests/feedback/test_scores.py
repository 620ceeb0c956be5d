"""Log-probs of whole labels and d-RLAIF's score, from token ids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models

from rlhf_jax.feedback import scores
from rlhf_jax.models import config, decoder

V, P = 23, 8
MODEL = decoder.Decoder(
    config.llama(vocab_size=V, width=16, layers=2, heads=4, kv_heads=2, max_length=32)
)
LABELS = ((3,), (4, 5, 6), (7,), (3, 8))  # the last begins with the first


@pytest.fixture(scope="module")
def params():
    return tiny_models.draw(MODEL)


@pytest.fixture(scope="module")
def full(params):
    """ids → log-probs [T, V] of a full forward pass of one row, float64."""
    forward = tiny_models.compiled(MODEL)

    def read(ids):
        row = np.zeros((1, 32), np.int32)
        row[0, : len(ids)] = ids
        logits = np.asarray(forward(params, row, np.arange(32)[None] < len(ids)))
        logits = logits[0, : len(ids)].astype(np.float64)
        peak = logits.max(-1, keepdims=True)
        return logits - peak - np.log(np.exp(logits - peak).sum(-1, keepdims=True))

    return read


def chances(full, ids, labels=LABELS):
    """p of each label after ids: its tokens, but not those of a longer label."""
    logps = []
    for label in labels:
        table = full([*ids, *label])[len(ids) - 1 :]
        logps.append(sum(table[k, token] for k, token in enumerate(label)))
    p = np.exp(logps)
    if labels is LABELS:
        p[0] -= p[3]
    return p


@pytest.fixture
def prompts(rng):
    """Left-padded prompts of 8, 3 and 1 tokens."""
    tokens = rng.integers(0, V, (3, P)).astype(np.int32)
    return tokens, (np.arange(P) >= P - np.array([[8], [3], [1]])).astype(np.int32)


@pytest.mark.parametrize("common", [0, 5])
def test_log_probs_are_those_of_a_full_forward_pass(params, full, prompts, common):
    before = list(range(10, 10 + common))
    prefix = None
    if common:
        read = tiny_models.compiled(MODEL, "prefix")
        prefix = read(params, jnp.array([before]))
    program = jax.jit(scores.make_scores(MODEL, LABELS))
    logps, outside = program(params, prefix, prompts)
    for k, (row, valid) in enumerate(zip(*prompts, strict=True)):
        expected = chances(full, before + row[valid != 0].tolist())
        np.testing.assert_allclose(logps[k], np.log(expected), atol=1e-4, rtol=0)
        np.testing.assert_allclose(outside[k], 1 - expected.sum(), atol=1e-5)


def test_single_tokens_are_read_at_the_last_position_only(params, prompts):
    """Of logits there are as many as of rows, whatever the length of prompts."""
    program = scores.make_scores(MODEL, ((3,), (4,)))
    shapes = {
        tuple(out.aval.shape)
        for equation in jax.make_jaxpr(program)(params, None, prompts).eqns
        for out in equation.outvars
    }
    assert (3, V) in shapes
    assert not [s for s in shapes if len(s) > 2 and s[-1] == V]


def test_ids_under_the_mask_change_nothing(params, prompts):
    program = jax.jit(scores.make_scores(MODEL, LABELS))
    tokens, mask = prompts
    junk = np.where(mask == 0, V + 9, tokens)
    for clean, dirty in zip(
        program(params, None, prompts), program(params, None, (junk, mask)), strict=True
    ):
        np.testing.assert_array_equal(clean, dirty)


def test_a_rating_is_the_expected_score_of_the_wrapped_rollout(params, full, rng):
    labels = (*((i,) for i in range(1, 10)), (1, 0))
    tokens = rng.integers(0, V, (2, 6)).astype(np.int32)
    mask = np.array([[0, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1]], np.int32)
    preamble, ending = (20, 21, 22), [11, 12]

    def wrap(tokens, mask):
        after = jnp.broadcast_to(jnp.array([ending]), (len(tokens), 2))
        valid = jnp.concatenate([mask, jnp.ones_like(after)], 1)
        tokens = jnp.concatenate([tokens, after], 1)
        room = ((0, 0), (0, 3))  # a rollout may be padded on both sides
        return jnp.pad(tokens, room), jnp.pad(valid, room)

    score = jax.jit(scores.make_rating(MODEL, labels, wrap, preamble=preamble))
    rewards = score(params, tokens, mask)
    for k in range(2):
        ids = [*preamble, *tokens[k][mask[k] != 0].tolist(), *ending]
        p = chances(full, ids, labels)
        p[0] -= p[9]
        expected = ((p / p.sum()) @ np.arange(1, 11) - 5.5) / 4.5
        np.testing.assert_allclose(rewards[k], expected, atol=1e-5)


def test_rows_are_padded_on_the_left_in_their_order():
    tokens = np.array([[1, 2, 0, 0], [5, 6, 7, 8], [0, 3, 4, 0]])
    moved, mask = scores.left_padded(tokens, (tokens != 0).astype(int))
    expected = [[0, 0, 1, 2], [5, 6, 7, 8], [0, 0, 3, 4]]
    np.testing.assert_array_equal(moved, expected)
    np.testing.assert_array_equal(mask, np.array(expected) != 0)
