"""Preference rows in the forms of the wild, read as texts."""

import pytest

from rlhf_jax.data import bpe, conversations, preferences, sources, tokenization

datasets = pytest.importorskip("datasets")

USER = {"role": "user", "content": "hi"}
GOOD = {"role": "assistant", "content": "hello"}
BAD = {"role": "assistant", "content": "go away"}
SYSTEM = {"role": "system", "content": "be kind"}


class Templated:
    """A tokenizer whose chat template begins with BOS and ends turns with one token."""

    chat_template = "yes"
    bos_token, bos_token_id = "<s>", 1
    eos_token_id, all_special_ids, added_tokens_decoder = 2, [1, 2], {7: "<end>"}

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [1] * add_special_tokens + [7 * text.startswith("<end>")]}

    def convert_ids_to_tokens(self, number):
        return {7: "<end>"}[number]

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        assert not tokenize
        turns = [f"[{turn['role']}]{turn['content']}<end>\n" for turn in messages]
        turns += ["[assistant]"] * add_generation_prompt
        return self.bos_token + "".join(turns)


def read(*rows, tokenizer=None, **options):
    return preferences.read(
        datasets.Dataset.from_list(list(rows)), tokenizer, **options
    )


def test_texts_pass_as_they_are():
    pairs = read({"prompt": "ask:", "chosen": " yes", "rejected": " no"})
    assert pairs == (["ask:"], [" yes"], [" no"], None, None)


def test_a_missing_cue_can_be_appended():
    pairs = read({"prompt": "Human: x", "chosen": "", "rejected": ""}, cue="\n\nA:")
    assert pairs.prompts == ["Human: x\n\nA:"]


def test_a_text_may_be_a_users_turn():
    row = {"prompt": "hi", "chosen": "hello", "rejected": "go"}
    pairs = read(row, tokenizer=Templated(), chat=True)
    said = {"prompt": [USER], "chosen": "hello", "rejected": "go"}
    assert pairs == read(said, tokenizer=Templated())
    assert pairs.prompts == ["[user]hi<end>\n[assistant]"]
    plain = read(row, chat=True)
    assert plain.prompts == ["Human: hi\n\nAssistant:"]
    assert plain.chosen == [" hello"]


def test_soft_labels_are_read():
    row = {"prompt": "a", "chosen": "b", "rejected": "c", "preference": 0.25}
    assert read(row).preference == [0.25]
    assert read({**row, "margin": 2}).margin == [2.0]


@pytest.mark.parametrize("value", [None, "often"])
def test_a_label_that_is_no_number_names_its_row(value):
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "c", "preference": p}
        for p in ((0.5, None) if value is None else ("0.5", value))
    ]
    with pytest.raises(ValueError, match="row 1 .* preference .* is not a number"):
        read(*rows)


def test_conversations_in_one_text_are_split_where_they_part():
    start = "\n\nHuman: hi\n\nAssistant: what?\n\nHuman: well\n\nAssistant:"
    pairs = read({"chosen": start + " yes", "rejected": start + " yet no"})
    assert pairs[:3] == ([start], [" yes"], [" yet no"])
    same = read({"chosen": start + " yes", "rejected": start + " yes"})
    assert same[:3] == ([start], [" yes"], [" yes"])
    longer = start + " no\n\nHuman: why\n\nAssistant: so"
    pairs = read({"chosen": start + " yes", "rejected": longer})
    assert pairs.prompts == [start]
    assert pairs.rejected == [" no\n\nHuman: why\n\nAssistant: so"]


@pytest.mark.parametrize(
    "row",
    [
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"prompt": [USER], "chosen": "hello", "rejected": "go away"},
    ],
)
def test_lists_of_messages_become_turns_or_the_template(row):
    pairs = read(row)
    assert pairs[:3] == (["Human: hi\n\nAssistant:"], [" hello"], [" go away"])
    pairs = read(row, tokenizer=Templated())
    assert pairs[:3] == (["[user]hi<end>\n[assistant]"], ["hello"], ["go away"])


def test_a_message_as_the_answer_to_a_text():
    pairs = read({"prompt": "hi", "chosen": [USER, GOOD], "rejected": [BAD]})
    assert pairs[:3] == (["hi"], ["hello"], ["go away"])


def test_a_conversation_is_a_prompt_and_an_answer():
    asked, answer = conversations.split([SYSTEM, USER, BAD, USER, GOOD])
    assert asked == (
        "be kind\n\nHuman: hi\n\nAssistant: go away\n\nHuman: hi\n\nAssistant:"
    )
    assert answer == " hello"
    assert conversations.prompt("as it is") == "as it is"


def test_bos_is_kept_where_the_tokenizer_does_not_add_it():
    tokenizer = Templated()
    tokenizer.bos_token_id = 9
    assert conversations.prompt([USER], tokenizer) == "<s>[user]hi<end>\n[assistant]"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"chosen": "no turns", "rejected": "no turns at all"},
            r"row 0 .* no assistant's turn in the text; it should begin with",
        ),
        (
            {"chosen": [USER, GOOD], "rejected": [SYSTEM, USER, BAD]},
            "row 0 .* differ before the last answer",
        ),
        ({"chosen": [GOOD], "rejected": [BAD]}, r"1 message\(s\), the last by assist"),
        (
            {"prompt": [USER, GOOD], "chosen": [GOOD], "rejected": [BAD]},
            "the prompt ends with the assistant's turn",
        ),
        (
            {"prompt": [USER], "chosen": [USER], "rejected": [BAD]},
            "must end with a message whose role is assistant",
        ),
        (
            {"prompt": [{"role": "bot", "content": "x"}], "chosen": "", "rejected": ""},
            "role 'bot'; it needs a role",
        ),
        ({"prompt": [], "chosen": "a", "rejected": "b"}, "without messages"),
        (
            {"prompt": "a", "chosen": "b", "rejected": 3},
            "row 0 .* rejected is 3, a int; an answer is a text, in quotes",
        ),
    ],
)
def test_misuse_names_the_row_and_the_fix(row, message):
    with pytest.raises(ValueError, match=message):
        read(row)


@pytest.mark.data
def test_real_pairs(data_folder):
    rows = sources.load(data_folder / "dpo_en_demo")
    pairs = preferences.read(rows, cue=conversations.CUE)
    assert len(pairs.prompts) == 300
    assert all(text.endswith("Assistant:") for text in pairs.prompts)
    rows = sources.load(data_folder / "hh_harmless_base", split="train_from_test")
    whole = datasets.Dataset.from_dict(
        {
            side: [p + a for p, a in zip(rows["prompt"], rows[side], strict=True)]
            for side in ("chosen", "rejected")
        }
    )
    pairs, again = preferences.read(rows), preferences.read(whole)
    assert again.prompts == pairs.prompts
    assert again.chosen == pairs.chosen


@pytest.mark.data
def test_real_pairs_become_arrays(data_folder, tmp_path):
    rows = sources.load(data_folder / "dpo_en_demo", split="train[:50]")
    pairs = preferences.read(rows)
    tokenizer = bpe.train(pairs.prompts, 300, tmp_path)
    arrays, _ = tokenization.pairs(tokenizer, *pairs[:3], length=128)
    assert arrays.chosen.shape == arrays.rejected_mask.shape == (50, 128)
    assert (arrays.chosen[:, 0] == arrays.rejected[:, 0]).all()
