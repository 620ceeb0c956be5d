"""Rows that are read while they are trained on, shuffled in a buffer.

A batch is a function of its number, as of `batching.Epochs`: asked for another than the
next one, a stream is read again from its start up to there.
"""

import dataclasses
import itertools
from collections.abc import Callable

import jax
import numpy as np


@dataclasses.dataclass(frozen=True)
class Stream:
    """What `batching.batches` takes in place of arrays.

    read() -> an iterator over its rows, from the first: pytrees of arrays [L]; buffer:
    rows among which the next one is drawn.
    """

    read: Callable
    buffer: int = 1000

    def batches(self, rows, seed):
        """Its `Batches`, of `rows` rows each."""
        return Batches(self, rows, seed)


class Batches:
    """Batches of a stream; epoch e is shuffled by PCG64 seeded with (seed, e)."""

    def __init__(self, stream, rows, seed):
        self._stream, self._rows, self._seed = stream, rows, seed
        self._next, self._shuffled = 0, self._endless()
        self._epoch = 0

    def take(self, number):
        """Batch `number`, counted from 0: a pytree of arrays [rows, L]."""
        if number < self._next:
            self._next, self._shuffled = 0, self._endless()
        while self._next <= number:
            rows = list(itertools.islice(self._shuffled, self._rows))
            self._next += 1
        return jax.tree.map(lambda *x: np.stack(x), *rows)

    def epoch(self, number):
        """The passes over the stream completed when batch `number`, the next one, is
        drawn; rows of an unfinished one are not counted."""
        return float(self._epoch)

    def _endless(self):
        for self._epoch in itertools.count():
            generator = np.random.Generator(np.random.PCG64([self._seed, self._epoch]))
            row = None
            for row in shuffled(self._stream.read(), generator, self._stream.buffer):
                yield row
            if row is None:
                raise ValueError("the stream has no rows; it can be read only once?")


def shuffled(rows, generator, size):
    """Every row once: the next is drawn from the `size` that are read ahead."""
    rows = iter(rows)
    ahead = list(itertools.islice(rows, size))
    for row in rows:
        place = int(generator.integers(len(ahead)))
        yield ahead[place]
        ahead[place] = row
    for place in generator.permutation(len(ahead)):
        yield ahead[place]
