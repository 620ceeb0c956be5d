"""The order of a labeler's answers."""

import pytest

from rlhf_jax.feedback import labelers


def test_answers_in_any_order_come_out_in_the_order_of_prompts():
    results = iter([(2, "c"), (0, "a"), (1, "b")])
    assert labelers.in_order(results, 3) == ["a", "b", "c"]


@pytest.mark.parametrize("results", [[(0, "a")], [(0, "a"), (0, "b")], [(2, "a")]])
def test_a_prompt_without_one_answer_is_an_error(results):
    with pytest.raises(ValueError, match="labeler"):
        labelers.in_order(iter(results), 2)
