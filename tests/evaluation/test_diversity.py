import numpy as np
import pytest

from rlhf_jax.evaluation import diversity

TOKENS = np.array([[1, 2, 1, 2], [1, 2, 9, 9], [3, 3, 3, 0], [1, 2, 7, 7]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]])


def test_duplicates_compare_valid_tokens_only():
    # 1212, 12, 333, 12: three different samples among four
    assert diversity.duplicate_share(TOKENS, MASK) == 0.25
    assert diversity.duplicate_share(TOKENS[:1], MASK[:1]) == 0.0
    assert diversity.duplicate_share(TOKENS[[0] * 5], MASK[[0] * 5]) == 0.8


def test_distinct_worked_by_hand():
    # bigrams 12 21 12 | 12 | 33 33 | 12: three different ones of seven
    assert diversity.distinct(TOKENS, MASK, n=2) == 3 / 7
    assert diversity.distinct(TOKENS, MASK, n=1) == 3 / 11
    assert diversity.distinct(TOKENS, MASK, n=5) == 0.0


def test_repeated_share_counts_within_samples_only():
    # bigrams: 1/3 of the first is repeated, none of 12, half of 33 33
    assert diversity.repeated_share(TOKENS, MASK, n=2) == pytest.approx(
        np.mean([1 / 3, 0, 1 / 2, 0])
    )


def test_entropy_is_weighed_by_tokens():
    entropies = np.where(MASK != 0, 2.0, np.nan)
    entropies[0] = 1.0
    assert diversity.entropy_per_token(entropies, MASK) == (4 * 1 + 7 * 2) / 11
    assert diversity.entropy_per_token(entropies, MASK * 0) == 0.0


def test_the_order_of_samples_does_not_matter(rng):
    order = rng.permutation(len(TOKENS))
    plain = diversity.summary(TOKENS, MASK, entropies=TOKENS * 1.0)
    shuffled = diversity.summary(
        TOKENS[order], MASK[order], entropies=TOKENS[order] * 1.0
    )
    assert plain == pytest.approx(shuffled)


def test_lengths_and_their_standard_deviation():
    np.testing.assert_array_equal(diversity.lengths(MASK), [4, 2, 3, 2])
    result = diversity.summary(TOKENS, MASK)
    assert result["eval/length"] == 2.75
    assert result["eval/length_sd"] == pytest.approx(np.std([4, 2, 3, 2]))


def test_no_samples_give_zeros():
    empty = np.zeros((0, 4), int)
    assert set(diversity.summary(empty, empty).values()) == {0.0}
