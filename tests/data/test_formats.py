"""ShareGPT's and Alpaca's columns become messages, and say so."""

import pytest

from rlhf_jax.data import formats

datasets = pytest.importorskip("datasets")

TURNS = [{"from": "human", "value": "one"}, {"from": "gpt", "value": "two"}]
USER = {"role": "user", "content": "one"}
ANSWER = {"role": "assistant", "content": "two"}


def read(*rows):
    return formats.recognised(datasets.Dataset.from_list(list(rows)))


def test_conversations_are_messages():
    rows, said = read({"conversations": TURNS, "id": 3})
    assert rows[0] == {"messages": [USER, ANSWER], "id": 3}
    assert said == "columns conversations (ShareGPT) are read as messages"
    roles = [{"from": r, "value": "a"} for r in ("system", "user", "tool")]
    rows, _ = read({"conversations": roles})
    assert [m["role"] for m in rows[0]["messages"]] == ["system", "user", "tool"]


def test_a_system_column_is_the_first_turn():
    rows, _ = read(
        {"conversations": TURNS, "system": "brief"},
        {"conversations": TURNS, "system": ""},
    )
    system = {"role": "system", "content": "brief"}
    assert rows["messages"][:] == [[system, USER, ANSWER], [USER, ANSWER]]
    assert rows.column_names == ["messages"]


def test_conversations_may_have_roles_already():
    rows, _ = read({"conversations": [USER, ANSWER]})
    assert rows[0]["messages"] == [USER, ANSWER]


def test_conversations_beside_two_answers_are_a_prompt():
    worse = {"from": "gpt", "value": "three"}
    row = {"conversations": TURNS[:1], "chosen": TURNS[1], "rejected": worse}
    rows, said = read(row)
    rejected = [{"role": "assistant", "content": "three"}]
    assert rows[0] == {"prompt": [USER], "chosen": [ANSWER], "rejected": rejected}
    assert said.endswith("read as prompt")


def test_an_instruction_is_a_turn_and_its_output_the_answer():
    rows, said = read(
        {"instruction": "one", "input": "", "output": "two"},
        {"instruction": "one", "input": "more", "output": "two"},
    )
    asked = {"role": "user", "content": "one\n\nmore"}
    assert rows["prompt"][:] == [[USER], [asked]]
    assert rows["completion"][:] == [[ANSWER]] * 2
    assert said == (
        "columns instruction, input, output (Alpaca) are read as prompt and "
        "completion, messages"
    )
    rows, _ = read({"instruction": "one", "chosen": "a", "rejected": "b"})
    assert rows[0] == {"prompt": [USER], "chosen": "a", "rejected": "b"}


def test_other_columns_are_left_as_they_are():
    row = {"text": "a", "input": "b", "output": "c"}
    rows, said = read(row)
    assert rows[0] == row and said == ""
    known = {"prompt": "a", "instruction": "b", "messages": [USER]}
    rows, said = read({**known, "conversations": TURNS})
    assert rows[0] == {**known, "conversations": TURNS} and said == ""


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"conversations": []}, "row 1 .*: conversations is a list, .*list of turns"),
        ({"conversations": [{"from": "gpt", "value": None}]}, "row 1 .* has the turn"),
    ],
)
def test_a_turn_that_is_none_is_named(row, said):
    with pytest.raises(ValueError, match=said):
        read({"conversations": TURNS}, row)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"instruction": None, "output": "a"}, "row 1 .*: instruction is null"),
        ({"instruction": " ", "output": "a"}, "row 1 .*: no instruction"),
        ({"instruction": "a", "output": None}, "row 1 .*: output is null"),
    ],
)
def test_an_instruction_that_is_none_is_named(row, said):
    with pytest.raises(ValueError, match=said):
        read({"instruction": "one", "output": "two"}, row)
