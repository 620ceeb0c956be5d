"""Best of n: a policy that answers with the best of n samples of another one.

It trains nothing, and is a point on the front of reward against drift. All of it is
read off N ≥ 4n samples a prompt. Numpy; M prompts, N samples of each.
"""

import math

import numpy as np
from scipy import special


def weights(scores, n):
    """w_i: the probability that sample i is the best of n of its prompt's N samples.

    n of the N are drawn without replacement; equals share. With c(≤) and c(<) the
    numbers of samples that score no more, and less, than i,

        w_i = (C(c(≤), n) − C(c(<), n)) / C(N, n) / (c(≤) − c(<)),

    so that Σ_i w_i·f_i is an unbiased estimate of E[f(best of n)], of less variance
    than one draw (Nakano et al. 2021, "WebGPT", arXiv:2112.09332, for f the score).

    Args: scores [M, N]; 1 ≤ n ≤ N. Returns [M, N] float64, rows summing to 1.
    """
    less, most = _ranks(scores, n)
    total = special.comb(np.shape(scores)[1], n)
    return (special.comb(most, n) - special.comb(less, n)) / total / (most - less)


def ties(scores, n):
    """The probability that the best of n is not alone: another one scores the same.

    Samples that are the same score the same, so duplicates count. Where it passes a few
    per cent best of n is less than it says, and the KL bound far from the KL.

    Args as in `weights`. Returns [M].
    """
    less, most = _ranks(scores, n)
    alone = special.comb(less, n - 1) / special.comb(np.shape(scores)[1], n)
    return np.maximum(1.0 - alone.sum(-1), 0.0)  # a sum of shares, to rounding


def kl_bound(n):
    """log n − (n − 1)/n ≥ KL(best of n ‖ π₀), nats a sample.

    It is met where no two samples score the same; with few possible answers the
    divergence is smaller. Beirami et al. 2024, "Theoretical guarantees on the best-of-n
    alignment policy", arXiv:2401.01879.
    """
    if n < 1:
        raise ValueError(f"n={n}: the best of at least 1 sample is meant")
    return math.log(n) - (n - 1) / n


def _ranks(scores, n):
    """How many of the row score less than each, and no more than each: [M, N] twice."""
    scores = np.asarray(scores, np.float64)
    if not 1 <= n <= scores.shape[1]:
        raise ValueError(
            f"the best of n={n} cannot be read off {scores.shape[1]} samples a prompt; "
            "draw more"
        )
    ordered = np.sort(scores, axis=-1)
    less, most = np.empty(scores.shape), np.empty(scores.shape)
    for i, (row, values) in enumerate(zip(ordered, scores, strict=True)):
        less[i] = np.searchsorted(row, values, side="left")
        most[i] = np.searchsorted(row, values, side="right")
    return less, most
