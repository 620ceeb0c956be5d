"""Filters of a sampler: by hand, against float64, and as `transformers` has them."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import filters, sampling

V = 50
GOLDEN = pathlib.Path(__file__).parent / "golden" / "filters.npz"


@pytest.fixture
def logits(rng):
    return jnp.array(3 * rng.normal(size=(16, V)), jnp.float32)


def probabilities(logits):
    weights = np.exp(np.asarray(logits, np.float64))
    return weights / weights.sum(-1, keepdims=True)


def test_a_penalty_by_hand():
    logits, seen = jnp.array([[1.0, -1.0, 3.0, 0.0]]), jnp.array([[1, 1, 0, 1]], bool)
    left = filters.repetition_penalty(logits, seen, penalty=2.0)
    np.testing.assert_array_equal(left, [[0.5, -2.0, 3.0, 0.0]])


def test_a_penalty_lowers_what_was_seen_and_a_reward_raises_it(logits, rng):
    seen = rng.random(logits.shape) < 0.3
    lower, higher = (
        np.asarray(filters.repetition_penalty(logits, seen, penalty=penalty) - logits)
        for penalty in (1.5, 0.5)
    )
    assert (lower[seen] < 0).all() and (higher[seen] > 0).all()
    assert not lower[~seen].any() and not higher[~seen].any()


def test_a_penalty_is_the_formula_in_float64(logits, rng):
    seen = rng.random(logits.shape) < 0.5
    expected = np.array(logits, np.float64)
    for row, token in zip(*np.nonzero(seen), strict=True):
        scale = 1.7 if expected[row, token] < 0 else 1 / 1.7
        expected[row, token] *= scale
    left = filters.repetition_penalty(logits, seen, penalty=1.7)
    np.testing.assert_allclose(left, expected, rtol=1e-5, atol=1e-6)


def test_top_k_by_hand_keeps_what_is_tied_with_the_last():
    kept = filters.top_k(jnp.array([[1.0, 4.0, 2.0, 2.0, 0.0]]), 2)
    np.testing.assert_array_equal(kept, [[False, True, True, True, False]])


@pytest.mark.parametrize("count", [1, 7, V - 1])
def test_top_k_keeps_the_largest(logits, count):
    kept = np.asarray(filters.top_k(logits, count))
    for row, mask in zip(np.asarray(logits), kept, strict=True):
        assert set(np.flatnonzero(mask)) == set(np.argsort(-row)[:count])


@pytest.mark.parametrize("count", [1, 24, 25, 26, V - 1])
def test_top_k_is_exact_for_ties_zeros_of_both_signs_and_what_was_excluded(rng, count):
    logits = rng.normal(size=(6, V)).astype(np.float32)
    logits[0] = np.round(logits[0])
    logits[1, 25:] = -np.inf
    logits[2], logits[3] = np.abs(logits[2]), -np.abs(logits[3])
    logits[4, ::2], logits[4, 1::2] = 0.0, -0.0
    least = np.sort(logits)[:, [-count]]
    np.testing.assert_array_equal(
        filters.top_k(jnp.array(logits), count), logits >= least
    )


@pytest.mark.parametrize("count", [0, V, V + 1])
def test_top_k_of_none_or_of_all_keeps_all(logits, count):
    assert filters.top_k(logits, count).all()


def nucleus(row, top_p):
    """Ids of the smallest set of largest probabilities that reaches top_p."""
    kept, mass, weights = set(), 0.0, probabilities(row)
    for token in np.argsort(-weights):
        if mass >= top_p:
            break
        kept.add(int(token))
        mass += weights[token]
    return kept


def test_a_nucleus_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.125, 0.125]]))
    for top_p, count in ((0.5, 1), (0.6, 2), (0.8, 4)):  # the last two are tied
        assert filters.nucleus(logits, top_p).sum() == count
    assert filters.nucleus(logits, 0.5, least=2).sum() == 2


@pytest.mark.parametrize("top_p", [1e-6, 0.3, 0.8, 0.99])
def test_a_nucleus_is_the_smallest_set_that_reaches_it(logits, top_p):
    for row, mask in zip(logits, filters.nucleus(logits, top_p), strict=True):
        assert set(np.flatnonzero(mask)) == nucleus(row, top_p)


def test_min_p_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.3, 0.11, 0.09]]))
    np.testing.assert_array_equal(filters.min_p(logits, 0.2), [[1, 1, 1, 0]])
    np.testing.assert_array_equal(filters.min_p(logits, 1.0), [[1, 0, 0, 0]])
    assert filters.min_p(logits, 0.0).all()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_min_p_compares_probabilities_in_float64(logits, share):
    weights = probabilities(logits)
    expected = weights >= share * weights.max(-1, keepdims=True)
    np.testing.assert_array_equal(filters.min_p(logits, share), expected)


@pytest.mark.parametrize(
    "kept",
    [
        lambda x: filters.top_k(x, 5),
        lambda x: filters.nucleus(x, 0.7),
        lambda x: filters.min_p(x, 0.1),
    ],
    ids=["top_k", "nucleus", "min_p"],
)
def test_a_filter_keeps_the_likeliest_and_does_not_care_for_order_or_scale(
    logits, rng, kept
):
    mask, order = kept(logits), rng.permutation(V)
    assert mask[jnp.arange(len(logits)), logits.argmax(-1)].all()
    np.testing.assert_array_equal(kept(logits[:, order]), mask[:, order])
    np.testing.assert_array_equal(kept(logits + 2.0), mask)


def test_filters_together_are_those_of_transformers_in_its_order():
    golden = np.load(GOLDEN)
    logits, prompts, valid = golden["logits"], golden["prompts"], golden["mask"]
    seen = np.zeros(logits.shape, bool)
    for row, token in zip(*np.nonzero(valid), strict=True):
        seen[row, prompts[row, token]] = True
    cases = json.loads(str(golden["cases"]))
    for case, expected in zip(cases, golden["left"], strict=True):
        config = sampling.Config(max_new_tokens=1, **case)
        left = sampling.filtered(jnp.array(logits), config=config, seen=seen)
        np.testing.assert_allclose(left, expected, rtol=1e-6, err_msg=str(case))
