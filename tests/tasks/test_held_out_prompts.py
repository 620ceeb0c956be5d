"""Rows of supervised recipes as prompts that the policy completes."""

import datasets

from rlhf_jax.data import examples
from rlhf_jax.tasks import held_out_prompts

USER, REPLY = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}


def rows(*made):
    return datasets.Dataset.from_list(list(made))


def test_rows_with_prompts_are_taken_as_they_are():
    pairs = rows({"prompt": "Say:", "chosen": "a", "rejected": "b", "word": "w"})
    asked = held_out_prompts.of_pairs(pairs, None, cue="!")
    assert asked.rows.column_names == pairs.column_names and asked.cue == "!"
    both = rows({"prompt": "Say:", "completion": "a"})
    asked = held_out_prompts.of_examples(both, None, cue="!")
    assert asked.rows is both and asked.cue == "!" and asked.texts is None


def test_a_text_begins_with_its_prompt_and_is_human_text_itself():
    texts = ["one two three four five six seven eight nine ten", " ", "short"]
    asked = held_out_prompts.of_examples(
        rows(*({"text": text, "word": "w"} for text in texts)), None, cue="never"
    )
    starts = ["one two three four five six seven eight", "short"]
    assert asked.rows["prompt"] == starts and asked.rows["word"] == ["w", "w"]
    assert asked.texts == texts and asked.cue == ""


def test_the_assistants_last_turn_is_what_is_asked_for():
    asked = held_out_prompts.of_examples(
        rows(
            {"messages": [USER, REPLY, USER, REPLY], "word": "w"},
            {"messages": [USER], "word": "nobody answered"},
            {"messages": [REPLY], "word": "nobody asked"},
        ),
        None,
    )
    assert asked.rows["word"] == ["w"]
    assert asked.rows["prompt"] == [[USER, REPLY, USER]]
    ((prompt, learned), answer) = examples.read(asked.rows, None)[0]
    assert prompt.endswith("Assistant:") and not learned and answer == (" Yo", True)


def test_conversations_without_a_prompt_are_asked_for_what_they_share():
    start = "\n\nHuman: Hi\n\nAssistant:"
    asked = held_out_prompts.of_pairs(
        rows({"chosen": f"{start} Yo", "rejected": f"{start} No"}), None, cue="never"
    )
    assert asked.rows["prompt"] == [start] and asked.cue == ""


def test_rows_without_text_are_nobodys_prompts():
    assert held_out_prompts.of_examples(rows({"input_ids": [1, 2]}), None) is None
    assert held_out_prompts.of_examples(rows({"messages": [USER]}), None) is None
    assert held_out_prompts.of_examples(rows({"text": " "}), None) is None
