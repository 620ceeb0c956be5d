import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.evaluation import drift

B, T, V = 6, 5, 7


@pytest.fixture
def batch(rng):
    logits = rng.normal(size=(B, T, V)).astype(np.float32)
    mask = (np.arange(T) < rng.integers(1, T + 1, size=(B, 1))).astype(np.int32)
    return jnp.array(logits), jnp.array(rng.integers(V, size=(B, T))), jnp.array(mask)


def _nll_loop(logits, tokens, mask):
    """−log softmax at each valid token, one by one in float64."""
    values = []
    for b, t in zip(*np.nonzero(np.asarray(mask)), strict=True):
        row = np.asarray(logits[b, t], np.float64)
        values.append(np.log(np.exp(row).sum()) - row[int(tokens[b, t])])
    return values


def test_uniform_logits_have_perplexity_v():
    total = drift.text_nll(
        jnp.zeros((2, 3, V)), jnp.ones((2, 3), jnp.int32), jnp.ones((2, 3))
    )
    assert total.count == 6
    assert drift.perplexity(drift.mean(total)) == pytest.approx(V, rel=1e-6)


def test_text_nll_agrees_with_a_loop(batch):
    values = _nll_loop(*batch)
    total = drift.text_nll(*batch)
    np.testing.assert_allclose(total.total, sum(values), rtol=1e-5)
    assert total.count == len(values)


def test_kl_is_the_sum_over_tokens_averaged_over_samples(batch, rng):
    policy, _, mask = batch
    initial = jnp.array(rng.normal(size=(B, T, V)), jnp.float32)
    p = np.exp(np.asarray(jax.nn.log_softmax(policy), np.float64))
    q = np.exp(np.asarray(jax.nn.log_softmax(initial), np.float64))
    rows = ((p * np.log(p / q)).sum(-1) * np.asarray(mask)).sum(-1)
    total = drift.kl(policy, initial, mask)
    assert drift.mean(total) == pytest.approx(rows.mean(), rel=1e-5)


def test_kl_of_a_policy_with_itself_is_zero(batch):
    logits, _, mask = batch
    assert drift.mean(drift.kl(logits, logits, mask)) == 0.0


def test_empty_rows_are_no_samples(batch):
    policy, _, mask = batch
    longer = mask.at[2:].set(0)
    full = drift.kl(policy[:2], policy[:2] * 0.5, mask[:2])
    padded = drift.kl(policy, policy * 0.5, longer)
    assert padded.count == full.count == 2
    np.testing.assert_allclose(padded.total, full.total, rtol=1e-6)


@pytest.mark.parametrize("junk", [1e4, np.inf, np.nan])
def test_what_stands_at_ignored_positions_does_not_matter(batch, junk):
    logits, tokens, mask = batch
    spoiled = jnp.where(mask[..., None] != 0, logits, junk)
    assert drift.text_nll(spoiled, tokens, mask) == drift.text_nll(logits, tokens, mask)
    assert drift.kl(spoiled, logits * 0.5, mask) == drift.kl(logits, logits * 0.5, mask)


def test_totals_over_devices_are_those_of_the_whole_batch(batch):
    split = jax.tree.map(lambda x: x.reshape(2, B // 2, *x.shape[1:]), batch)
    over = functools.partial(drift.text_nll, axis_name="data")
    parts = jax.vmap(over, axis_name="data")(*split)
    whole = drift.text_nll(*batch)
    np.testing.assert_allclose(parts.total, [whole.total] * 2, rtol=1e-5)
    np.testing.assert_array_equal(parts.count, [whole.count] * 2)


def test_ragged_batches_add_up_to_the_whole(batch):
    def measure(rows):
        return {"nll": drift.text_nll(*(x[rows] for x in batch))}

    batches = [slice(0, 1), slice(1, 5), slice(5, 6)]
    expected = np.mean(_nll_loop(*batch))
    assert drift.over_batches(measure, batches)["nll"] == pytest.approx(expected, 1e-6)
    assert drift.over_batches(measure, []) == {}


def test_nothing_counted_is_nan():
    assert math.isnan(drift.mean(drift.Total(0.0, 0.0)))


def test_perplexity_ends_where_floats_do():
    assert drift.perplexity(0.0) == 1.0
    assert drift.perplexity(1e4) == math.inf


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 12, 13, 40, 41])
@pytest.mark.parametrize(("window", "stride"), [(8, 4), (8, 3), (8, 7), (2, 1)])
def test_windows_score_every_token_but_the_first_once(length, window, stride):
    plan = drift.windows(length, window=window, stride=stride)
    scored = [i for _, end, first in plan for i in range(first, end)]
    assert scored == list(range(1, length))
    for begin, end, first in plan:
        assert end - begin <= window
        assert begin < first
        # Once the text fills a window, enough of it stands before what is scored.
        assert begin == 0 or first - begin >= window - stride


def test_windows_at_the_papers_setting():
    assert drift.windows(1800) == [(0, 1024, 1), (512, 1536, 1024), (1024, 1800, 1536)]


@pytest.mark.parametrize("stride", [0, 8, 9])
def test_a_stride_that_skips_tokens_is_refused(stride):
    with pytest.raises(ValueError, match="stride"):
        drift.windows(20, window=8, stride=stride)


def _bigram(rng):
    """A model whose log-probabilities need one token of context only."""
    table = rng.dirichlet(np.ones(V), size=V)

    def logps(tokens, mask):
        assert tokens.shape == mask.shape == (3, 8)
        values = np.log(table[tokens[:, :-1], tokens[:, 1:]])
        return np.concatenate([np.full((3, 1), np.nan), values], 1)

    return table, logps


@pytest.mark.parametrize("length", [2, 8, 9, 30, 61])
def test_strided_nll_of_a_bigram_model_is_exact(rng, length):
    table, logps = _bigram(rng)
    text = rng.integers(V, size=length)
    expected = -np.log(table[text[:-1], text[1:]]).mean()
    found = drift.strided_nll(logps, text, window=8, stride=4, batch=3)
    assert found == pytest.approx(expected, rel=1e-12)


def test_window_weights_are_the_mean_of_window_means(rng):
    table, logps = _bigram(rng)
    text = rng.integers(V, size=10)  # windows score tokens 1–7 and 8–9
    nll = -np.log(table[text[:-1], text[1:]])
    found = drift.strided_nll(
        logps, text, window=8, stride=4, batch=3, weight="windows"
    )
    assert found == pytest.approx((nll[:7].mean() + nll[7:].mean()) / 2, rel=1e-12)


def test_strided_nll_of_nothing_is_nan(rng):
    _, logps = _bigram(rng)
    assert math.isnan(drift.strided_nll(logps, [1], window=8, stride=4, batch=3))


def test_unknown_weights_are_refused(rng):
    _, logps = _bigram(rng)
    options = {"window": 8, "stride": 4, "batch": 3, "weight": "rows"}
    with pytest.raises(ValueError, match="rows"):
        drift.strided_nll(logps, rng.integers(V, size=9), **options)
