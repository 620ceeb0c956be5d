import math

import numpy as np
import pytest

from rlhf_jax.evaluation import drift

V = 7


def test_perplexity_is_inf_where_floats_overflow():
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
    result = drift.strided_nll(logps, text, window=8, stride=4, batch=3)
    assert result == pytest.approx(expected, rel=1e-12)


def test_window_weights_are_the_mean_of_window_means(rng):
    table, logps = _bigram(rng)
    text = rng.integers(V, size=10)  # windows score tokens 1–7 and 8–9
    nll = -np.log(table[text[:-1], text[1:]])
    result = drift.strided_nll(
        logps, text, window=8, stride=4, batch=3, weight="windows"
    )
    assert result == pytest.approx((nll[:7].mean() + nll[7:].mean()) / 2, rel=1e-12)


def test_strided_nll_of_nothing_is_nan(rng):
    _, logps = _bigram(rng)
    assert math.isnan(drift.strided_nll(logps, [1], window=8, stride=4, batch=3))


def test_unknown_weights_are_refused(rng):
    _, logps = _bigram(rng)
    options = {"window": 8, "stride": 4, "batch": 3, "weight": "rows"}
    with pytest.raises(ValueError, match="rows"):
        drift.strided_nll(logps, rng.integers(V, size=9), **options)
