"""What servers' answers say of labels, and which of them must not be believed."""

import math

import numpy as np
import pytest

from rlhf_jax.feedback import replies
from rlhf_jax.feedback.replies import Scored
from rlhf_jax.feedback.transport import Unusable

USAGE = (5, 1)


def an_echo(tokens, logps, written="", **choice):
    """The echo of "Say: A" or the like, and one more token."""
    text = "".join(tokens)
    choice = {"index": 0, "text": text} | choice
    choice["logprobs"] = {"tokens": tokens, "token_logprobs": logps}
    return {"choices": [choice], "usage": {"completion_tokens": int(bool(written))}}


def test_a_label_is_the_sum_of_its_tokens():
    data = an_echo(["Say", ":", " 1", "0", "!"], [None, -1, -2, -0.5, -9], "!")
    scored = replies.echoed(data, "Say:", " 10")
    assert scored == Scored((" 1", "0"), -2.5)


def test_a_written_token_is_not_the_labels():
    """The server goes on with the label itself."""
    data = an_echo(["Say", ":", "A", "A"], [None, -1, -2, -7], "A")
    assert replies.echoed(data, "Say:", "A").logp == -2
    del data["usage"]
    assert replies.echoed(data, "Say:", "A").logp == -2


@pytest.mark.parametrize(
    "tokens, logps, reason",
    [
        (["Say", ":A"], [None, -1], "one token"),
        (["Say", ":", "A"], [None, -1], "not one a token"),
        (["Say", ":", "A"], [None, -1, None], "missing"),
        (["Say", ":", "A"], [None, -1, math.nan], "no log-prob"),
        (["Say", ":", "A"], [None, -1, 0.5], "no log-prob"),
        (["Say", ":", "A"], [None, -1, "-1"], "missing"),
        ([], [], "no log-probs of the echo"),
        (["A"], [-1], "shorter"),
        (["Say", ":", "B"], [None, -1, -1], "not the prompt's"),
        (["Say", "?", "A"], [None, -1, -1], "not the prompt's"),
    ],
)
def test_an_echo_that_is_not_the_prompts_is_refused(tokens, logps, reason):
    data = an_echo(tokens, logps, text="Say:A")
    with pytest.raises(Unusable, match=reason):
        replies.echoed(data, "Say:", "A")


def test_a_server_that_ignores_echo_is_noticed():
    """llama.cpp's own server would score every label by the same written token."""
    data = an_echo([" the"], [-1.0], " the")
    with pytest.raises(Unusable, match="not echoed"):
        replies.echoed(data, "Say:", "A")


def test_an_echo_without_log_probs_is_refused():
    data = {"choices": [{"index": 0, "text": "Say:A", "logprobs": None}]}
    with pytest.raises(Unusable, match="no log-probs"):
        replies.echoed(data, "Say:", "A")


def test_labels_after_one_context_have_one_distribution():
    same = [
        Scored(("A",), -1.0, {"A": -1.0, "B": -2.0}),
        Scored(("C",), -9.0, {"A": -1.1, "B": -1.9, "C": -9.0}),
        None,
        Scored(("D",), -9.0, None),
    ]
    replies.agreed(same)
    shifted = Scored(("B",), -0.5, {"x": -0.1, "B": -0.5})
    with pytest.raises(Unusable, match="not those after the prompt"):
        replies.agreed([*same, shifted])


def test_next_tokens_of_either_kind_of_endpoint():
    table = {"top_logprobs": [{" A": -0.5, " B": -1.0}]}
    pairs = [{"token": " A", "logprob": -0.5}, {"token": " B", "logprob": -1}]
    content = {"content": [{"token": " A", "logprob": -0.5, "top_logprobs": pairs}]}
    for logprobs in (table, content):
        data = {"choices": [{"text": " A", "logprobs": logprobs}]}
        assert replies.next_tokens(data) == {" A": -0.5, " B": -1.0}


def test_tokens_of_the_same_text_add_up():
    pairs = [{"token": "A", "logprob": math.log(p)} for p in (0.25, 0.5)]
    data = {"choices": [{"logprobs": {"content": [{"top_logprobs": pairs}]}}]}
    assert math.isclose(replies.next_tokens(data)["A"], math.log(0.75))


@pytest.mark.parametrize(
    "logprobs",
    [None, {}, {"content": []}, {"top_logprobs": []}, {"top_logprobs": [None]}],
)
def test_no_next_token_at_all_is_refused(logprobs):
    with pytest.raises(Unusable, match="no log-probs"):
        replies.next_tokens({"choices": [{"text": "A", "logprobs": logprobs}]})


def test_choices_come_by_their_index_and_duplicates_count_once():
    one, two = {"index": 0, "text": "a"}, {"index": 1, "text": "b"}
    assert replies.choices({"choices": [two, one, dict(two)]}) == [one, two]
    with pytest.raises(Unusable, match="two different"):
        replies.choices({"choices": [one, one | {"text": "c"}]})
    with pytest.raises(Unusable, match="without choices"):
        replies.choices({"choices": []})


def test_a_reading_by_hand():
    scored = [Scored(("A",), math.log(0.5)), Scored(("B",), math.log(0.125))]
    reading = replies.reading(scored, USAGE)
    assert reading.outside == pytest.approx(0.375) and reading.told.all()
    assert reading[3:] == USAGE and reading.logps.dtype == np.float64


def test_a_label_that_begins_with_another_is_taken_out_of_it():
    """p("1") is that of "1" and whatever follows, so also of "10" where it has two
    tokens: what is left is no 10; of one token, it is apart."""
    one = Scored(("1",), math.log(0.5))
    within = replies.reading([one, Scored(("1", "0"), math.log(0.25))], USAGE)
    apart = replies.reading([one, Scored(("10",), math.log(0.25))], USAGE)
    np.testing.assert_allclose(np.exp(within.logps), [0.25, 0.25], rtol=1e-6)
    np.testing.assert_array_equal(apart.logps, np.log([0.5, 0.25]))
    assert within.outside == pytest.approx(0.5)
    assert apart.outside == pytest.approx(0.25)


def test_a_label_that_is_not_told_is_never_a_number():
    reading = replies.reading([Scored(("A",), -1.0), None], USAGE)
    assert reading.told.tolist() == [True, False]
    assert reading.logps[1] == -math.inf and math.isnan(reading.outside)


def test_probabilities_that_sum_to_more_than_1_are_refused():
    """As where every label is scored by 0."""
    with pytest.raises(Unusable, match="sum to 2"):
        replies.reading([Scored(("A",), 0.0), Scored(("B",), 0.0)], USAGE)


def test_votes_are_shares_of_whole_words():
    texts = ["A", " A.", "10 of 10", "1", "And", "a", "B", ""]
    reading = replies.votes(texts, (" A", "1", "10", "C"), USAGE)
    shares = np.array([2, 1, 1, 0]) / 8
    np.testing.assert_allclose(np.exp(reading.logps), shares)
    assert reading.told.tolist() == [True, True, True, False]
    assert reading.outside == pytest.approx(0.5)
