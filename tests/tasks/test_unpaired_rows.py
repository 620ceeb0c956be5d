"""Single answers with labels, from rows of their own or from pairs."""

import numpy as np
import pytest
import small_recipes

from rlhf_jax.cli import options
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder
from rlhf_jax.tasks import unpaired

END = "<|im_end|>"  # what ends a turn of the template
ROWS = [
    {"prompt": f"Say {word}:", "completion": f" {word}{'!' * i}", "label": i % 2 == 0}
    for i, word in enumerate(small_recipes.WORDS)
]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return small_recipes.tokenizer(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def read(words):
    shape = model_config.llama(
        vocab_size=len(words), width=8, layers=1, heads=1, max_length=64
    )
    model = decoder.Decoder(shape)
    return lambda rows, **data: unpaired.read(rows, options.Data(**data), model, words)


def texts(words, rows):
    """[(prompt, answer)] of `unpaired.Rows`."""
    return [
        (words.decode(tokens[:start]), words.decode(tokens[start : mask.sum()]))
        for tokens, mask, start in zip(*rows, strict=True)
    ]


def test_rows_keep_their_labels_and_answers_end(read, words):
    train, held, about = read(ROWS)
    assert len(train.desirable) == 9 and len(held.desirable) == 1
    known = {row["prompt"]: row for row in ROWS}
    found = texts(words, train.own)
    for (prompt, answer), label in zip(found, train.desirable, strict=True):
        row = known[prompt]
        assert answer == row["completion"] + END
        assert label == row["label"]
    assert about[0] == "9 training answers of up to 24, 4 of them desirable"


def test_mismatched_answers_are_those_of_other_prompts(read, words):
    train, _, _ = read(ROWS)
    own, other = texts(words, train.own), texts(words, train.mismatched)
    assert [prompt for prompt, _ in own] == [prompt for prompt, _ in other]
    assert sorted(a for _, a in own) == sorted(a for _, a in other)
    assert not any(x == y for x, y in zip(own, other, strict=True))


def test_rows_are_turned_past_answers_to_the_same_prompt():
    def beside(prompts):
        return [prompts[i] for i in unpaired.mismatched(prompts)]

    assert beside(list("aabb")) == list("bbaa")
    assert beside(list("abab")) == list("baba")
    assert beside(list("aaab")) == list("baaa")  # as few as possible
    assert unpaired.mismatched(["a"]).tolist() == [0]
    for prompts in (list("abcabc"), list("aabbcc")):
        assert all(x != y for x, y in zip(beside(prompts), prompts, strict=True))


def test_a_pair_is_a_desirable_and_an_undesirable_answer(read, words):
    train, held, about = read(small_recipes.PAIRS)
    assert (len(train.desirable), train.desirable.sum()) == (72, 36)
    assert len(held.desirable) == 8
    known = {row["prompt"]: row for row in small_recipes.PAIRS}
    found = texts(words, train.own)
    for (prompt, answer), label in zip(found, train.desirable, strict=True):
        side = "chosen" if label else "rejected"
        assert answer == known[prompt][side] + END
    # No prompt is on both sides of the split, however many answers it has.
    assert not {p for p, _ in found} & {p for p, _ in texts(words, held.own)}
    assert about[0].endswith("36 of them desirable")


def test_completions_may_be_messages(read, words):
    said = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
            "label": int(row["label"]),
        }
        for row in ROWS
    ]
    train, _, _ = read(said)
    prompt, answer = texts(words, train.own)[0]
    assert prompt.endswith("<|im_start|>assistant\n") and "<|im_end|>" in answer


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": 2}, r"row 0 .*label is 2; write true"),
        ({"label": "yes"}, r"label is 'yes'; write true"),
        ({"label": None}, r"label is None; write true"),
        ({"completion": 5}, r"row 0 .*completion is a number, 5"),
    ],
)
def test_what_is_no_label_or_answer_is_refused(read, change, said):
    rows = [{**row, **change} for row in ROWS]
    with pytest.raises(ValueError, match=said):
        read(rows)


def test_rows_without_labels_and_soft_labels_are_refused(read):
    bare = [{k: row[k] for k in ("prompt", "completion")} for row in ROWS]
    with pytest.raises(ValueError, match="there is no label; name yours"):
        read(bare)
    soft = [{**row, "preference": 0.75} for row in small_recipes.PAIRS]
    with pytest.raises(ValueError, match="preference is 0.75 in 36 rows: KTO takes"):
        read(soft)


def test_the_reference_is_still_unknown(read):
    train, _, _ = read(ROWS)
    assert train.reference.shape == (9, 2) and not np.any(train.reference)
