"""labeling: preferences of both orders, expected scores, by hand and in float64."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given

from rlhf_jax import labeling

B, V = 5, 11
PAIR, SCALE = (3, 7), tuple(range(1, 11))
two = checks.floats((B, 2), -9, 9)
ten = checks.floats((B, 10), -9, 9)
preference = jax.jit(labeling.preference, static_argnums=2)
expected_score = jax.jit(labeling.expected_score, static_argnums=1)


@pytest.fixture
def logits(rng):
    """Of both orders: [2, B, V]."""
    return (3 * rng.normal(size=(2, B, V))).astype(np.float32)


def softmax(x):
    x = np.exp(np.asarray(x, np.float64) - np.max(x, -1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def log(*rows):
    with np.errstate(divide="ignore"):
        return np.log(np.array(rows, np.float32))


# Preferences.


def test_a_preference_by_hand():
    # First in ab: 0.9; first in ba, the other one, 0.4: ½ (0.9 + 0.6).
    ab, ba = log([0.9, 0.1]), log([0.4, 0.6])
    close(labeling.first_slot(ab, None), [0.9])
    close(labeling.preference(ab, ba, None), [0.75])
    close(labeling.average([0.9], [0.4]), [0.75])
    close(labeling.distribution(log([0.06, 0.02]), None), [[0.75, 0.25]])


def test_preferences_are_the_float64_loop(logits):
    ab, ba = (softmax(x[:, PAIR]) for x in logits)
    close(labeling.distribution(logits[0], PAIR), ab, 1e-6, 1e-7)
    close(labeling.first_slot(logits[0], PAIR), ab[:, 0], 1e-6, 1e-7)
    close(preference(*logits, PAIR), (ab[:, 0] + ba[:, 1]) / 2, 1e-6, 1e-7)


def test_logits_and_whole_labels_say_the_same(logits):
    logps = [jax.nn.log_softmax(x)[:, PAIR] for x in logits]
    close(preference(*logits, PAIR), labeling.preference(*logps, None), 1e-6, 1e-6)


@examples
@given(two, two)
def test_swapping_the_orders_gives_exactly_one_minus(ab, ba):
    p, swapped = (np.asarray(preference(*x, None)) for x in ((ab, ba), (ba, ab)))
    np.testing.assert_array_equal(swapped, 1 - p)
    np.testing.assert_array_equal(p, 1 - swapped)
    assert ((0 <= p) & (p <= 1)).all()


@examples
@given(two)
def test_identical_candidates_are_exactly_even(logits):
    np.testing.assert_array_equal(preference(logits, logits, None), 0.5)


@pytest.mark.parametrize("sure", [0.5, 0.8, 1 - 1e-6, 1.0])
@pytest.mark.parametrize("slot", [0, 1])
def test_a_labeler_that_sees_positions_only_is_debiased(sure, slot):
    logps = log([sure, 1 - sure][:: 1 - 2 * slot])
    assert abs(float(labeling.preference(logps, logps, None)[0]) - 0.5) < 1e-6


def test_distributions_are_averaged_and_not_logits():
    # Sure in one order, undecided in the other: averaged logits would still be sure.
    p = labeling.preference(np.array([[60.0, 0]]), np.array([[0.0, 0]]), None)
    close(p, [0.75])


def test_a_label_that_was_not_told_has_no_probability():
    one, none = log([0.3, 0.0]), log([0.0, 0.0])
    close(labeling.preference(one, log([0.5, 0.5]), None), [0.75])
    assert np.isnan(labeling.preference(one, none, None)).all()
    assert np.isnan(labeling.first_slot(none, None)).all()


def test_polarity_turns_a_preference_around():
    p = np.array([0.0, 0.3, 0.5], np.float32)
    np.testing.assert_array_equal(labeling.oriented(p, "better"), p)
    np.testing.assert_array_equal(labeling.oriented(p, "worse"), 1 - p)
    with pytest.raises(ValueError, match="polarity 'best': must be better or worse"):
        labeling.oriented(p, "best")


# Scores.


def test_scores_by_hand():
    p = np.zeros((4, 10), np.float32)
    p[0], p[1, 0], p[2, 9] = 0.1, 1, 1
    p[3, 2], p[3, 7] = 0.25, 0.75  # E = 0.75 + 6 = 6.75
    scores = np.asarray(labeling.expected_score(log(*p), None))
    np.testing.assert_array_equal(scores[:3], [0, -1, 1])
    close(scores[3], (6.75 - 5.5) / 4.5)


def test_scores_are_the_float64_expectation(logits):
    p = softmax(logits[0][:, SCALE])
    expected = (p @ np.arange(1, 11) - 5.5) / 4.5
    close(expected_score(logits[0], SCALE), expected, 1e-5, 1e-6)


@examples
@given(ten)
def test_reversed_scores_are_opposite_and_bounded(logits):
    scores = np.asarray(expected_score(logits, None))
    close(expected_score(logits[:, ::-1], None), -scores, 1e-5, 1e-6)
    assert (np.abs(scores) <= 1 + 1e-6).all()


@pytest.mark.parametrize("labels", [2, 5, 10])
def test_any_scale_runs_from_minus_one_to_one(labels):
    logps = log(*np.eye(labels))
    scores = labeling.expected_score(logps, None)
    close(scores, np.linspace(-1, 1, labels), 1e-6, 1e-7)
    close(expected_score(np.zeros((1, labels)), None), [0])


def test_scores_leave_out_what_was_not_told():
    logps = log([0.2, 0, 0, 0, 0, 0, 0, 0, 0, 0.2])
    np.testing.assert_array_equal(labeling.expected_score(logps, None), 0)
    assert np.isnan(labeling.expected_score(log(np.zeros(10)), None)).all()


# Labels that continue each other.


def test_a_ten_is_taken_out_of_the_one_that_begins_it():
    # "1" and then "0" with probability 0.4, or "1" and something else.
    inclusive = log([0.5, 0.3, 0.5 * 0.4])
    exclusive = labeling.exclusive(inclusive, [(7,), (8,), (7, 9)])
    close(jnp.exp(exclusive), [[0.3, 0.3, 0.2]])
    close(labeling.outside(exclusive, None), [0.2], 1e-6, 1e-6)
    np.testing.assert_array_equal(
        labeling.exclusive(inclusive, [(7,), (8,), (4, 9)]), inclusive
    )


def test_nested_labels_are_counted_once():
    # p(a) = 0.6 holds p(ab) = 0.5, which holds p(abc) = 0.2, and p(ad) = 0.05.
    labels, inclusive = [(1,), (1, 2), (1, 2, 3), (1, 4)], log([0.6, 0.5, 0.2, 0.05])
    exclusive = labeling.exclusive(inclusive, labels)
    close(jnp.exp(exclusive), [[0.05, 0.3, 0.2, 0.05]], 1e-5, 1e-7)


def test_exclusive_labels_are_those_of_a_model_that_writes_digits(rng):
    """Every text of a digit and what follows it, counted one by one in float64."""
    first, second = softmax(rng.normal(size=(3, 11))), softmax(rng.normal(size=(3, 11)))
    inclusive = np.concatenate([first[:, 1:10], first[:, 1:2] * second[:, :1]], 1)
    counted = inclusive.copy()
    counted[:, 0] = first[:, 1] * second[:, 1:].sum(1)
    ids = [(i,) for i in range(1, 10)] + [(1, 0)]
    exclusive = labeling.exclusive(np.log(inclusive), ids)
    close(jnp.exp(exclusive), counted, 1e-5, 1e-7)


def test_exclusive_labels_may_not_be_told():
    inclusive = log([0.0, 0.5], [0.5, 0.0], [0.5, 0.5])
    exclusive = np.asarray(labeling.exclusive(inclusive, [(1,), (1, 2)]))
    np.testing.assert_array_equal(exclusive[:2], inclusive[:2])
    np.testing.assert_array_equal(exclusive[2], log([0.0, 0.5])[0])


# What lies outside, misuse, gradients.


def test_what_is_outside_by_hand():
    close(labeling.outside(log([0.5, 0.2, 0.2, 0.1]), (0, 3)), [0.4])
    close(labeling.outside(log([0.5, 0.1]), None), [0.4], 1e-6, 1e-6)
    close(labeling.outside(log([0.0, 0.0]), None), [1.0])
    close(labeling.outside(log([0.7, 0.7]), None), [0.0])


def test_what_is_outside_keeps_its_digits(logits):
    rare = np.zeros((1, V), np.float32)
    rare[:, PAIR] = 30
    expected = (V - 2) * np.exp(-30.0) / 2
    close(labeling.outside(rare, PAIR), [expected], 1e-5, 0)
    p = softmax(logits[0])
    close(labeling.outside(logits[0], PAIR), 1 - p[:, PAIR].sum(-1), 1e-5, 1e-6)


def test_an_id_beyond_the_vocabulary_is_no_answer(logits):
    assert np.isnan(labeling.first_slot(logits[0], (3, V))).all()


def test_misuse_is_named(logits):
    with pytest.raises(ValueError, match="between two labels, not 10"):
        labeling.preference(*logits, SCALE)
    with pytest.raises(ValueError, match="at least two labels, not 1"):
        labeling.expected_score(logits[0], (4,))
    with pytest.raises(ValueError, match=r"got \(2, 5, 11\)"):
        labeling.first_slot(logits, PAIR)


def test_gradients_are_the_numerical_ones(logits):
    checks.assert_gradients(lambda x: labeling.distribution(x, PAIR), logits[0])
    checks.assert_gradients(lambda x: labeling.outside(x, PAIR), logits[0])
    checks.assert_gradients(lambda x: labeling.first_slot(x, PAIR), logits[0])
    checks.assert_gradients(lambda x: labeling.expected_score(x, SCALE), logits[0])
    checks.assert_gradients(lambda *x: labeling.preference(*x, PAIR), *logits)
    p = softmax(logits[:, :, PAIR])[..., 0]
    checks.assert_gradients(labeling.average, *p)
    checks.assert_gradients(lambda p: labeling.oriented(p, "worse"), p[0])
    logps = np.log([[0.5, 0.3, 0.2]])
    checks.assert_gradients(
        lambda x: labeling.exclusive(x, [(1,), (2,), (1, 0)]), logps
    )


def test_an_even_preference_can_still_be_learned():
    gradient = jax.grad(lambda p: labeling.average(p, jnp.full(1, 0.5)).sum())
    np.testing.assert_array_equal(gradient(jnp.full(1, 0.5)), 0.5)


def test_a_label_not_told_leaves_gradients_finite():
    def score(logits):
        return labeling.expected_score(logits, None).sum()

    logits = np.zeros((1, 10), np.float32)
    logits[0, 3] = -np.inf
    gradient = np.asarray(jax.grad(score)(logits))
    assert np.isfinite(gradient).all() and gradient[0, 3] == 0


def test_bf16_logits_are_read_in_float32(logits):
    half = jnp.asarray(logits, jnp.bfloat16)
    p = labeling.preference(*half, PAIR)
    assert p.dtype == jnp.float32
    np.testing.assert_array_equal(
        p, labeling.preference(*half.astype(jnp.float32), PAIR)
    )
