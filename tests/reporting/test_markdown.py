"""Numbers and words as a report prints them."""

import numpy as np
import pytest

from rlhf_jax.reporting import markdown


@pytest.mark.parametrize(
    ("estimate", "text"),
    [
        (None, "–"),
        ({"mean": 1.0, "low": 0.5, "high": 2.0}, "1 [0.5, 2]"),
        (
            {"mean": 1.0, "low": 1.0, "high": 1.0, "missing": 2},
            "1 [1, 1], 2 not finite",
        ),
        ({"mean": None, "low": None, "high": None, "missing": 3}, "not finite"),
    ],
)
def test_intervals_say_what_is_missing_from_them(estimate, text):
    assert markdown.interval(estimate) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (np.nan, "not finite"),
        (0.0, "0"),
        (0.00123, "0.0012"),
        (2.4567, "2.46"),
        (12345.6, "12346"),
        (-0.5, "-0.5"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert markdown.number(value) == text


def test_words_are_joined():
    assert markdown.join(["a"]) == "a"
    assert markdown.join(["a", "b"]) == "a and b"
    assert markdown.join(["a", "b", "c"]) == "a, b and c"


def test_nouns_are_counted_and_thousands_separated():
    assert (markdown.count(1, "seed"), markdown.count(3, "seed")) == (
        "1 seed",
        "3 seeds",
    )
    assert (markdown.integer(1234567.2), markdown.integer(None)) == ("1 234 567", "–")
