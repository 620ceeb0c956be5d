"""Answers in writing: normalisation, exact match, F1 and final numbers."""

import decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.evaluation import answers

WORDS = st.lists(st.sampled_from(["a", "the", "cat", "Cat!", "sat", "7"]), max_size=6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("The  Cat, sat.", "cat sat"),
        ("an apple a day", "apple day"),
        ("theme", "theme"),
        ("the-end", "theend"),
        ("A.", ""),
        (" \n", ""),
    ],
)
def test_texts_are_normalised(text, words):
    assert answers.normalize(text) == words


@settings(max_examples=25, deadline=None)
@given(WORDS)
def test_normalising_twice_changes_nothing(words):
    once = answers.normalize(" ".join(words))
    assert answers.normalize(once) == once


def test_an_exact_match_is_one_of_the_references_but_for_its_form():
    assert answers.exact_match("The Cat.", ["dog", "cat"]) == 1.0
    assert answers.exact_match("the cat sat", ["cat"]) == 0.0
    assert answers.exact_match("", [""]) == 1.0


def test_f1_worked_by_hand():
    # "cat sat down" against "cat sat": P = 2/3, R = 1.
    assert answers.f1("the cat sat down", ["cat sat"]) == pytest.approx(0.8)
    # Repeats count: one of three against one.
    assert answers.f1("cat cat cat", ["cat"]) == pytest.approx(0.5)
    assert answers.f1("cat", ["dog", "cat"]) == 1.0
    assert answers.f1("cat", ["dog"]) == 0.0


def test_saying_nothing_is_right_only_where_nothing_is():
    assert answers.f1("", [""]) == answers.f1("the", [""]) == 1.0
    assert answers.f1("cat", [""]) == answers.f1("", ["cat"]) == 0.0


@settings(max_examples=25, deadline=None)
@given(WORDS, WORDS)
def test_f1_is_the_loops_symmetric_and_one_for_exact_matches(left, right):
    left, right = " ".join(left), " ".join(right)
    rest, shared = answers.normalize(right).split(), 0
    words = answers.normalize(left).split()
    for word in words:
        if word in rest:
            rest.remove(word)
            shared += 1
    if shared:
        precision = shared / len(words)
        recall = shared / len(answers.normalize(right).split())
        expected = 2 * precision * recall / (precision + recall)
        assert answers.f1(left, [right]) == pytest.approx(expected, rel=1e-12)
    assert answers.f1(left, [right]) == answers.f1(right, [left])
    if answers.exact_match(left, [right]):
        assert answers.f1(left, [right]) == 1.0


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She makes 9 * 2 = $18 every day.\n#### 18", 18),
        ("so 10-3=7", 7),
        ("it costs $1,234.50.", "1234.5"),
        ("from 20 to -5", -5),
        ("it fell by -$3", -3),
        ("#### 12 and then 40 more", 12),
        ("about .5", "0.5"),
        ("it is 100", 100),
        ("none at all", None),
        ("#### none, not 3", 3),
        ("3 but #### none", None),
    ],
)
def test_the_final_number_of_a_text(text, number):
    number = None if number is None else decimal.Decimal(number)
    assert answers.final_number(text) == number


def test_numbers_are_compared_by_their_value():
    assert answers.same_number("It is 18.00.", ["#### 18"]) == 1.0
    assert answers.same_number("It is 1,000", ["1000"]) == 1.0
    assert answers.same_number("It is 17", ["18"]) == 0.0
    assert answers.same_number("I do not know", ["none"]) == 0.0
