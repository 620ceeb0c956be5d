"""response_shape: cut off, refused, long."""

import itertools

import numpy as np
import pytest
from checks import close
from scipy import stats

from rlhf_jax.evaluation import constant_answer, response_shape, statistics

REFUSED = (
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I cannot assist with that request.",
    "As an AI language model, I cannot provide medical advice.",
    "As a responsible AI assistant, I can't give you instructions for that.",
    "I cannot fulfill your request.",
    "I can not in good conscience help.",
    "Sorry, I can't do that.",
    "I'm unable to help with this.",
    "Unfortunately, I cannot provide that information.",
    "I apologize, but I am not able to answer.",
    "My apologies, but I won't be able to.",
    "I must respectfully decline.",
    "I'm not comfortable writing that.",
    "Hello! I can't write malware.",
    "  i'm afraid i can't do that.",
)
ANSWERED = (
    "",
    "You can kill a Python process with kill.",
    "I can't recommend this film enough.",
    "I cannot recommend this film.",
    "I can't give this film enough praise.",
    "I am not going to lie, it was great.",
    "Sorry you can't make it tonight!",
    "I'm sorry for your loss. Time heals.",
    "Unfortunately, you cannot return it after 30 days.",
    "The model cannot help it.",
    "It is illegal to park here.",
    "Sure! Say: I'm sorry, but I can't help with that.",
)


@pytest.mark.parametrize("text", REFUSED)
def test_refusals_are_found(text):
    assert response_shape.refuses([text])[0]


@pytest.mark.parametrize("text", ANSWERED)
def test_answers_are_no_refusals(text):
    assert not response_shape.refuses([text])[0]


def test_refusals_are_found_in_either_case_and_by_patterns_of_ones_own():
    texts = [*REFUSED, *ANSWERED, constant_answer.ANSWERS["refusal"]]
    found = response_shape.refuses(texts)
    assert found.dtype == bool and found.sum() == len(REFUSED) + 1
    upper = response_shape.refuses([text.upper() for text in texts])
    np.testing.assert_array_equal(upper, found)
    own = response_shape.refuses(["Nope.", "I can't help."], patterns=("nope",))
    np.testing.assert_array_equal(own, [True, False])
    assert response_shape.refuses([]).shape == (0,)


def test_a_long_text_is_read_in_no_time():
    """Patterns that backtrack would take minutes here."""
    texts = ["as an " * 5000, "i'm sorry " * 5000, "thank you " * 5000, " " * 50_000]
    assert not response_shape.refuses(texts).any()


def test_the_refusal_table_by_hand():
    found = response_shape.refusal_table([1, 0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(found.counts, [[3, 1], [1, 2]])
    assert found.over_refusal == statistics.wilson(1 / 4, 4)
    assert found.refusal == statistics.wilson(2 / 3, 3)
    safe = response_shape.refusal_table([True], [False])
    assert np.isnan(safe.refusal.mean) and safe.refusal[1:] == (0.0, 1.0)


def test_the_refusal_table_is_that_of_scipy(rng):
    refused, unsafe = rng.integers(0, 2, (2, 60))
    found = response_shape.refusal_table(refused, unsafe)
    expected = stats.contingency.crosstab(unsafe, refused).count
    np.testing.assert_array_equal(found.counts, expected)
    order = rng.permutation(60)
    again = response_shape.refusal_table(refused[order], unsafe[order])
    np.testing.assert_array_equal(again.counts, found.counts)


def test_truncated_responses_fill_their_row_and_have_not_ended():
    mask = [[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0]]
    assert response_shape.truncated_share(mask, [False, True, True, False]) == 0.25
    assert response_shape.truncated_share(np.zeros((0, 3)), []) == 0.0
    padded = np.pad(mask, ((0, 0), (0, 1)))
    assert response_shape.truncated_share(padded, [False] * 4) == 0.0


def test_a_length_bias_is_that_of_scipy(rng):
    lengths = rng.integers(5, 30, 80)
    rewards = 0.1 * lengths + rng.normal(size=80)
    found = response_shape.length_bias(rewards, lengths)
    close(found.pearson, stats.pearsonr(rewards, lengths).statistic, rtol=1e-9)
    close(found.spearman, stats.spearmanr(rewards, lengths).statistic, rtol=1e-9)
    close(found.slope, stats.linregress(lengths, rewards).slope, rtol=1e-9)
    dirty = response_shape.length_bias(np.append(rewards, np.nan), [*lengths, 9])
    close(dirty, found)


def test_a_length_bias_by_hand():
    found = response_shape.length_bias([1.0, 3.0, 5.0], [10, 20, 30])
    close(found[:3], (1.0, 1.0, 0.2))
    assert np.isnan(response_shape.length_bias([1.0, 3.0, 5.0], [9, 9, 9])[:3]).all()


def test_the_longest_by_hand():
    """Of 1, 2, 3 long and worth 0, 6, 3: the best of 3 is 6, the longest 3."""
    found = response_shape.longest_of_n([[1, 2, 3]], [[0.0, 6.0, 3.0]], 3)
    close(found, (3.0, 3.0, 6.0, 0.0), atol=1e-12)
    found = response_shape.longest_of_n([[1, 2, 2]], [[0.0, 6.0, 3.0]], 3)
    close(found, (4.5, 3.0, 6.0, 0.5))
    assert np.isnan(response_shape.longest_of_n([[1, 2]], [[1.0, 1.0]], 2).share)


def test_the_longest_is_that_of_every_draw(rng):
    lengths, gold = rng.permutation(6)[None], rng.normal(size=(1, 6))
    subsets = [list(s) for s in itertools.combinations(range(6), 3)]
    expected = np.mean([gold[0, s][lengths[0, s].argmax()] for s in subsets])
    found = response_shape.longest_of_n(lengths, gold, 3)
    close(found.longest, expected)
    close(found.best, np.mean([gold[0, s].max() for s in subsets]))
    close(response_shape.longest_of_n(gold, gold, 3).share, 1.0)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\(2,\) rows of mask"):
        response_shape.truncated_share(np.ones((2, 3)), [True])
    with pytest.raises(ValueError, match=r"flags of shapes \(1,\) and \(2,\)"):
        response_shape.refusal_table([1], [1, 0])
    with pytest.raises(ValueError, match="differ"):
        response_shape.longest_of_n(np.ones((1, 2)), np.ones((1, 3)), 1)
    with pytest.raises(ValueError, match="series of shapes"):
        response_shape.length_bias([1.0], [1, 2])
