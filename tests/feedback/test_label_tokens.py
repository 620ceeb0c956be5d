"""Where labels begin: prompt and label as one text, at one token boundary."""

import numpy as np
import pytest

from rlhf_jax.data import bpe
from rlhf_jax.feedback import label_tokens, labelers

LONG = "a red cat sat on a mat and said nothing at all to the old grey dog. " * 3


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Blanks belong to the word after them, "10" is one token and so is "b=c"."""
    texts = [" 1 10 9 say"] * 9 + ["ab" * 9] * 9
    return bpe.train(texts, 275, tmp_path_factory.mktemp("digits"))


def whole(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("prompt", ["say", LONG, LONG + "\nScore:"])
def test_context_and_label_are_the_tokens_of_the_joint_text(digits, prompt):
    labels = (" 1", " 10", " 9", " say so")
    (one,) = label_tokens.encode(digits, [prompt], labels)
    np.testing.assert_array_equal(one.context, whole(digits, prompt))
    assert one.prompt_tokens == len(one.context)
    for label, tokens in zip(labels, one.labels, strict=True):
        assert [*one.context, *tokens] == whole(digits, prompt + label)
    assert [len(tokens) for tokens in one.labels[:3]] == [1, 1, 1]


def test_a_blank_at_the_end_belongs_to_the_labels(digits):
    (one,) = label_tokens.encode(digits, [LONG + "Score: "], ("1", "10"))
    np.testing.assert_array_equal(one.context, whole(digits, LONG + "Score:"))
    assert one.labels == tuple(tuple(whole(digits, x)) for x in (" 1", " 10"))
    assert one.prompt_tokens == len(one.context) + 1


def test_a_prompt_that_merges_with_a_label_fails_and_others_do_not(digits):
    good, bad = label_tokens.encode(digits, ["say", LONG + "a"], ("b", " 1"))
    assert isinstance(good, label_tokens.Encoded)
    assert isinstance(bad, labelers.Failure) and "'a'" in bad.reason


def test_a_word_longer_than_what_is_encoded_twice_is_encoded_whole(digits):
    prompt = "b" + "ab" * 60  # from its second letter on it would be other tokens
    (one,) = label_tokens.encode(digits, [prompt], (" 1", " 9"))
    np.testing.assert_array_equal(one.context, whole(digits, prompt))


def test_an_empty_prompt_is_what_texts_begin_with(digits):
    (one,) = label_tokens.encode(digits, [""], ("a", "b"))
    assert one.context.tolist() == [digits.eos_token_id] and one.prompt_tokens == 0


@pytest.mark.parametrize("labels", ["12", ("1",), ("1", "1"), ("1", "")])
def test_labels_are_different_texts(labels):
    with pytest.raises(ValueError, match="labels"):
        label_tokens.check(labels)


def test_shared_counts_the_tokens_that_all_rows_begin_with():
    rows = [np.array(x) for x in ([1, 2, 3], [1, 2, 4, 5], [1, 2])]
    assert label_tokens.shared(rows) == 2
    assert label_tokens.shared(rows[:1]) == 3
    assert label_tokens.shared([rows[0], np.array([9])]) == 0
