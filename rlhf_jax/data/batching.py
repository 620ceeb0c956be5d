"""Batches as a function of the step, so that resuming needs no other state."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax import ranges
from rlhf_jax.data import streams


@dataclasses.dataclass(frozen=True)
class Epochs:
    """Endless shuffled epochs over rows, in batches that drop no row.

    Epoch e is the permutation that PCG64 draws from (seed, e). Epochs follow each other
    without a gap, so a batch may span two.
    """

    n_rows: ranges.Count
    batch_size: ranges.Count
    seed: int = 0

    def __post_init__(self):
        ranges.check(self)

    def indices(self, step):
        """The rows of batch `step`, counted from 0: [batch_size] int64."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, offsets = np.divmod(positions, self.n_rows)
        rows = np.empty_like(offsets)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = _permutation(self.n_rows, self.seed, int(epoch))[offsets[here]]
        return rows

    def epoch(self, step):
        """The epochs completed when batch `step` begins, as a fraction."""
        return step * self.batch_size / self.n_rows

    def used(self, steps):
        """The rows of the first `steps` batches, each once, ascending: [≤ n_rows]."""
        first = _permutation(self.n_rows, self.seed, 0)[: steps * self.batch_size]
        return np.sort(first)


@functools.lru_cache(maxsize=4)
def _permutation(n_rows, seed, epoch):
    generator = np.random.Generator(np.random.PCG64([seed, epoch]))
    rows = generator.permutation(n_rows)
    rows.setflags(write=False)
    return rows


class Shuffled(NamedTuple):
    """The batches of arrays on the host, in the order of `Epochs`."""

    data: Any  # a pytree of [N, ...]
    order: Epochs

    def take(self, number):
        """Batch `number`, counted from 0."""
        return take(self.data, self.order.indices(number))

    def epoch(self, number):
        """The epochs completed when batch `number` begins, as a fraction."""
        return self.order.epoch(number)


def batches(data, rows, seed):
    """What has `take(number)` and `epoch(number)`, of a pytree of arrays [N, ...] or a
    `streams.Stream`."""
    if isinstance(data, streams.Stream):
        return data.batches(rows, seed)
    return Shuffled(data, Epochs(count(data), rows, seed))


def count(data):
    """The number of rows N of a pytree of arrays, None of a stream."""
    if isinstance(data, streams.Stream):
        return None
    return jax.tree.leaves(data)[0].shape[0]


def take(tree, indices):
    """Rows `indices` of every leaf [N, ...]; a list is a leaf and stays a list."""

    def pick(column):
        if isinstance(column, list):
            return [column[i] for i in indices]
        return np.asarray(column)[indices]

    return jax.tree.map(pick, tree, is_leaf=lambda x: isinstance(x, list))


def by_width(rows, *, least=64):
    """Groups right-padded rows by length: [(indices, rows cut to the group's width)].

    Widths are `least` times powers of 2, at most L. So at most half of a row longer
    than `least` is padding, and other data have the same shapes and need no
    compilation. (`token_batches.edges` pads less, with widths specific to its data.)

    Args: rows: a pytree of arrays [N, L] with a field `mask`, 1s before 0s; least > 0.
    Raises ValueError if padding is not on the right.
    """
    mask = right_padded(rows.mask)
    longest = mask.shape[-1]
    classes = np.maximum(np.ceil(np.log2(mask.sum(-1).clip(1) / least)), 0).astype(int)

    def cut(power):
        indices, width = np.flatnonzero(classes == power), min(least << power, longest)
        return indices, jax.tree.map(lambda x: x[indices, :width], rows)

    return [cut(power) for power in np.unique(classes)]


def power_of_two(count):
    """The least power of two that is no less than count, which is at least 1."""
    return 1 << (int(count) - 1).bit_length()


def right_padded(mask):
    """The mask [N, L] as a numpy array; raises ValueError where a 1 follows a 0."""
    mask = np.asarray(mask)
    rises = (np.diff(mask, axis=-1) > 0).any(-1)
    if rises.any():
        row = int(rises.argmax())
        raise ValueError(f"row {row} is not padded on the right: pad it there")
    return mask
