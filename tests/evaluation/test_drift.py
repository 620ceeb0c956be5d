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
def test_totals_of_a_bigram_model_are_exact(rng, length):
    table, logps = _bigram(rng)
    text = rng.integers(V, size=length)
    expected = -np.log(table[text[:-1], text[1:]])
    totals, counts = drift.strided_totals(logps, text, window=8, stride=4, batch=3)
    assert counts.sum() == length - 1
    assert totals.sum() == pytest.approx(expected.sum(), rel=1e-12)


def test_totals_are_those_of_each_window(rng):
    table, logps = _bigram(rng)
    text = rng.integers(V, size=10)  # windows score tokens 1–7 and 8–9
    nll = -np.log(table[text[:-1], text[1:]])
    totals, counts = drift.strided_totals(logps, text, window=8, stride=4, batch=3)
    np.testing.assert_allclose(totals, [nll[:7].sum(), nll[7:].sum()], rtol=1e-12)
    assert counts.tolist() == [7, 2]


def test_a_text_of_one_token_has_no_window(rng):
    _, logps = _bigram(rng)
    totals, counts = drift.strided_totals(logps, [1], window=8, stride=4, batch=3)
    assert not len(totals) and not len(counts)
