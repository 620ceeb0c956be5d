"""Streams: every row once a pass, shuffled, and a batch is a function of its number."""

import itertools

import numpy as np
import pytest

from rlhf_jax.data import batching, streams

COUNT = 23


def rows():
    """Pairs of arrays that hold the number of their row."""
    return ((np.full(2, i), np.full(3, -i)) for i in range(COUNT))


def taken(buffer, seed, numbers, size=4):
    batches = batching.batches(streams.Stream(rows, buffer), size, seed)
    return [batches.take(number) for number in numbers]


@pytest.mark.parametrize("buffer", [1, 5, 100])
def test_every_row_comes_once_a_pass(buffer):
    found = taken(buffer, 0, range(COUNT), size=1)
    order = [int(first[0, 0]) for first, _ in found]
    assert sorted(order) == list(range(COUNT))
    assert (order == list(range(COUNT))) == (buffer == 1)
    for first, second in found:
        assert first.shape == (1, 2) and second.shape == (1, 3)
        assert (second == -first[0, 0]).all()


def test_no_row_comes_before_it_was_read():
    generator = np.random.default_rng(0)
    order = list(streams.shuffled(iter(range(100)), generator, 7))
    assert all(row < place + 7 for place, row in enumerate(order))


def test_passes_follow_each_other_in_other_orders():
    found = np.concatenate([b[0][:, 0] for b in taken(50, 0, range(12))])
    first, second = found[:COUNT], found[COUNT : 2 * COUNT]
    assert sorted(first) == sorted(second) and list(first) != list(second)
    other = np.concatenate([b[0][:, 0] for b in taken(50, 1, range(6))])
    assert list(other[:COUNT]) != list(first)


def test_a_batch_is_a_function_of_its_number():
    whole = taken(6, 3, range(14))
    for numbers in ([9, 10, 13], [13, 2], [0, 0, 7]):
        for number, batch in zip(numbers, taken(6, 3, numbers), strict=True):
            np.testing.assert_array_equal(batch[0], whole[number][0])


def test_passes_are_counted():
    batches = batching.batches(streams.Stream(rows, 3), COUNT, 0)
    seen = []
    for number in range(3):
        batches.take(number)
        seen.append(batches.epoch(number + 1))
    assert seen == [0, 1, 2]


def test_a_stream_that_is_read_up_is_refused():
    once = iter(range(3))
    stream = streams.Stream(lambda: ((np.full(1, i),) for i in once))
    batches = batching.batches(stream, 2, 0)
    with pytest.raises(ValueError, match="the stream has no rows"):
        for number in range(3):
            batches.take(number)


def test_arrays_are_batched_as_before():
    data = np.arange(10)
    batches = batching.batches(data, 4, 5)
    order = batching.Epochs(10, 4, 5)
    for number in itertools.islice(itertools.count(), 4):
        np.testing.assert_array_equal(batches.take(number), data[order.indices(number)])
        assert batches.epoch(number) == order.epoch(number)
    assert batching.count(data) == 10
    assert batching.count(streams.Stream(rows)) is None
