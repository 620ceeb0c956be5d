"""Words as Moses has them."""

import pytest

from rlhf_jax.data.translation import moses


@pytest.mark.parametrize(
    ("language", "line", "words"),
    [
        ("en", "It's Bob's (a) DOG, e.g. big.", "it 's bob 's ( a ) dog , e.g. big ."),
        ("fr", "L'homme dit « Non » !", 'l\' homme dit " non " !'),
        ("de", "Ein „Hund“ – z.B. dieser…", 'ein " hund " - z.b. dieser ...'),
        ("en", "The dogs’ tails, 5 %", 'the dogs " tails , 5 %'),  # as Perl has it
        ("en", "  two  spaces\tand a tab ", "two spaces and a tab"),
    ],
)  # fmt: skip
def test_lines_are_lowered_normalised_and_cut_into_words(language, line, words):
    assert moses.words([line], language) == [words]


def test_tokenised_words_are_unchanged():
    tokenized = ["it 's bob 's ( a ) dog , he said .", "l' eau n' est pas là ."]
    for line, language in zip(tokenized, ("en", "fr"), strict=True):
        assert moses.words([line], language, tokenized=True) == [line]
        assert moses.words([line], language) != [line]  # why the flag is there


def test_plain_text_is_words_put_together():
    assert moses.plain(["it 's so , he said ."], "en") == ["it's so, he said."]
    assert moses.plain(["l' homme & moi"], "fr") == ["l'homme & moi"]


def test_equal_lines_and_their_order_are_kept():
    assert moses.words(["b.", "a.", "b."], "en") == ["b .", "a .", "b ."]
