"""best_of_n: estimates against enumeration, ties counted, the bound against KL."""

import fractions
import itertools
import math

import checks
import numpy as np
import pytest
from checks import close
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.evaluation import best_of_n

N = 6


def enumerated(scores, n):
    """(weights, probability of a tie at the top) over every choice of n samples."""
    weights, tied = np.zeros(len(scores)), 0
    subsets = list(itertools.combinations(range(len(scores)), n))
    for subset in subsets:
        best = max(scores[i] for i in subset)
        top = [i for i in subset if scores[i] == best]
        weights[top] += 1 / len(top)
        tied += len(top) > 1
    return weights / len(subsets), tied / len(subsets)


@pytest.mark.parametrize("n", range(1, N + 1))
def test_weights_and_ties_are_those_of_every_draw(rng, n):
    scores = rng.integers(0, 3, (4, N)).astype(np.float32)
    result, tied = best_of_n.weights(scores, n), best_of_n.ties(scores, n)
    for row, weights, share in zip(scores, result, tied, strict=True):
        expected = enumerated(row, n)
        close(weights, expected[0], rtol=1e-12)
        close(share, expected[1], rtol=1e-12, atol=1e-12)


def test_weights_by_hand():
    """Best of 2 of three: the largest in two draws of three, the middle in one."""
    close(best_of_n.weights([[5.0, 1.0, 3.0]], 2), [[2 / 3, 0, 1 / 3]])
    close(best_of_n.weights([[5.0, 5.0, 3.0]], 2), [[0.5, 0.5, 0]])
    close(best_of_n.weights([[2.0, 7.0]], 1), [[0.5, 0.5]])
    close(best_of_n.ties([[5.0, 5.0, 3.0]], 2), [1 / 3])
    assert (best_of_n.ties([[1.0, 2.0, 3.0]], 2) == 0).all()


def test_the_estimate_is_unbiased_for_draws_with_replacement(rng):
    """Averaged over batches it is E[max of n independent draws], within 4 errors."""
    batches, n = 4000, 3
    scores = rng.exponential(size=(batches, 12))
    estimates = (best_of_n.weights(scores, n) * scores).sum(-1)
    expected = sum(1 / k for k in range(1, n + 1))  # of n exponentials
    error = estimates.std() / np.sqrt(batches)
    assert abs(estimates.mean() - expected) < 4 * error
    assert estimates.std() < scores[:, :n].max(-1).std()


def test_the_order_of_samples_does_not_matter(rng):
    scores, order = rng.normal(size=(2, N)), rng.permutation(N)
    turned = best_of_n.weights(scores[:, order], 3)
    close(turned, best_of_n.weights(scores, 3)[:, order], rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 4, 16])
def test_the_bound_is_met_where_no_two_score_the_same(n):
    """Of V equally likely answers with scores of their own KL goes to it as V grows,
    from below."""
    before = -1.0
    for size in (4, 64, 4096):
        rank = np.arange(1, size + 1) / size
        policy = rank**n - (rank - 1 / size) ** n
        divergence = (policy * np.log(np.maximum(policy * size, 1e-300))).sum()
        assert before <= divergence + 1e-12 <= best_of_n.kl_bound(n) + 2e-12
        before = divergence
    close(before, best_of_n.kl_bound(n), rtol=0, atol=2e-3)


def test_the_bound_by_hand():
    assert best_of_n.kl_bound(1) == 0.0
    close(best_of_n.kl_bound(4), math.log(4) - 0.75)


def test_more_than_there_are_is_refused():
    for n in (0, 7):
        with pytest.raises(
            ValueError, match=f"n={n} cannot be estimated from 6 samples"
        ):
            best_of_n.weights(np.zeros((2, N)), n)
    with pytest.raises(ValueError, match="n=0: needs to be at least 1"):
        best_of_n.kl_bound(0)


@pytest.mark.parametrize(
    "n, expected",
    [
        (2, 0.193), (4, 0.636), (8, 1.204), (16, 1.835), (32, 2.497), (64, 3.175),
        (128, 3.860), (256, 4.549), (512, 5.240), (1024, 5.932), (12_500, 8.434),
        (60_000, 10.002),
    ],
)  # fmt: skip
def test_the_bound_is_that_of_the_table(n, expected):
    """The largest n of Coste et al. 2023 is 12,500, that of Gao et al. 2022 60,000."""
    assert abs(best_of_n.kl_bound(n) - expected) < 5.01e-4


def test_weights_keep_their_digits_where_binomials_overflow():
    size, n = 3000, 400
    exact = [
        float(fractions.Fraction(math.comb(i - 1, n - 1), math.comb(size, n)))
        for i in range(n, size + 1, 37)
    ]
    found = best_of_n.weights(np.arange(size)[None], n)[0, n - 1 :: 37]
    close(found, exact, rtol=1e-10, atol=1e-300)


