"""tasks.chat: an instruction and the first words of a text as a user's turn."""

import functools

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from rlhf_jax.tasks import chat

INSTRUCTION = "write a review : {text}"
TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }} [end] {% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
SPECIAL = ("[user]", "[assistant]", "[end]", "[pad]")


@functools.cache
def tokenizer(template=TEMPLATE):
    words = (*SPECIAL, "write", "a", "review", ":", "one", "two", "three", "four")
    vocab = {word: i for i, word in enumerate(words)}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="[pad]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="[end]", pad_token="[end]",
        additional_special_tokens=list(SPECIAL),
    )  # fmt: skip
    made.chat_template = template
    return made


def read(prompts):
    rows = zip(np.asarray(prompts.tokens), np.asarray(prompts.mask), strict=True)
    return [tokenizer().decode(tokens[mask != 0]) for tokens, mask in rows]


def test_a_prompt_is_the_users_turn_up_to_the_answer():
    made = chat.prompts(
        INSTRUCTION, ["one two three", "four"], tokenizer(), words=2, length=10
    )
    assert read(made) == [
        "[user] write a review : one two [end] [assistant]",
        "[user] write a review : four [end] [assistant]",
    ]
    assert made.tokens.shape == (2, 10) and made.mask[0, 0] == 0  # padded on the left


def test_a_turn_that_is_too_long_gets_fewer_words_and_stays_whole():
    made = chat.prompts(
        INSTRUCTION, ["one two three four"], tokenizer(), words=4, length=9
    )
    assert read(made) == ["[user] write a review : one two [end] [assistant]"]


def test_an_instruction_that_alone_is_too_long_is_refused():
    with pytest.raises(ValueError, match="7 tokens"):
        chat.prompts(INSTRUCTION, ["one"], tokenizer(), words=1, length=6)


def test_an_answer_ends_with_its_turn_and_is_padded_with_another_token():
    stops, pad = chat.ends(tokenizer())
    assert stops == (SPECIAL.index("[end]"),) and pad not in stops


def test_what_makes_no_turns_is_refused():
    with pytest.raises(ValueError, match="without {text} all prompts would be one"):
        chat.check("write a review", tokenizer())
    with pytest.raises(ValueError, match="no chat template"):
        chat.check(INSTRUCTION, tokenizer(None))
    chat.check(INSTRUCTION, tokenizer())
