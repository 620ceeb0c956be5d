import math

import numpy as np
import pytest

from rlhf_jax.evaluation import capabilities


def test_tokens_are_compared_whatever_the_padding():
    tokens = np.array([[5, 6, 0, 0], [5, 6, 7, 0], [0, 5, 6, 0], [6, 5, 0, 0]])
    mask = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0]])
    answers = np.array([[9, 5, 6]] * 4)
    answer_mask = np.array([[0, 1, 1]] * 4)
    found = capabilities.same_tokens(tokens, mask, answers, answer_mask)
    assert found.tolist() == [True, False, True, False]


def test_text_is_compared_up_to_white_space_and_case():
    completions = [" The  Film\n", "film", "no"]
    answers = ["the film", ("movie", "Film"), "yes"]
    assert capabilities.same_text(completions, answers).tolist() == [True, True, False]


def test_accuracy_of_all_and_of_each_group():
    found = capabilities.accuracy([1, 0, 1, 1], ["sum", "sum", "fact", "fact"])
    assert found["all"].mean == 0.75
    assert found["all"].error == pytest.approx((0.75 * 0.25 / 4) ** 0.5)
    assert found["sum"] == (0.5, 0.125**0.5, 2)
    assert found["fact"] == (1.0, 0.0, 2)


def test_no_items_have_no_accuracy():
    found = capabilities.accuracy([])["all"]
    assert math.isnan(found.mean)
    assert found.count == 0


def test_answer_logps_ignore_padding():
    logps = np.array([[-1.0, -2.0, np.nan], [-3.0, np.inf, np.nan]])
    mask = np.array([[1, 1, 0], [1, 0, 0]])
    assert capabilities.answer_logps(logps, mask).tolist() == [-3.0, -3.0]
