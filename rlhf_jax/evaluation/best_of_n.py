"""Best of n: a policy that returns the best of n samples of another policy.

It needs no training and is a point on the reward–drift front. Everything is estimated
from N ≥ 4n samples per prompt. Numpy; M prompts, N samples each.
"""

import math

import numpy as np


def weights(scores, n):
    """w_i: the probability that sample i is the best of n of its prompt's N samples.

    The n are drawn without replacement, and ties share. With c(≤) and c(<) the numbers
    of samples that score at most as much as i, and less than i,

        w_i = (C(c(≤), n) − C(c(<), n)) / C(N, n) / (c(≤) − c(<)).

    Σ_i w_i·f_i is an unbiased estimate of E[f(best of n)] with less variance than a
    single draw (Nakano et al. 2021, "WebGPT", arXiv:2112.09332, for f the score).

    Args: scores [M, N]; 1 ≤ n ≤ N. Returns [M, N] float64; rows sum to 1.
    Raises ValueError for another n, and for scores that are NaN.
    """
    scores = _checked(scores, n)
    by_rank = _by_rank(scores.shape[1], n)
    result = np.empty(scores.shape)
    for i, row in enumerate(scores):
        start, count, level = _levels(row)
        result[i] = (np.add.reduceat(by_rank, start) / count)[level]
    return result


def ties(scores, n):
    """The probability that the best of n is tied with another sample.

    Duplicates are tied too. Above a few per cent, the effective n is smaller than n and
    the KL bound far from the KL.

    Args as in `weights`. Returns [M].
    """
    scores = _checked(scores, n)
    by_rank = _by_rank(scores.shape[1], n)
    alone = np.empty(len(scores))
    for i, row in enumerate(scores):
        start, count, _ = _levels(row)
        alone[i] = (count * by_rank[start]).sum()
    return np.maximum(1.0 - alone, 0.0)  # the sum may be rounded above 1


def kl_bound(n):
    """log n − (n − 1)/n ≥ KL(best of n ‖ π₀), in nats per sample.

    Equality holds if no two samples score the same; with few possible answers the KL is
    smaller. Beirami et al. 2024, "Theoretical guarantees on the best-of-n alignment
    policy", arXiv:2401.01879.
    """
    _at_least_one(n)
    return math.log(n) - (n - 1) / n


def kl_exact(p, scores, n):
    """Σ_y q(y)·log(q(y)/p(y)) for the best of n independent draws from p, in nats.

    With F and F₋ the probabilities of a score of at most s, and of less, the best of n
    scores s with probability F(s)ⁿ − F₋(s)ⁿ. If ties are broken at random, answers of
    one score share it in proportion to p, so that each score counts as one answer; any
    other rule, such as taking the first, has a larger KL. Beirami et al. 2024,
    arXiv:2401.01879.

    Args: p [V], the probabilities of all answers to one prompt; scores [V]; n ≥ 1.
    Raises ValueError unless p sums to 1, and for scores that are NaN.
    """
    _at_least_one(n)
    p, scores = np.asarray(p, np.float64), np.asarray(scores, np.float64)
    if p.ndim != 1 or p.shape != scores.shape or np.isnan(scores).any():
        raise ValueError(
            f"give [V] probabilities and scores of the same answers; got {p.shape} and "
            f"{scores.shape}, {np.isnan(scores).sum()} scores NaN"
        )
    if not (p >= 0).all() or not abs(p.sum() - 1) < 1e-6:
        raise ValueError(
            f"p must be the probabilities of all answers, and sums to {p.sum():.9g}; "
            "include every answer, or divide by the sum"
        )
    _, level = np.unique(scores[p > 0], return_inverse=True)
    mass = np.bincount(level, p[p > 0])
    most = np.cumsum(mass)
    more = np.append(np.cumsum(mass[:0:-1])[::-1], 0.0)
    # Each logarithm where it is exact: near 1 the digits are in what is missing from 1.
    log_most = np.where(more < 0.5, np.log1p(-np.minimum(more, 0.5)), np.log(most))
    with np.errstate(divide="ignore"):
        log_less = np.log1p(-np.minimum(mass / most, 1.0))  # log F₋/F
    log_best = n * log_most + np.log(-np.expm1(n * log_less))
    return float((np.exp(log_best) * (log_best - np.log(mass))).sum())


def kl_estimate(p, n):
    """Estimates of KL(best of n ‖ π₀) in nats from the probabilities of its responses.

        (1 − ε)ⁿ·(log n + (n − 1)·log(1 − ε) − (n − 1)/n)
            + (1 − (1 − ε)ⁿ)·log((1 − (1 − ε)ⁿ)/ε)

    at ε = π₀(y), after Beirami et al. 2024, arXiv:2401.01879. Their mean over responses
    y of the best of n is near the KL where `kl_bound` is not, which is for responses
    that π₀ gives more than once in n draws. ε → 0 is the bound.

    Args: p [...] in [0, 1], π₀ of whole responses; n ≥ 1. Returns [...] float64.
    """
    _at_least_one(n)
    p = np.asarray(p, np.float64)
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p must lie in [0, 1], the probability of a response: {p}")
    with np.errstate(divide="ignore"):
        log_rest = np.log1p(-p)  # log(1 − ε)
    never, some = np.exp(n * log_rest), -np.expm1(n * log_rest)
    inside = kl_bound(n) + (n - 1) * np.where(never > 0, log_rest, 0.0)
    share = np.divide(some, p, out=np.full(p.shape, float(n)), where=p > 0)
    return never * inside + some * np.log(share)


def _by_rank(size, n):
    """[N]: C(i − 1, n − 1)/C(N, n), the weight of the sample of rank i = 1 … N.

    It is n/i · C(i, n)/C(N, n), and C(i, n)/C(N, n) = Π_{j > i} (1 − n/j).
    """
    rank = np.arange(1, size + 1)
    with np.errstate(divide="ignore"):
        steps = np.log1p(-np.minimum(n / rank, 1.0))
    above = np.append(np.cumsum(steps[:0:-1])[::-1], 0.0)
    return n / rank * np.exp(above)


def _levels(row):
    """(ranks before it, its samples) of each score ascending, and each sample's score
    as an index into these."""
    _, level, count = np.unique(row, return_inverse=True, return_counts=True)
    return np.cumsum(count) - count, count, level


def _at_least_one(n):
    if n < 1:
        raise ValueError(f"n={n}: needs to be at least 1")


def _checked(scores, n):
    scores = np.asarray(scores, np.float64)
    if not 1 <= n <= scores.shape[1]:
        raise ValueError(
            f"the best of n={n} cannot be estimated from {scores.shape[1]} samples per "
            "prompt; draw more"
        )
    if np.isnan(scores).any():
        row, sample = np.argwhere(np.isnan(scores))[0]
        raise ValueError(
            f"the score of prompt {row}, sample {sample} is NaN, which is no better "
            "and no worse than others; score it or leave the prompt out"
        )
    return scores
