"""What a batch of samples looks like: how varied, how long, how often the same.

A policy that fell onto one good sentence scores well on reward and on likelihood; these
numbers show it. Numpy; tokens and mask [N, T], rows are samples.
"""

import numpy as np


def duplicate_share(tokens, mask):
    """1 − (different samples)/(samples): 0 when all differ, (N − 1)/N when none does.

    Two samples are the same when their valid tokens are.
    """
    rows = _sequences(tokens, mask)
    return 1.0 - len(set(rows)) / len(rows) if rows else 0.0


def distinct(tokens, mask, *, n):
    """Different n-grams over all n-grams of the samples, in (0, 1]; 0 without any.

    Li et al. 2016, arXiv:1510.03055. It falls with the number of samples: compare equal
    numbers only.
    """
    grams = [
        row[i : i + n]
        for row in _sequences(tokens, mask)
        for i in range(len(row) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def repeated_share(tokens, mask, *, n):
    """Share of a sample's n-grams that it holds already, mean over samples that have
    any: gushing in circles, which `distinct` cannot tell from samples being alike."""
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
    """Mean of the policy's exact entropies over the tokens it drew, nats a token.

    entropies [N, T], as `logprobs.entropy` gives them at the response positions.
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
