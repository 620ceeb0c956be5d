"""Questions that are answered in writing, from rows as people have them."""

import datasets
import pytest

from rlhf_jax.data import references

READING = {
    "question": "Who?",
    "context": "The cat sat.",
    "answers": {"text": ["The cat", "cat"], "answer_start": [0, 4]},
}
SUM = {"question": "1 + 2?", "answer": "It is <<1+2=3>>3.\n#### 3"}
PAIR = {"translation": {"fr": "un chat", "en": "a cat"}}
ASKED = {"prompt": "Q: Who?\nA:", "references": ["the cat", "a cat"], "samples": "x"}


def read(*rows, **options):
    rows = datasets.Dataset.from_list(list(rows))
    return references.of_rows(rows, "rows", count=9, **options)


@pytest.mark.parametrize(
    ("row", "kind", "prompt", "answers"),
    [
        (
            READING,
            "reading",
            "The cat sat.\n\nQuestion: Who?\nAnswer:",
            ["The cat", "cat"],
        ),
        (SUM, "arithmetic", "Question: 1 + 2?\nAnswer:", [SUM["answer"]]),
        (PAIR, "translation", "French: un chat\nEnglish:", ["a cat"]),
        (ASKED, "references", "Q: Who?\nA:", ["the cat", "a cat"]),
    ],
)
def test_columns_say_what_is_asked(row, kind, prompt, answers):
    found = read(row)
    assert found.prompts == [prompt] and found.answers == [answers]
    assert found.kind is references.KINDS[kind]


@pytest.mark.parametrize("answers", ["cat", ["cat"], {"text": ["cat"]}])
def test_answers_may_be_a_text_or_a_list_or_squads(answers):
    assert read(READING | {"answers": answers}).answers == [["cat"]]


def test_a_question_without_answer_is_answered_by_saying_nothing():
    none = READING | {"answers": {"text": [], "answer_start": []}}
    assert read(READING, none).answers == [["The cat", "cat"], [""]]


@pytest.mark.parametrize(
    "row", [READING | {"answers": []}, SUM | {"answer": ""}, ASKED | {"references": []}]
)
def test_a_suite_without_answers_is_refused(row):
    with pytest.raises(ValueError, match="has no answer in any of 2 rows"):
        read(row, row)


def test_translations_are_into_english_unless_asked_otherwise():
    pair = {"translation": {"en": "a cat", "de": "eine Katze"}}
    assert read(pair).prompts == ["German: eine Katze\nEnglish:"]
    there = read(pair, languages=("en", "de"))
    assert there.prompts == ["English: a cat\nGerman:"]
    assert there.answers == [["eine Katze"]]
    other = read({"translation": {"fr": "un chat", "xx": "miau"}})
    assert other.prompts == ["French: un chat\nxx:"]
    with pytest.raises(ValueError, match="it has en, de; name two of these"):
        read(pair, languages=("en", "fr"))


def test_a_sample_is_random_but_fixed():
    rows = [SUM | {"question": f"{i}?"} for i in range(30)]
    one, two = (read(*rows).prompts for _ in range(2))
    assert one == two and len(one) == 9 and one != read(*rows[:9]).prompts


def test_rows_of_no_kind_have_none():
    assert references.kind(datasets.Dataset.from_list([{"text": "x"}])) is None
