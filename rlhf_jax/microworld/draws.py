"""Sampling from many small categorical distributions at once."""

import numpy as np


class Draws:
    """Categorical distributions of any sizes, concatenated; sampled by their index."""

    def __init__(self, weights, start):
        """weights [W] ≥ 0; start [D] int ascending: the first index of each."""
        self.start = np.append(start, len(weights))
        total = np.concatenate([[0.0], np.cumsum(weights)])
        self.low = total[self.start[:-1]]
        self.width = total[self.start[1:]] - self.low
        self.upper = total[1:]

    @classmethod
    def of_rows(cls, table):
        """One distribution per row of table [D, size]."""
        return cls(np.ravel(table), np.arange(len(table)) * np.shape(table)[1])

    def __call__(self, rng, which):
        """Samples [N], indices within the distributions `which` [N]."""
        point = self.low[which] + rng.random(len(which)) * self.width[which]
        index = np.searchsorted(self.upper, point, side="right")
        return np.minimum(index, self.start[which + 1] - 1) - self.start[which]
