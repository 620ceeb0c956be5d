"""Batches that count tokens, cut from rows of like length into few padded shapes.

A batch takes rows while the sum of their lengths stays within `tokens`; padding is not
counted (Lu et al. 2020, arXiv:2003.12694, code: `dyn_batch_without_padding`, where a
row's length is that of its longest language). So that few programs are compiled, rows
meet only rows of the same length class, and a class has one shape.

Legend: N rows of data, K classes.
"""

import functools

import numpy as np


def edges(lengths, classes):
    """The longest length of each of at most so many classes, ascending.

    Of all choices the one that pads least: it minimises Σ_i (edge of row i − length of
    row i), by dynamic programming over the different lengths.
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
    """Endless shuffled passes over rows, in batches that are a function of the step.

    In a pass each row comes once: rows are shuffled by PCG64 from (seed, pass), dealt
    to their classes and cut; what is left at the end of a class is a smaller batch;
    then the batches are shuffled. Without `shuffle`, rows and classes come in order.

    Args: lengths [N] > 0; tokens: of a batch, at least the longest length; edges: as
    `edges` finds them, the last at least the longest length; multiple: every shape has
    a multiple of so many rows, so that devices share it.
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
        self._ends = [0]  # batches before each pass that was planned so far
        self._plan = functools.lru_cache(maxsize=2)(self._plan_pass)

    def batch(self, step):
        """(rows, edge) of a batch, counted from 0: [R] int64, −1 where no row is.

        R depends on the edge alone; the rows are no longer than it.
        """
        pass_, place = self._locate(step)
        rows, k = self._plan(pass_)[place]
        filler = np.full(self._rows[k] - len(rows), -1, np.int64)
        return np.concatenate([rows, filler]), self.edges[k]

    def steps(self, pass_=0):
        """How many batches a pass has: passes differ a little."""
        return len(self._plan(pass_))

    def shapes(self):
        """(rows, edge) of every class that has rows: what will be compiled."""
        held = np.unique(self._classes)
        return [(self._rows[k], self.edges[k]) for k in held]

    def _room(self, k, multiple):
        """Rows of the shape of a class: what rows of its mean length need."""
        inside = self._lengths[self._classes == k]
        if not len(inside):
            return 0
        wanted = min(int(np.ceil(self.tokens / inside.mean())), len(inside))
        return -(-wanted // multiple) * multiple

    def _locate(self, step):
        """The pass of a step, and the place of its batch in it."""
        while self._ends[-1] <= step:
            self._ends.append(self._ends[-1] + self.steps(len(self._ends) - 1))
        pass_ = int(np.searchsorted(self._ends, step, side="right")) - 1
        return pass_, step - self._ends[pass_]

    def _plan_pass(self, pass_):
        """The batches of a pass: a list of (rows, class)."""
        order = np.arange(len(self._lengths))
        if self.shuffle:
            generator = np.random.Generator(np.random.PCG64([self.seed, pass_]))
            order = generator.permutation(len(order))
        batches = []
        for k in range(len(self.edges)):
            rows = order[self._classes[order] == k]
            batches += [(part, k) for part in self._cut(rows, self._rows[k])]
        if self.shuffle:
            batches = [batches[i] for i in generator.permutation(len(batches))]
        return batches

    def _cut(self, rows, most):
        """Rows in runs of at most `most`, with lengths that sum to at most `tokens`."""
        ends = np.cumsum(self._lengths[rows])
        start, before, parts = 0, 0, []
        while start < len(rows):
            stop = int(np.searchsorted(ends, before + self.tokens, side="right"))
            stop = min(stop, start + most)
            parts.append(rows[start:stop])
            start, before = stop, ends[stop - 1]
        return parts
