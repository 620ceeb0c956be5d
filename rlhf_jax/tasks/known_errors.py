"""The truth plus an error of a known distribution: rewards that are wrong at random.

Kwa et al. 2024, "Catastrophic Goodhart", arXiv:2407.14503: where the error has heavier
tails than any exponential, a policy near π₀ gains proxy without end and no gold.
"""

import numpy as np
from scipy import special

_TAILS = {
    "heavy_tailed": lambda u: special.stdtrit(3, u) / np.sqrt(3.0),
    "light_tailed": special.ndtri,
}


def draw(tails, tokens, mask, *, salt=0):
    """[B] float64: an error of mean 0 and variance 1, the same for the same response.

    Student's t with 3 degrees of freedom over its deviation √3, or a normal variable;
    both are the quantile of one uniform number, which a hash of the response draws.

    Args: tails: "heavy_tailed" or "light_tailed"; tokens, mask [B, T]: what stands at
    masked positions does not matter; salt: another number, other errors.
    """
    return _TAILS[tails](uniform(tokens, mask, salt=salt))


def uniform(tokens, mask, *, salt=0):
    """[B] float64 in (0, 1) from the valid tokens of each row: FNV-1a, then mixed."""
    tokens = np.asarray(tokens).astype(np.uint64)
    valid = np.asarray(mask) != 0
    start = np.uint64(0xCBF29CE484222325) ^ np.uint64(salt)
    found = np.full(len(tokens), start, np.uint64)
    for column, here in zip(tokens.T, valid.T, strict=True):
        found = np.where(here, (found ^ column) * np.uint64(0x100000001B3), found)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        found = (found ^ (found >> np.uint64(shift))) * np.uint64(factor)
    found ^= found >> np.uint64(31)
    return ((found >> np.uint64(11)) + 0.5) / 2.0**53
