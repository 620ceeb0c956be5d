"""Why averages of models may beat both of them: Proposition 5.1 of Lin et al. 2023.

Arrays and random numbers of its own (arXiv:2309.06256, section 5): a model votes with n
features, each of which names the right one of K classes, or, with probability p, any
class at random. Two models of similar tasks share n_o features, and their average
counts these twice.
"""

import numpy as np
import pytest

K, P, N, DRAWS = 4, 0.99, 10_000, 40_000


def noise(seed):
    """ε ~ N(0, M) with M_ii = p(K + 2 − pK)/K, M_ij = p(K + 1 − pK)/K: [draws, K−1]."""
    common, own = P * (K + 1 - P * K) / K, P / K
    M = common + own * np.eye(K - 1)
    return np.random.default_rng(seed).multivariate_normal(np.zeros(K - 1), M, DRAWS)


def wins(mean, noise):
    """Draws in which the right class has the most votes; F_p is their share."""
    return (mean + noise > 0).all(1)


def gain(n_o, noise):
    """ξ of similar tasks over ξ of disjoint ones, draw by draw."""
    both = np.sqrt(2) * (1 - P) * N / np.sqrt(N + n_o)
    return wins(both, noise).astype(float) - wins((1 - P) * np.sqrt(N), noise)


def standard_error(draws):
    return np.std(draws) / np.sqrt(len(draws))


def test_the_gain_falls_with_what_is_shared_and_ends_at_0():
    draws = noise(0)
    gains = [gain(share * N, draws) for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    means = [x.mean() for x in gains]
    assert means[-1] == 0.0 and min(means) >= 0.0
    assert all(np.diff(means) < 0)
    assert means[0] > 4 * standard_error(gains[0])


def votes(features, rng):
    """Votes of so many features: how far the right class, 0, is before the others."""
    right = 1 - P + P / K
    counts = rng.multinomial(features, [right, *[P / K] * (K - 1)], size=DRAWS)
    return counts[:, :1] - counts[:, 1:]


def accuracy(margins):
    """Ties are drawn: the right class is one of those that lead."""
    ties = (margins == 0).sum(1)
    return np.where((margins >= 0).all(1), 1.0 / (1 + ties), 0.0)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_voting_models_are_as_accurate_as_the_proposition_says(share):
    """A simulation of the models themselves, and none of the formula's parts."""
    rng, n_o = np.random.default_rng(1), int(share * N)
    shared, one, other = (votes(n, rng) for n in (n_o, N - n_o, N - n_o))
    alone, average = accuracy(shared + one), accuracy(2 * shared + one + other)
    draws = noise(2)
    both = np.sqrt(2) * (1 - P) * N / np.sqrt(N + n_o)
    for simulated, mean in ((alone, (1 - P) * np.sqrt(N)), (average, both)):
        predicted = wins(mean, draws)
        error = np.hypot(standard_error(simulated), standard_error(predicted))
        assert abs(simulated.mean() - predicted.mean()) < 4 * error
    difference = average - alone
    if share == 1.0:  # the two models are one
        assert not difference.any()
    else:
        assert difference.mean() > 4 * standard_error(difference)
