"""Preference rows as arrays, and sets of them for a test."""

import numpy as np
import pytest
import small_recipes

from rlhf_jax.cli import options
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder
from rlhf_jax.tasks import pairs
from rlhf_jax.types import Preferences

ROWS = [
    {"prompt": "Say red:", "chosen": " red", "rejected": " no blue"},
    {"prompt": "Say odd:", "chosen": " odd yes", "rejected": ""},
]


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    return small_recipes.tokenizer(tmp_path_factory.mktemp("words"))


@pytest.fixture(scope="module")
def model(chat):
    shape = model_config.llama(
        vocab_size=len(chat), width=8, layers=1, heads=1, max_length=64
    )
    return decoder.Decoder(shape)


def read(model, words, *specs, **how):
    data = options.Data()
    return pairs.read_sets(specs, data, model, words, **{"count": 9, **how})


def test_sets_are_called_by_their_files_and_know_lengths_in_characters(
    model, chat, tmp_path
):
    file = small_recipes.lines(tmp_path / "mine.jsonl", ROWS)
    folder = tmp_path / "theirs"
    folder.mkdir()
    small_recipes.lines(folder / "test.jsonl", ROWS[:1])
    found = read(model, chat, f"{file}:train", str(folder))
    assert list(found) == ["mine", "theirs"]
    assert found["mine"].lengths.tolist() == [[4, 8], [8, 0]]
    assert len(read(model, chat, f"{file}:train", count=1)["mine"].lengths) == 1


def test_a_text_is_a_turn_of_a_chat_where_asked(model, chat, tmp_path):
    file = small_recipes.lines(tmp_path / "mine.jsonl", ROWS)
    for asked in (False, True):
        made = read(model, chat, f"{file}:train", chat=asked)["mine"].pairs
        text = chat.decode(made.chosen[0][made.chosen_mask[0] == 1])
        assert ("<|im_start|>assistant" in text) == asked
        assert text.endswith("red<|im_end|>")


def test_two_sets_of_one_name_and_answers_that_are_no_text_are_refused(
    model, chat, tmp_path
):
    file = small_recipes.lines(tmp_path / "mine.jsonl", ROWS)
    with pytest.raises(ValueError, match="two sets are called mine; rename one"):
        read(model, chat, f"{file}:train", f"{file}:mine")
    rows = [{**ROWS[0], "chosen": True}]
    file = small_recipes.lines(tmp_path / "wrong.jsonl", rows)
    with pytest.raises(ValueError, match=r"wrong.*line 1: chosen is True, a bool"):
        read(model, chat, f"{file}:train")


def test_scores_do_not_depend_on_the_width_that_rows_are_read_at(rng):
    count, width, seen = 90, 32, []
    lengths = rng.integers(1, width + 1, (2, count))
    masks = (np.arange(width) < lengths[..., None]).astype(np.int32)
    tokens = rng.integers(1, 9, masks.shape)
    made = Preferences(tokens[0], masks[0], tokens[1], masks[1], np.ones(count))

    def score(params, rows):
        seen.append(rows[0].shape)
        return params * (rows[0] * rows[1]).sum(-1)

    found = pairs.scores(score, 2.0, made)
    np.testing.assert_array_equal(found, 2.0 * (tokens * masks).sum(-1).T)
    # Too few rows fit a quarter of the width; those that fit a half are enough.
    assert [shape[1] for shape in seen] == [16, 32]
    assert sum(shape[0] for shape in seen) == 2 * count


def test_pairs_that_are_cut_are_counted_and_their_form_is_said(model, chat):
    rows = [{"prompt": "zq" * 40, "chosen": "a", "rejected": "b"}] * 2
    rows += [{"prompt": "a", "chosen": "zq", "rejected": "b"}] * 8
    *_, about = pairs.read(rows, options.Data(), model, chat)
    assert sum(int(line.split()[-5]) for line in about if "cut to 64" in line) == 2
    assert about[-1].startswith("prompts and answers are joined as they are, without")
    *_, about = pairs.read(rows[2:], options.Data(), model, chat, chat=True)
    assert not any("cut" in line for line in about)
    assert about[-1].startswith("messages are written by the chat template")


def test_pairs_of_other_formats_are_read(model, chat):
    turns = {name: {"from": "gpt", "value": name} for name in ("chosen", "rejected")}
    row = {"conversations": [{"from": "human", "value": "a"}], **turns}
    train, _, about = pairs.read([row] * 9, options.Data(), model, chat)
    text = chat.decode(train.pairs.chosen[0][train.pairs.chosen_mask[0] == 1])
    assert text.endswith("assistant\nchosen<|im_end|>")
    assert about[0] == "columns conversations (ShareGPT) are read as prompt"
    with pytest.raises(ValueError, match="needed are prompt.chosen.rejected; chosen"):
        pairs.read([{"text": "a"}] * 9, options.Data(), model, chat)
    bad = {"prompt": 3, "chosen": "a", "rejected": "b"}
    with pytest.raises(ValueError, match="row 0 .*: prompt is a number, 3; it must be"):
        pairs.read([bad] * 9, options.Data(), model, chat)
