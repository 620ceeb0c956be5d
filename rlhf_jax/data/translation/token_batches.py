"""Batches of a given number of tokens, in few padded shapes.

A batch takes rows while the sum of their lengths is at most `tokens`, not counting
padding (Lu et al. 2020, arXiv:2003.12694, code: `dyn_batch_without_padding`, where a
row's length is that of its longest language). Rows are batched within length classes,
and each class has one shape, so that few programs are compiled.

Legend: N rows of data, K classes.
"""

import functools

import numpy as np


def edges(lengths, classes):
    """The longest length of each of at most `classes` length classes, ascending.

    The choice with the least padding: it minimises Σ_i (edge of row i − length of row
    i) by dynamic programming over the distinct lengths.
    """
    values, counts = np.unique(lengths, return_counts=True)
    if classes < 1 or not len(values):
        raise ValueError(
            f"{classes} classes of {len(values)} different lengths: at least 1 of each "
            "is needed"
        )
    classes = min(classes, len(values))
    rows = np.concatenate([[0], np.cumsum(counts)])
    # cost[j]: padded size of the shortest j lengths in k classes, the last up to them
    cost = np.concatenate([[0.0], np.full(len(values), np.inf)])
    back = []
    for _ in range(classes):
        spans = cost[:-1, None] + (rows[None, 1:] - rows[:-1, None]) * values[None]
        spans = np.where(np.tri(len(values), dtype=bool).T, spans, np.inf)
        back.append(spans.argmin(0))
        cost = np.concatenate([[np.inf], spans.min(0)])
    chosen, last = [], len(values)
    for split in reversed(back):
        chosen.append(int(values[last - 1]))
        last = int(split[last - 1])
    return tuple(reversed(chosen))


class TokenBatches:
    """Endless shuffled epochs over rows, in batches that are a function of the step.

    An epoch has each row once: rows are shuffled by PCG64 from (seed, epoch), grouped
    by class and cut into batches, the last of a class being smaller; then the batches
    are shuffled. Without `shuffle`, rows and classes are in order.

    Args: lengths [N] > 0; tokens: per batch, at least the longest length; edges: from
    `edges`, the last at least the longest length; multiple: rows per shape are a
    multiple of this, to divide among devices.
    """

    def __init__(self, lengths, *, tokens, edges, seed=0, shuffle=True, multiple=1):
        lengths = np.asarray(lengths)
        if not len(lengths) or lengths.min() < 1:
            raise ValueError(
                f"{len(lengths)} rows, the shortest of length "
                f"{lengths.min(initial=0)}: at least one row is needed, of length 1"
            )
        longest = int(lengths.max())
        if tokens < longest or edges[-1] < longest:
            raise ValueError(
                f"a row has {longest} tokens: tokens={tokens} and the last of "
                f"edges={tuple(edges)} must not be less; drop long rows or raise both"
            )
        self.tokens, self.edges, self.seed = tokens, tuple(edges), seed
        self.shuffle = shuffle
        self._lengths = lengths
        self._classes = np.searchsorted(np.array(edges), lengths)
        self._rows = [self._room(k, multiple) for k in range(len(edges))]
        self._first_steps = [0]  # of each epoch planned so far
        self._plan = functools.lru_cache(maxsize=2)(self._plan_epoch)

    def batch(self, step):
        """(rows [R] int64, edge) of the batch at a step, 0-based; −1 fills up rows.

        R depends on the edge only, and no row is longer than the edge.
        """
        epoch, index = self._locate(step)
        rows, k = self._plan(epoch)[index]
        filler = np.full(self._rows[k] - len(rows), -1, np.int64)
        return np.concatenate([rows, filler]), self.edges[k]

    def steps(self, epoch=0):
        """The number of batches in an epoch; epochs differ slightly."""
        return len(self._plan(epoch))

    def shapes(self):
        """The shapes that will be compiled: (rows, edge) of every class with rows."""
        used = np.unique(self._classes)
        return [(self._rows[k], self.edges[k]) for k in used]

    def _room(self, k, multiple):
        """Rows in the shape of a class: enough for rows of its mean length."""
        inside = self._lengths[self._classes == k]
        if not len(inside):
            return 0
        wanted = min(int(np.ceil(self.tokens / inside.mean())), len(inside))
        return -(-wanted // multiple) * multiple

    def _locate(self, step):
        """The epoch of a step, and the index of its batch in the epoch."""
        first = self._first_steps
        while first[-1] <= step:
            first.append(first[-1] + self.steps(len(first) - 1))
        epoch = int(np.searchsorted(first, step, side="right")) - 1
        return epoch, step - first[epoch]

    def _plan_epoch(self, epoch):
        """The batches of an epoch: a list of (rows, class)."""
        order = np.arange(len(self._lengths))
        if self.shuffle:
            generator = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            order = generator.permutation(len(order))
        batches = []
        for k in range(len(self.edges)):
            rows = order[self._classes[order] == k]
            batches += [(part, k) for part in self._cut(rows, self._rows[k])]
        if self.shuffle:
            batches = [batches[i] for i in generator.permutation(len(batches))]
        return batches

    def _cut(self, rows, most):
        """Rows in parts of at most `most` rows and `tokens` tokens."""
        total = np.cumsum(self._lengths[rows])
        start, before, parts = 0, 0, []
        while start < len(rows):
            stop = int(np.searchsorted(total, before + self.tokens, side="right"))
            stop = min(stop, start + most)
            parts.append(rows[start:stop])
            start, before = stop, total[stop - 1]
        return parts
