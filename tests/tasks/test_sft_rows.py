"""Rows of supervised fine-tuning: what is learned, what is cut, and what is said."""

import jax
import numpy as np
import pytest
import small_recipes

from rlhf_jax.cli import options
from rlhf_jax.models import config, decoder
from rlhf_jax.tasks import sft_rows
from rlhf_jax.types import Packed, Tokens

pytest.importorskip("transformers")

TEXTS = [{"text": "yes or no" + " yes" * (i % 3)} for i in range(20)]
BOTH = [{"prompt": "no? ", "completion": "yes" + "!" * (i % 4)} for i in range(20)]
CHATS = small_recipes.chats()
SHORT = [
    {"messages": [{"role": r, "content": "a" * (i % 5)} for r in ("user", "assistant")]}
    for i in range(20)
]
IDS = [{"input_ids": [5, 6, 7, 8], "labels": [-100, 6, 7, 8]}] * 20


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    return {
        name: small_recipes.tokenizer(folder / name, template=name == "chatty")
        for name in ("plain", "chatty")
    }


def read(words, rows, *, length=64, columns=(), **how):
    shape = config.llama(vocab_size=300, width=8, layers=1, heads=1, max_length=64)
    data = options.Data(columns=columns)
    form = sft_rows.Form(length, **how)
    return sft_rows.read(rows, data, decoder.Decoder(shape), words, form)


@pytest.mark.parametrize(
    ("name", "rows", "form"),
    [
        ("plain", TEXTS, "texts are learned as they are, each with {eos} at its end"),
        ("plain", BOTH, "prompts and answers are joined as they are; {eos} ends each"),
        ("chatty", BOTH, "as they are, without the chat template; <|im_end|> ends"),
        ("plain", CHATS, "no chat template: messages are written as turns that begin"),
        ("chatty", CHATS, "messages are written by the chat template; <|im_end|> ends"),
        ("plain", IDS, "token ids are taken as they are, nothing is added"),
    ],
)
def test_the_form_of_the_text_is_said(words, name, rows, form):
    train, held, about = read(words[name], rows)
    assert form.format(eos=words[name].eos_token) in about[-1]
    assert type(train) is Tokens and len(train.tokens) + len(held.tokens) == len(rows)
    assert about[0].startswith(f"{len(train.tokens)} training rows, ")
    assert about[0].endswith(f"{train.target_mask.sum()} tokens to learn")


def test_rows_that_are_cut_or_left_out_are_counted(words):
    rows = [{"prompt": "zq" * 9, "completion": "z"}] * 4
    rows += [{"prompt": "zq", "completion": "z" * n} for n in (1, 2, 11, 12)] * 5
    train, held, about = read(words["plain"], rows, length=12)
    cut, left = (
        sum(int(line.split(mark)[0].split()[-1]) for line in about[:2] if mark in line)
        for mark in (" cut to 12 tokens", " rows have none and are left out")
    )
    assert (cut, left) == (4 + 10, 4)
    assert len(train.tokens) + len(held.tokens) == 20
    _, _, about = read(words["plain"], rows)
    assert not any("cut" in line or "left out" in line for line in about)


@pytest.mark.parametrize(("name", "rows"), [("plain", BOTH), ("chatty", SHORT)])
def test_packed_rows_hold_the_same_targets(words, name, rows):
    alone, _, _ = read(words[name], rows)
    packed, held, about = read(words[name], rows, pack=True)
    assert type(packed) is type(held) is Packed
    assert len(packed.tokens) < len(alone.tokens)
    targets = [np.sort(x.tokens[x.target_mask != 0]) for x in (packed, alone)]
    np.testing.assert_array_equal(*targets)
    share = 100 * (1 - packed.mask.mean())
    count, width = packed.tokens.shape
    assert f"{len(alone.tokens)} training rows packed into {count} of {width} tokens "
    assert f"({share:.0f}% padding), {targets[0].size} tokens to learn" in about[0]


def test_texts_are_packed_without_padding(words):
    train, _, about = read(words["plain"], TEXTS, length=8, pack=True)
    assert type(train) is Tokens and train.mask.all() and train.tokens.shape[1] == 8
    assert about[0] == f"{train.tokens.size} training tokens in rows of 8"


def test_token_ids_are_learned_as_they_are(words):
    train, _, _ = read(words["plain"], IDS)
    kept = jax.tree.map(lambda x: x[:, :4].tolist(), train)
    assert kept.tokens[0] == [5, 6, 7, 8] and kept.target_mask[0] == [0, 1, 1, 1]
    with pytest.raises(ValueError, match="row 3 .*: input_ids has 300 at position 0"):
        read(words["plain"], [*IDS[:3], {"input_ids": [300], "labels": [300]}])


def test_other_formats_are_read_and_announced(words):
    turns = [{"from": "human", "value": "no?"}, {"from": "gpt", "value": "yes"}]
    _, _, about = read(words["chatty"], [{"conversations": turns}] * 20)
    assert about[0] == "columns conversations (ShareGPT) are read as messages"
    alpaca = {"instruction": "no?", "input": "", "output": "yes"}
    same, _, _ = read(words["chatty"], [alpaca] * 20)
    wanted, _, _ = read(words["chatty"], [{"conversations": turns}] * 20)
    np.testing.assert_array_equal(same.tokens, wanted.tokens)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"prompt": "a", "completions": "b"},
            "the rows given: columns prompt, completions; .*did you mean completion by "
            "completions.*--data.columns completion=completions$",
        ),
        ({"chosen": "a", "rejected": "b"}, "prompt.completion; text; name yours with"),
        ({"text": 5}, "row 0 .*: text is a number, 5; it must be a text, in quotes"),
        ({"messages": "hi"}, "messages is a text, .*; it must be a list of messages"),
        ({"prompt": 3, "completion": "a"}, "prompt is a number, 3; .* or a list of m"),
        ({"text": ["a", "b"]}, 'text is a list, ."a", "b".; it must be a text'),
    ],
)
def test_rows_of_other_kinds_are_named(words, row, said):
    with pytest.raises(ValueError, match=said):
        read(words["plain"], [row] * 20)


def test_rows_that_are_held_out_keep_their_number(words):
    user = {"role": "user", "content": "a"}
    bad = {"role": "assistant", "content": None}
    rows = [*CHATS[:17], {"messages": [user, bad]}, *CHATS[17:]]
    with pytest.raises(ValueError, match="row 17 .*content of a message .* is null"):
        read(words["chatty"], rows)
    rows[17] = {"messages": [user]}
    with pytest.raises(ValueError, match="row 17 .* without an assistant's answer"):
        read(words["chatty"], rows)
