"""best_of_n: estimates against enumeration, ties counted, the bound against KL."""

import itertools
import math

import numpy as np
import pytest
from checks import close

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
