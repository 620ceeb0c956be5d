"""What a token adds to a text, and stop strings in the texts of real tokenizers."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import stopping
from rlhf_jax.data import bpe, stop_tokens, token_bytes

tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

TEXTS = ["Wait, the end 🙂 is café.\n\nUser: the theme"] * 3
PIECES = "<unk> <s> </s> ▁the ▁ the me e n . ▁Wait :".split()
WORDS = ("the", "he", "\n\nUser:", "\nUs", "é", "🙂", "e.")
STOPS = ("the", "\n\nUser:", "é🙂", "<eos>", "</s>")


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    return bpe.train(TEXTS, 290, tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def sentence_piece():
    """Pieces and byte tokens, with the decoder of Llama 2's tokenizer."""
    words = PIECES + [f"<0x{byte:02X}>" for byte in range(256)]
    model = tokenizers.models.BPE(
        {word: i for i, word in enumerate(words)}, [], byte_fallback=True
    )
    made, decoders = tokenizers.Tokenizer(model), tokenizers.decoders
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    made.add_special_tokens(PIECES[:3])
    return transformers.PreTrainedTokenizerFast(tokenizer_object=made)


@pytest.fixture(params=["byte_level", "sentence_piece"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def written(tokenizer, rng):
    """Random rows of ids without broken characters, and what they add to a text."""
    readable = [[i] for i, x in enumerate(token_bytes.of(tokenizer)) if x.isascii()]
    words = [tokenizer.encode(word, add_special_tokens=False) for word in WORDS]
    parts = readable + 20 * words
    rows = [
        [i for part in rng.integers(0, len(parts), 6) for i in parts[part]]
        for _ in range(500)
    ]
    first = tokenizer.encode("n", add_special_tokens=False)
    texts = [
        tokenizer.decode(first + row, clean_up_tokenization_spaces=False)
        for row in rows
    ]
    start = len(tokenizer.decode(first))
    return rows, [text[start:] for text in texts]


def test_bytes_of_tokens_are_those_of_the_decoded_text(tokenizer, rng):
    spelled = token_bytes.of(tokenizer)
    assert len(spelled) == len(tokenizer)
    for row, text in zip(*written(tokenizer, rng), strict=True):
        assert b"".join(spelled[i] for i in row).decode() == text


def test_parts_of_a_character_are_bytes(byte_level, sentence_piece):
    for made in (byte_level, sentence_piece):
        assert {bytes([byte]) for byte in range(256)} <= set(token_bytes.of(made))


def test_special_tokens_have_their_text_and_spaces_are_kept(sentence_piece):
    assert token_bytes.of(sentence_piece)[2:5] == (b"</s>", b" the", b" ")


def test_words_without_a_decoder_are_joined_by_spaces():
    model = tokenizers.models.WordLevel({"a": 0, "b": 1, "?": 2}, "?")
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(model)
    )
    assert token_bytes.of(made) == (b" a", b" b", b" ?")


def test_a_stop_string_is_found_where_the_text_has_it(tokenizer, rng):
    rows, texts = written(tokenizer, rng)
    matcher = stop_tokens.matcher(tokenizer, STOPS)
    state = jnp.zeros(len(rows), jnp.int32)
    for token in itertools.zip_longest(*rows, fillvalue=0):  # which spells no stop
        state = stopping.advance(matcher, state, jnp.array(token))
    expected = [any(stop in text for stop in STOPS) for text in texts]
    np.testing.assert_array_equal(stopping.complete(matcher, state), expected)
    assert 100 < sum(expected) < 400


def test_without_stop_strings_nothing_is_looked_for(byte_level):
    assert stop_tokens.matcher(byte_level, ()) is None
