"""Best of n: a policy that returns the best of n samples of another policy.

It needs no training and is a point on the reward–drift front. Everything is estimated
from N ≥ 4n samples per prompt. Numpy; M prompts, N samples each.
"""

import math

import numpy as np
from scipy import special


def weights(scores, n):
    """w_i: the probability that sample i is the best of n of its prompt's N samples.

    The n are drawn without replacement, and ties share. With c(≤) and c(<) the numbers
    of samples that score at most as much as i, and less than i,

        w_i = (C(c(≤), n) − C(c(<), n)) / C(N, n) / (c(≤) − c(<)).

    Σ_i w_i·f_i is an unbiased estimate of E[f(best of n)] with less variance than a
    single draw (Nakano et al. 2021, "WebGPT", arXiv:2112.09332, for f the score).

    Args: scores [M, N]; 1 ≤ n ≤ N. Returns [M, N] float64; rows sum to 1.
    """
    less, most = _ranks(scores, n)
    total = special.comb(np.shape(scores)[1], n)
    return (special.comb(most, n) - special.comb(less, n)) / total / (most - less)


def ties(scores, n):
    """The probability that the best of n is tied with another sample.

    Duplicates are tied too. Above a few per cent, the effective n is smaller than n and
    the KL bound far from the KL.

    Args as in `weights`. Returns [M].
    """
    less, most = _ranks(scores, n)
    alone = special.comb(less, n - 1) / special.comb(np.shape(scores)[1], n)
    return np.maximum(1.0 - alone.sum(-1), 0.0)  # the sum may be rounded above 1


def kl_bound(n):
    """log n − (n − 1)/n ≥ KL(best of n ‖ π₀), in nats per sample.

    Equality holds if no two samples score the same; with few possible answers the KL is
    smaller. Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment
    policy", arXiv:2401.01879.
    """
    if n < 1:
        raise ValueError(f"n={n}: needs to be at least 1")
    return math.log(n) - (n - 1) / n


def _ranks(scores, n):
    """For each sample, how many of its row score less, and how many at most as much."""
    scores = np.asarray(scores, np.float64)
    if not 1 <= n <= scores.shape[1]:
        raise ValueError(
            f"the best of n={n} cannot be estimated from {scores.shape[1]} samples per "
            "prompt; draw more"
        )
    ordered = np.sort(scores, axis=-1)
    less, most = np.empty(scores.shape), np.empty(scores.shape)
    for i, (row, values) in enumerate(zip(ordered, scores, strict=True)):
        less[i] = np.searchsorted(row, values, side="left")
        most[i] = np.searchsorted(row, values, side="right")
    return less, most
