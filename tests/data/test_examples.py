"""Rows as texts to learn: chats by their template, ends of turns, parts as arrays."""

import json

import numpy as np
import pytest
import small_recipes

from rlhf_jax.data import conversations, examples, spans, stop_tokens, tokenization

datasets = pytest.importorskip("datasets")

USER = {"role": "user", "content": "hi"}
SYSTEM = {"role": "system", "content": "be kind"}
FIRST = {"role": "assistant", "content": "one"}
SECOND = {"role": "assistant", "content": "two"}
CHAT = [SYSTEM, USER, FIRST, USER, SECOND]
TURNS = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return small_recipes.tokenizer(tmp_path_factory.mktemp("plain"), template=False)


@pytest.fixture(scope="module")
def chatty(tmp_path_factory):
    return small_recipes.tokenizer(tmp_path_factory.mktemp("chatty"))


def read(tokenizer, *rows, **options):
    return examples.read(datasets.Dataset.from_list(list(rows)), tokenizer, **options)


def test_a_turn_ends_with_the_templates_token(plain, chatty):
    assert stop_tokens.end_of_turn(plain) is None
    assert stop_tokens.end_id(plain) == plain.eos_token_id
    turn = chatty.convert_tokens_to_ids("<|im_end|>")
    assert stop_tokens.end_of_turn(chatty) == stop_tokens.end_id(chatty) == turn
    assert stop_tokens.stop_ids(chatty) == tuple(sorted({turn, chatty.eos_token_id}))


def test_a_model_directory_may_name_more_stops(tmp_path):
    words = small_recipes.tokenizer(tmp_path)
    for said, more in (([5, 7], {5, 7}), (9, {9}), (None, set())):
        file = tmp_path / "generation_config.json"
        file.write_text(json.dumps({"eos_token_id": said}))
        words.name_or_path = str(tmp_path)
        ids = {stop_tokens.end_of_turn(words), words.eos_token_id}
        assert set(stop_tokens.stop_ids(words)) == ids | more


def test_padding_is_no_end(chatty):
    """This tokenizer pads with its EOS, as GPT-2's users make it do."""
    assert chatty.pad_token_id == chatty.eos_token_id
    stops = stop_tokens.stop_ids(chatty)
    assert tokenization.pad_id(chatty, stops) not in stops


def test_the_kinds_of_rows(plain):
    assert read(plain, {"text": "all"}) == [[("all", True)]]
    row = {"prompt": "ask", "completion": " yes"}
    assert read(plain, row, cue=":") == [[("ask:", False), (" yes", True)]]
    turns = {"prompt": [USER], "completion": [FIRST]}
    wanted = [[("Human: hi\n\nAssistant:", False), (" one", True)]]
    assert read(plain, turns) == wanted
    assert read(plain, {"messages": [USER, FIRST]}) == wanted


def test_every_turn_of_the_assistant_is_learned(chatty):
    result = conversations.parts(CHAT, chatty)
    whole = chatty.apply_chat_template(CHAT, tokenize=False)
    assert "".join(text for text, _ in result) + "<|im_end|>\n" == whole
    learned = [text for text, learned in result if learned]
    assert learned == ["one<|im_end|>", "two"]
    assert conversations.parts([*CHAT, USER], chatty) == result  # a question is left


def test_a_template_that_rewrites_history_teaches_the_last_answer(chatty):
    kept = chatty.chat_template
    try:
        chatty.chat_template = (
            "{% for m in messages %}{% if loop.last or m['role'] == 'user' %}"
            "<|im_start|>{{ m['content'] }}<|im_end|>{% endif %}{% endfor %}"
        )
        result = conversations.parts(CHAT, chatty)
        assert [learned for _, learned in result] == [False, True]
        assert result[1][0].endswith("two")
    finally:
        chatty.chat_template = kept


def test_parts_become_the_tokens_of_the_template(chatty):
    rows = read(chatty, {"messages": CHAT}, {"messages": [USER, SECOND]})
    end = stop_tokens.end_id(chatty)
    result = spans.tokens(chatty, rows, length=200, end=end)
    for i, chat in enumerate((CHAT, [USER, SECOND])):
        said = chatty.apply_chat_template(chat, tokenize=False)
        wanted = chatty(said.rstrip("\n"), add_special_tokens=False)["input_ids"]
        valid = result.mask[i] != 0
        assert result.tokens[i][valid].tolist() == wanted
        learned = result.tokens[i][result.target_mask[i] != 0]
        text = "one<|im_end|>two<|im_end|>" if i == 0 else "two<|im_end|>"
        assert chatty.decode(learned) == text
    assert not np.any(result.target_mask & ~result.mask)


def test_parts_that_are_too_long_are_cut_as_asked(plain):
    rows = [[("abcd", False), ("efg", True)]]
    eos = plain.eos_token_id
    left = spans.tokens(plain, rows, length=5, truncate="left")
    right = spans.tokens(plain, rows, length=5)
    ids = plain("abcdefg")["input_ids"]
    assert left.tokens[0].tolist() == [*ids[3:], eos]
    assert left.target_mask[0].tolist() == [0, 1, 1, 1, 1]
    assert right.tokens[0].tolist() == ids[:5]
    assert right.target_mask[0].tolist() == [0, 0, 0, 0, 1]
    with pytest.raises(ValueError, match="row 0: the text has 8 tokens, length=5"):
        spans.tokens(plain, rows, length=5, truncate="error")


def test_whole_texts_are_learned_as_sft_has_them(plain):
    texts = ["good", "so so"]
    rows = [[(text, True)] for text in texts]
    result = spans.tokens(plain, rows, length=9)
    for ours, theirs in zip(
        result, tokenization.sft(plain, texts, length=9), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_pairs_say_where_their_answers_begin(plain):
    result, starts = tokenization.pairs(
        plain, ["abc", "a"], ["d", "ef"], ["e", "f"], length=6, end=7
    )
    assert starts.tolist() == [3, 1]
    for row, start in enumerate(starts):
        np.testing.assert_array_equal(
            result.chosen[row, :start], result.rejected[row, :start]
        )
    last = [row[mask != 0][-1] for row, mask in zip(*result[:2], strict=True)]
    assert last == [7, 7]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": 1}, "columns label; needed are messages; prompt.completion; text"),
        ({"messages": [USER]}, "row 0 .* without an assistant's answer"),
        ({"messages": []}, "row 0 .* without messages"),
        (
            {"prompt": [USER], "completion": [USER]},
            "whose role is assistant",
        ),
        (
            {"prompt": [USER], "completion": []},
            "whose role is assistant",
        ),
    ],
)
def test_misuse_names_the_row_and_the_fix(plain, row, message):
    with pytest.raises(ValueError, match=message):
        read(plain, row)


def test_prompts_are_written_for_an_answer(plain, chatty):
    rows = datasets.Dataset.from_list([{"prompt": [USER]}])
    assert examples.prompts(rows, chatty) == [TURNS]
    texts = datasets.Dataset.from_list([{"prompt": "hi"}])
    assert examples.prompts(texts, plain, cue="!") == ["hi!"]
