"""Diversity, length and repetition of samples.

A policy that has collapsed onto one good sentence does well on reward and likelihood,
but not on these. Numpy; tokens and mask [N, T], rows are samples.
"""

import numpy as np


def duplicate_share(tokens, mask):
    """1 − (distinct samples)/(samples): 0 if all differ, (N − 1)/N if none does.

    Only valid tokens are compared.
    """
    rows = _sequences(tokens, mask)
    return 1.0 - len(set(rows)) / len(rows) if rows else 0.0


def distinct(tokens, mask, *, n):
    """Distinct n-grams over all n-grams of the samples, in (0, 1]; 0 without any.

    Li et al. 2016, arXiv:1510.03055. It decreases with the number of samples, so
    compare equal numbers only.
    """
    grams = [
        row[i : i + n]
        for row in _sequences(tokens, mask)
        for i in range(len(row) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def repeated_share(tokens, mask, *, n):
    """The share of a sample's n-grams that repeat earlier ones, averaged over samples.

    Samples without n-grams are skipped. It shows repetition within a sample, which
    `distinct` cannot distinguish from samples being alike.
    """
    shares = []
    for row in _sequences(tokens, mask):
        grams = [row[i : i + n] for i in range(len(row) - n + 1)]
        if grams:
            shares.append(1.0 - len(set(grams)) / len(grams))
    return float(np.mean(shares)) if shares else 0.0


def lengths(mask):
    """Valid tokens of each sample, [N] int."""
    return (np.asarray(mask) != 0).sum(-1)


def entropy_per_token(entropies, mask):
    """The mean of the policy's exact entropies over the response, nats per token.

    entropies [N, T]: `logprobs.entropy` at the response positions.
    """
    mask = np.asarray(mask) != 0
    return float(np.asarray(entropies, np.float64)[mask].mean()) if mask.any() else 0.0


def summary(tokens, mask, *, entropies=None):
    """All of the above under their metric names."""
    counts = lengths(mask)
    result = {
        "eval/length": float(counts.mean()) if len(counts) else 0.0,
        "eval/length_sd": float(counts.std()) if len(counts) else 0.0,
        "eval/duplicates": duplicate_share(tokens, mask),
        "eval/distinct_1": distinct(tokens, mask, n=1),
        "eval/distinct_2": distinct(tokens, mask, n=2),
        "eval/repeated_2": repeated_share(tokens, mask, n=2),
    }
    if entropies is not None:
        result["eval/entropy"] = entropy_per_token(entropies, mask)
    return result


def _sequences(tokens, mask):
    tokens, mask = np.asarray(tokens), np.asarray(mask) != 0
    return [tuple(row[valid].tolist()) for row, valid in zip(tokens, mask, strict=True)]