def test_the_best_of_60_000_of_a_million():
    """E[rank of the best] = n·(N + 1)/(n + 1)."""
    size, n = 10**6, 60_000
    scores = np.arange(size)[None]
    found = best_of_n.weights(scores, n)
    close(found.sum(), 1.0, rtol=1e-12)
    close((found * (scores + 1)).sum(), n * (size + 1) / (n + 1), rtol=1e-12)
    assert best_of_n.ties(scores, n) == pytest.approx(0, abs=1e-12)
    pairs = best_of_n.weights(scores // 2, n)
    close(pairs[0, -2:], found[0, -2:].mean(), rtol=1e-12)


@pytest.mark.parametrize(
    "size, n, exact, bound, estimate",
    [
        (8, 16, 1.6799, 1.8351, 1.7033),
        (64, 256, 4.0682, 4.5491, 4.0770),
        (8, 64, 2.0776, 3.1745, 2.0778),
    ],
)
def test_divergences_of_equally_likely_answers(size, n, exact, bound, estimate):
    p = np.full(size, 1 / size)
    assert best_of_n.kl_exact(p, np.arange(size), n) == pytest.approx(exact, abs=5e-5)
    assert best_of_n.kl_bound(n) == pytest.approx(bound, abs=5e-5)
    assert best_of_n.kl_estimate(1 / size, n) == pytest.approx(estimate, abs=5e-5)


def drawn(p, scores, n):
    """q by enumeration of every sequence of n draws, ties broken at random."""
    q = np.zeros(len(p))
    for draw in itertools.product(range(len(p)), repeat=n):
        best = max(scores[i] for i in draw)
        top = [i for i in draw if scores[i] == best]
        for i in top:
            q[i] += math.prod(p[j] for j in draw) / len(top)
    return q


@pytest.mark.parametrize("n", [1, 2, 5])
def test_the_exact_divergence_is_that_of_every_draw(rng, n):
    p = rng.dirichlet(np.ones(4))
    for scores in ([3.0, 1.0, 2.0, 0.0], [1.0, 1.0, 0.0, 2.0], [5.0] * 4):
        q = drawn(p, scores, n)
        expected = (q * np.log(q / p)).sum()
        close(best_of_n.kl_exact(p, scores, n), expected, rtol=1e-10, atol=1e-12)


@checks.examples
@given(checks.floats(6, 2**-6, 1), checks.floats(6, -2, 2), st.integers(1, 2000))
def test_the_exact_divergence_is_between_0_and_its_bounds(raw, scores, n):
    p = raw.astype(np.float64) / raw.sum(dtype=np.float64)
    found = best_of_n.kl_exact(p, scores, n)
    assert -1e-9 <= found <= best_of_n.kl_bound(n) + 1e-9
    top = p[scores == scores.max()].sum()
    assert found <= -np.log(top) + 1e-9
    order = np.arange(6)[::-1]
    close(best_of_n.kl_exact(p[order], scores[order], n), found, rtol=1e-9, atol=1e-12)


def test_divergences_at_their_ends():
    rare = best_of_n.kl_exact([1e-12, 1 - 1e-12], [1.0, 0.0], 1000)
    close(rare, 1e-9 * (np.log(1000) - 1), rtol=1e-3, atol=0)
    close(best_of_n.kl_exact([0.0, 1.0], [5.0, 0.0], 4), 0.0)
    close(best_of_n.kl_exact([0.5, 0.5], [1.0, 0.0], 10**6), np.log(2))
    close(best_of_n.kl_estimate([0.0, 1e-300, 1.0], 16), [1.8350887, 1.8350887, 0.0])
    close(best_of_n.kl_estimate([0.0, 0.3, 1.0], 1), np.zeros(3), atol=1e-12)


def test_what_is_no_distribution_is_refused():
    with pytest.raises(ValueError, match="sums to 0.5"):
        best_of_n.kl_exact([0.25, 0.25], [0.0, 1.0], 2)
    with pytest.raises(ValueError, match="1 scores NaN"):
        best_of_n.kl_exact([0.5, 0.5], [0.0, np.nan], 2)
    with pytest.raises(ValueError, match=r"p must lie in \[0, 1\]"):
        best_of_n.kl_estimate([1.5], 2)
    for divergence in (best_of_n.kl_estimate, lambda p, n: best_of_n.kl_exact(p, p, n)):
        with pytest.raises(ValueError, match="n=0: needs to be at least 1"):
            divergence([1.0], 0)
    with pytest.raises(ValueError, match="prompt 1, sample 0 is NaN"):
        best_of_n.weights([[0.0, 1.0], [np.nan, 1.0]], 2)
