"""advantages and rewards of DAPO and its like: scales of a batch, signals, lengths."""

import jax
import numpy as np
import pytest
from checks import close, examples, floats
from hypothesis import given

from rlhf_jax import advantages, rewards

SCORES = np.array([[1.0, 3.0], [5.0, 5.0]])  # mean 3.5, squares 6.25 + .25 + 2·2.25


def test_a_batch_has_one_scale_by_hand():
    std = np.sqrt(11 / 4)
    unit = 1 / (std + 1e-6)
    close(advantages.batch_normalized(SCORES), [[-unit, unit], [0, 0]])
    unit = 1 / (np.sqrt(11 / 3) + 1e-4)
    out = advantages.batch_normalized(SCORES, ddof=1, epsilon=1e-4)
    close(out, [[-unit, unit], [0, 0]])


def test_a_group_has_the_standard_deviation_that_is_asked_for():
    unit = 1 / (np.sqrt(2) + 1e-4)
    out = advantages.group_normalized(SCORES, ddof=1, epsilon=1e-4)
    close(out, [[-unit, unit], [0, 0]])


@examples
@given(floats((3, 4)))
def test_a_batch_is_numpys_and_ignores_a_shift(scores):
    wide = scores.astype(np.float64)
    centred = wide - wide.mean(1, keepdims=True)
    out = np.asarray(advantages.batch_normalized(scores, ddof=1, epsilon=1e-2))
    close(out, centred / (wide.std(ddof=1) + 1e-2), rtol=1e-3, atol=1e-3)
    moved = advantages.batch_normalized(scores + 1, ddof=1, epsilon=1e-2)
    close(moved, out, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rule", [advantages.batch_normalized, advantages.informative])
def test_a_group_of_one_is_refused(rule):
    with pytest.raises(ValueError, match="2 responses or more"):
        rule(np.zeros((3, 1)))


def test_a_group_whose_scores_are_equal_says_nothing():
    scores = np.array([[1.0, 1.0], [1.0, 1.5], [0.0, 1e-12]])
    np.testing.assert_array_equal(advantages.informative(scores), [False, True, False])
    turned = advantages.informative(scores[:, ::-1])
    np.testing.assert_array_equal(turned, [False, True, False])


def test_gradients_of_a_batch_add_up_to_0_in_every_group():
    """As those of the group's mean do: only the scale is shared."""
    grad = jax.grad(lambda s: advantages.batch_normalized(s)[0, 1])(SCORES)
    close(grad.sum(), 0.0, atol=1e-6)


def lengths(*counts, size=10):
    return (np.arange(size) < np.array(counts)[:, None]).astype(np.int32)


def test_a_response_pays_for_the_last_tokens_before_the_limit():
    mask = lengths(0, 6, 7, 9, 10)
    out = rewards.soft_overlong_punishment(mask, max_length=10, cache=4)
    close(out, [0, 0, -0.25, -0.75, -1])
    out = rewards.soft_overlong_punishment(mask, max_length=9, cache=0)
    close(out, [0, 0, 0, 0, -1])


def test_soft_overlong_punishment_is_the_formula_of_the_paper():
    """Eq. 13, a response at a time; cache and limit may be traced."""
    compiled = jax.jit(rewards.soft_overlong_punishment)
    mask = lengths(*range(11))
    for longest, cache in ((10, 1), (8, 3), (5, 5)):
        expected = [
            0.0
            if n <= longest - cache
            else ((longest - cache) - n) / cache
            if n <= longest
            else -1.0
            for n in range(11)
        ]
        out = np.asarray(compiled(mask, max_length=longest, cache=cache))
        close(out, expected)
        assert (np.diff(out) <= 0).all() and out.min() >= -1 and out.max() <= 0


def test_padding_is_no_part_of_a_response():
    wide = np.pad(lengths(3, 9), ((0, 0), (0, 5)))
    options = {"max_length": 10, "cache": 4}
    close(
        rewards.soft_overlong_punishment(wide, **options),
        rewards.soft_overlong_punishment(lengths(3, 9), **options),
    )
