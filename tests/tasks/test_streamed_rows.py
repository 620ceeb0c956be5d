"""Streamed rows: read as others are, held out from the head, refused by name."""

import itertools
import json

import numpy as np
import pytest
import small_recipes

from experiments import sft
from rlhf_jax.cli import library, options
from rlhf_jax.models import config, decoder
from rlhf_jax.tasks import pairs, rows, sft_rows, streamed_rows

pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")

ROWS = [{"text": f"zq {i}"} for i in range(600)]


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return small_recipes.tokenizer(tmp_path_factory.mktemp("words"), template=False)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    return small_recipes.lines(folder / "rows.jsonl", ROWS)


def read(words, source, *, length=16, pack=False, **data):
    shape = config.llama(vocab_size=300, width=8, layers=1, heads=1, max_length=64)
    data = options.Data(**{"streaming": True, "eval_rows": 5, **data})
    form = sft_rows.Form(length, pack=pack)
    model = decoder.Decoder(shape)
    return streamed_rows.read(source, data, model, words, form)


def texts(words, tokens, mask):
    return words.decode(tokens[mask != 0], skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["file", "iterable"])
def test_the_first_rows_are_held_out_and_the_others_follow_in_order(words, file, kind):
    source = file
    if kind == "iterable":
        source = datasets.IterableDataset.from_generator(lambda: iter(ROWS))
    train, held, about = read(words, source)
    found = list(train.read())
    assert len(found) == 595 and len(held.tokens) == 5
    for row, place in ((found[0], 5), (found[300], 305), (found[-1], 599)):
        assert row.tokens.shape == row.target_mask.shape == (16,)
        assert texts(words, row.tokens, row.mask) == ROWS[place]["text"]
    assert texts(words, held.tokens[4], held.mask[4]) == "zq 4"
    assert (
        "streamed, each cut or padded to 16 tokens; the next one is drawn" in about[0]
    )
    assert about[1].endswith("(the first rows)")
    again = list(itertools.islice(train.read(), 3))
    np.testing.assert_array_equal(again[2].tokens, found[2].tokens)


def test_held_out_rows_may_have_a_file_of_their_own(words, file):
    other = [{"text": f"held {i}"} for i in range(9)]
    train, held, _ = read(words, file, eval_dataset=other, eval_rows=4)
    assert len(held.tokens) == 4 and sum(1 for _ in train.read()) == 600


def test_a_bad_row_is_named_by_its_line_when_it_comes(words, tmp_path):
    written = [*ROWS[:400], {"text": 5}]
    source = small_recipes.lines(tmp_path / "odd.jsonl", written)
    train, _, _ = read(words, source)
    with pytest.raises(
        ValueError, match="odd.jsonl, line 401: text is a number, 5, in"
    ):
        list(train.read())
    with open(tmp_path / "bad.jsonl", "w") as opened:
        opened.writelines(json.dumps(row) + "\n" for row in ROWS)
        opened.write("{\n")
    with pytest.raises(ValueError, match="bad.jsonl, line 601: not JSON"):
        list(read(words, tmp_path / "bad.jsonl")[0].read())


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"pack": True}, "--pack: rows of a stream are not packed"),
        ({"split": "train[:5]"}, r"train\[:5\]': a stream is of one whole split"),
        ({"split": "nope"}, "there is no 'nope'; there is rows, train"),
        ({"eval_rows": 600}, "line 600: no row after it has anything to learn"),
        ({"columns": ("prompt=text",)}, "columns prompt; needed are"),
    ],
)
def test_streams_that_cannot_be_read_are_refused(words, file, how, said):
    with pytest.raises(ValueError, match=said):
        read(words, file, **how)


def test_only_supervised_fine_tuning_streams(words, file):
    shape = config.llama(vocab_size=300, width=8, layers=1, heads=1, max_length=64)
    model = decoder.Decoder(shape)
    with pytest.raises(ValueError, match="--data.streaming: only supervised"):
        pairs.read(file, options.Data(streaming=True), model, words)
    stream = datasets.IterableDataset.from_generator(lambda: iter(ROWS))
    with pytest.raises(ValueError, match="are a stream, which only supervised"):
        rows.load(stream)
    assert streamed_rows.wanted(stream, options.Data())
    assert not streamed_rows.wanted(ROWS, options.Data())
    assert not streamed_rows.wanted(datasets.Dataset.from_list(ROWS), options.Data())
    named = library.names(options.Data(eval_dataset=stream))
    assert named.eval_dataset.endswith("IterableDataset")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({}, "--data.streaming and --fit.steps 0: how many rows a stream has"),
        ({"fit__steps": 5, "pack": True}, "--pack and --data.streaming: rows of a str"),
    ],
)
def test_flags_that_a_stream_contradicts_are_named_before_it_is_read(flags, said):
    given = {"model": "m", "dataset": "d", "data__streaming": True, **flags}
    with pytest.raises(ValueError, match=said):
        small_recipes.run(sft, **given)


def test_the_number_of_updates_must_be_given():
    with pytest.raises(ValueError, match="--fit.steps is needed: how many rows a str"):
        options.Fit().updates(None)
    assert options.Fit(steps=3).updates(None) == 3
