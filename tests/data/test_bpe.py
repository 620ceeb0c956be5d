"""bpe: a trained tokenizer is an ordinary one."""

import pytest
import transformers

from rlhf_jax.data import bpe, tokenization

TEXTS = [
    "the cat sat on the mat, the hat",
    "that café is naïve — 中文 🙂",
    "  a\n\tb  ",
]


def test_a_trained_tokenizer_is_an_ordinary_one(tmp_path):
    made = bpe.train(TEXTS * 20, 300, tmp_path / "bpe")
    opened = transformers.AutoTokenizer.from_pretrained(str(tmp_path / "bpe"))
    for tokenizer in (made, opened):
        assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 1)
        assert len(tokenizer) == 300
        rows = tokenization.sft(tokenizer, TEXTS, length=64)
        assert tokenization.texts(tokenizer, rows.tokens, rows.mask) == TEXTS
    assert len(made(TEXTS[0])["input_ids"]) < len(TEXTS[0])
    again = bpe.train(TEXTS * 20, 300, tmp_path / "again")
    assert again.get_vocab() == made.get_vocab()


def test_a_vocabulary_smaller_than_the_bytes_is_refused(tmp_path):
    with pytest.raises(ValueError, match="vocab_size=100: .* alone are 258"):
        bpe.train(["a"], 100, tmp_path)
