"""aggregation: what a token weighs in the average of a minibatch."""

import checks
import jax
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given

from rlhf_jax import aggregation

MASK = checks.ragged()  # lengths 6, 1, 0, 4 of at most 6
each = pytest.mark.parametrize("over", aggregation.AVERAGES)


def test_weights_by_hand():
    expected = {"tokens": [1 / 11] * 3, "responses": [1 / 24, 1 / 4, 1 / 16]}
    expected |= {"length": [1 / 24] * 3, "sums": [1 / 4] * 3}
    for over, first in expected.items():
        weights = aggregation.weights(MASK, over)
        close(weights[[0, 1, 3], 0], first)
    close(aggregation.weights(MASK, "tokens", tokens=22.0)[0, 0], 1 / 22)


def loop(x, mask, over):
    """The average of x as its definition has it, in float64."""
    rows = [
        [float(v) for v, m in zip(*pair, strict=True) if m]
        for pair in zip(x, mask, strict=True)
    ]
    every = [v for row in rows for v in row]
    return {
        "tokens": sum(every) / max(len(every), 1),
        "responses": np.mean([np.mean(row) if row else 0.0 for row in rows]),
        "length": sum(every) / x.size,
        "sums": np.mean([sum(row) for row in rows]),
    }[over]


@each
def test_the_average_is_the_loop_over_rows(over, rng):
    x = rng.normal(size=MASK.shape).astype(np.float32)
    for mask in (MASK, np.zeros_like(MASK)):
        value = (aggregation.weights(mask, over) * x).sum()
        close(value, loop(x, mask, over), rtol=1e-5, atol=1e-6)


@examples
@given(checks.masks((3, 4)))
def test_means_weigh_1_in_all_and_nothing_where_ignored(mask):
    for over in aggregation.AVERAGES:
        weights = np.asarray(aggregation.weights(mask, over))
        assert not weights[mask == 0].any()
        turned = aggregation.weights(mask[::-1], over)
        np.testing.assert_array_equal(turned, weights[::-1])
    if mask.any():
        close(aggregation.weights(mask, "tokens").sum(), 1.0)
    if mask.any(-1).all():
        close(aggregation.weights(mask, "responses").sum(), 1.0)


@each
def test_longer_padding_changes_all_but_the_constant(over):
    wide = np.pad(MASK, ((0, 0), (0, 2)))
    weights = np.asarray(aggregation.weights(wide, over))[:, :6]
    factor = 6 / 8 if over == "length" else 1.0
    close(weights, factor * np.asarray(aggregation.weights(MASK, over)))


@each
def test_rows_over_devices_are_rows_on_one(over):
    alone = aggregation.weights(MASK, over)
    device = lambda row: aggregation.weights(row[None], over, axis_name=checks.AXIS)  # noqa: E731
    split = jax.vmap(device, axis_name=checks.AXIS)(MASK)
    close(split[:, 0], alone)


def test_an_average_that_does_not_exist():
    with pytest.raises(ValueError, match="tokens, responses.*not 'words'"):
        aggregation.weights(MASK, "words")
