"""ensembles: combinations of members, their limits and their order."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import ensembles

COMBINE = {
    "mean": ensembles.mean,
    "worst": ensembles.worst,
    "uncertainty": lambda s: ensembles.uncertainty(s, weight=0.5),
    "lower": ensembles.lower,
    "disagreement": ensembles.disagreement,
    "entropic": lambda s: ensembles.entropic(s, beta=0.7),
    "combined": lambda s: ensembles.combined(s, beta=0.7, weight=0.5),
}


@pytest.fixture
def scores(rng):
    return rng.normal(size=(5, 8)).astype(np.float32)


def test_ensembles_by_hand():
    scores = np.array([[1.0, -2.0], [3.0, -2.0]])
    np.testing.assert_array_equal(ensembles.mean(scores), [2, -2])
    np.testing.assert_array_equal(ensembles.worst(scores), [1, -2])
    np.testing.assert_array_equal(ensembles.uncertainty(scores, weight=0.5), [1.5, -2])
    np.testing.assert_array_equal(ensembles.lower(scores, k=2.0), [0, -2])
    both = ensembles.combined(scores, beta=np.inf, weight=0.5)
    np.testing.assert_array_equal(both, [1.5, -2])
    np.testing.assert_array_equal(ensembles.disagreement(scores), [1, 0])
    # Two members at 0 and log 3 with β = 1: −log((1 + 1/3)/2) = log 1.5.
    pair = np.array([[0.0], [np.log(3.0)]])
    close(ensembles.entropic(pair, beta=1.0), [np.log(1.5)], 1e-6)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
def test_ensembles_are_numpy_in_float64(scores, weight):
    wide = scores.astype(np.float64)
    close(ensembles.mean(scores), wide.mean(0), 1e-5, 1e-6)
    close(ensembles.worst(scores), wide.min(0))
    close(ensembles.disagreement(scores), wide.std(0), 1e-5, 1e-6)
    less = wide.mean(0) - weight * wide.var(0)
    close(ensembles.uncertainty(scores, weight=weight), less, 1e-5, 1e-6)
    close(ensembles.combined(scores, beta=np.inf, weight=weight), less, 1e-5, 1e-6)
    low = wide.mean(0) - weight * wide.std(0)
    close(ensembles.lower(scores, k=weight), low, 1e-5, 1e-6)


@pytest.mark.parametrize("beta", [1e-3, 0.1, 1.0, 30.0, 1e4])
def test_entropic_is_the_float64_formula(scores, beta):
    wide = scores.astype(np.float64)
    low = wide.min(0)
    exact = low - beta * np.log(np.exp((low - wide) / beta).mean(0))
    close(ensembles.entropic(scores, beta=beta), exact, 1e-5, 2e-6)


def test_entropic_ends_are_the_minimum_and_the_mean_bit_for_bit(scores):
    soft = jax.jit(ensembles.entropic)
    ends = {0.0: ensembles.worst, np.inf: ensembles.mean}
    for beta, end in ends.items():
        np.testing.assert_array_equal(soft(scores, beta=beta), jax.jit(end)(scores))
    close(soft(scores, beta=1e-30), scores.min(0), 1e-6)
    close(soft(scores, beta=1e30), scores.mean(0), 1e-5, 1e-6)


def test_entropic_is_the_mean_less_half_the_variance_over_beta(scores):
    """What is left out falls as 1/β²: by 16 where β is four times as large."""
    wide = scores.astype(np.float64)

    def remainder(beta):
        second = wide.mean(0) - wide.var(0) / (2 * beta)
        return np.abs(ensembles.entropic(scores, beta=beta) - second).max()

    assert remainder(40.0) < remainder(10.0) / 12 < 1e-3


@examples
@given(checks.floats((3, 4)), st.floats(0.01, 50), st.floats(1.01, 10))
def test_entropic_grows_with_beta_from_the_minimum_to_the_mean(scores, beta, factor):
    less = np.asarray(ensembles.entropic(scores, beta=beta))
    more = np.asarray(ensembles.entropic(scores, beta=beta * factor))
    assert (scores.min(0) <= less + 1e-5).all()
    assert (less <= more + 1e-5).all()
    assert (more <= scores.mean(0) + 1e-5).all()


@examples
@given(checks.floats((3, 4)), st.permutations(range(3)))
def test_members_may_be_permuted(scores, order):
    for combine in COMBINE.values():
        close(combine(scores[list(order)]), combine(scores), 1e-5, 1e-5)


def test_members_that_agree_are_the_ensemble(scores):
    alike = np.repeat(scores[:1], 3, axis=0)
    for name, combine in COMBINE.items():
        expected = 0 * scores[0] if name == "disagreement" else scores[0]
        close(combine(alike), expected, 1e-5, 1e-6)


def test_a_nan_of_one_member_is_not_swallowed(scores):
    scores[2, 3] = np.nan
    for name, combine in COMBINE.items():
        assert list(np.flatnonzero(np.isnan(combine(scores)))) == [3], name


def test_strengths_are_traced(scores):
    traces = []

    @jax.jit
    def combine(scores, weight, beta):
        traces.append(1)
        soft = ensembles.entropic(scores, beta=beta)
        return soft - ensembles.uncertainty(scores, weight=weight)

    for strength in (0.0, 0.5, jnp.inf):
        combine(scores, 0.5, strength)
    assert len(traces) == 1
