"""Measurements of a policy, against a table of logits read by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from rlhf_jax import sampling
from rlhf_jax.benchmarks import programs
from rlhf_jax.evaluation import policy
from rlhf_jax.runtime import parallel
from rlhf_jax.studies.task import Answers
from rlhf_jax.types import Prompts, Tokens

ROWS, PROMPT, NEW = 12, 3, 5
GREEDY = sampling.Config(
    max_new_tokens=NEW, temperature=0.0, eos_ids=(tiny.EOS,), pad_id=tiny.PAD
)


@pytest.fixture(scope="module")
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def table(rng):
    table = rng.normal(size=(tiny.VOCAB, tiny.VOCAB)).astype(np.float32)
    table[:, tiny.PAD] = -20  # never written
    table[:, tiny.EOS] -= 20 * (np.arange(tiny.VOCAB) < 8)  # some answers end
    return table


@pytest.fixture(scope="module")
def params(table):
    return {"table": jnp.asarray(table)}


@pytest.fixture(scope="module")
def logps(table):
    return table - np.log(np.exp(table).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def written(params, rng):
    """Questions and what greedy decoding answers."""
    tokens = rng.integers(2, tiny.VOCAB, (ROWS, PROMPT)).astype(np.int32)
    prompts = Prompts(tokens, np.ones_like(tokens))
    keys = jax.vmap(jax.random.key)(np.arange(ROWS, dtype=np.uint32))
    out = sampling.generate(tiny.BIGRAM, params, prompts, keys, config=GREEDY)
    return Answers(*map(np.array, (out.tokens, out.mask, out.response_mask)))


def test_what_greedy_decoding_writes_is_right(params, logps, written):
    right, total = policy.make_answers(tiny.BIGRAM)(params, written)
    assert right.all()
    expected = [
        sum(logps[row[PROMPT + t - 1], row[PROMPT + t]] for t in range(NEW) if valid[t])
        for row, valid in zip(written.tokens, written.response_mask, strict=True)
    ]
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    assert 0 < (written.response_mask.sum(1) < NEW).sum() < ROWS  # some end early


def test_one_other_token_makes_an_answer_wrong(params, written):
    tokens = written.tokens.copy()
    last = PROMPT + written.response_mask.sum(1) - 1
    wrong = np.arange(ROWS) % 3 == 0
    where = np.flatnonzero(wrong), last[wrong]
    tokens[where] = 2 + (tokens[where] - 1) % (tiny.VOCAB - 2)
    right, _ = policy.make_answers(tiny.BIGRAM)(params, written._replace(tokens=tokens))
    np.testing.assert_array_equal(right, ~wrong)


def test_what_is_after_the_answer_does_not_count(params, written):
    tokens = np.where(written.mask != 0, written.tokens, 7)
    one, two = (
        policy.make_answers(tiny.BIGRAM)(params, data)
        for data in (written, written._replace(tokens=tokens))
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_nll_of_text_counts_its_targets_alone(params, logps, rng):
    tokens = rng.integers(2, tiny.VOCAB, (4, 6)).astype(np.int32)
    targets = (rng.random((4, 6)) < 0.5).astype(np.int32)
    text = Tokens(tokens, np.ones_like(tokens), targets)
    nll, count = policy.make_text_nll(tiny.BIGRAM)(params, text)
    each = -logps[tokens[:, :-1], tokens[:, 1:]] * targets[:, 1:]
    np.testing.assert_allclose(nll, each.sum(1), rtol=1e-5)
    np.testing.assert_array_equal(count, targets[:, 1:].sum(1))


def test_continuations_are_read_like_answers(params, written):
    starts = np.arange(PROMPT + NEW) >= PROMPT
    text = Tokens(written.tokens, written.mask, written.mask * starts)
    found = programs.score(tiny.BIGRAM, params, text, layout=parallel.data(1))
    expected = policy.make_answers(tiny.BIGRAM)(params, written)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], rtol=1e-6)


def test_divergence_and_entropy_are_exact_at_every_state(params, logps, written, rng):
    other = {"table": params["table"] + rng.normal(size=params["table"].shape)}
    compare = policy.make_compare(tiny.BIGRAM, config=GREEDY)
    divergence, entropy = compare(params, other, written)
    there = other["table"]
    there = there - np.log(np.exp(there).sum(-1, keepdims=True))
    p = np.exp(logps)
    at = written.tokens[:, PROMPT - 1 : -1]
    valid = written.response_mask
    kl = ((p * (logps - there)).sum(-1)[at] * valid).sum(1)
    np.testing.assert_allclose(divergence, kl, rtol=1e-4)
    surprise = (-(p * logps).sum(-1)[at] * valid).sum(1)
    np.testing.assert_allclose(entropy, surprise, rtol=1e-4)
    same, _ = compare(params, params, written)
    np.testing.assert_allclose(same, 0, atol=1e-5)


def test_halves_weigh_rows_by_their_tokens():
    values, weights = np.array([1.0, 2.0, 3.0, 8.0]), np.array([1, 1, 3, 1])
    assert policy.halves(values) == (3.5, 2.0, 5.0)
    assert policy.halves(values, weights) == (14 / 6, 1.0, 5.0)


def test_a_single_row_is_both_halves():
    assert policy.halves([3.0]) == (3.0, 3.0, 3.0)
    assert policy.halves([6.0], [2.0]) == (3.0, 3.0, 3.0)
