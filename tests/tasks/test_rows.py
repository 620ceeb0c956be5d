"""Rows of a recipe: from files or Python, and held out without being trained on."""

import json

import datasets
import pytest

from rlhf_jax.cli import options
from rlhf_jax.data import origins
from rlhf_jax.tasks import rows

ROWS = [{"text": str(i), "kind": i % 2} for i in range(40)]


def test_rows_are_held_out_without_being_trained_on():
    train, held = rows.hold_out(datasets.Dataset.from_list(ROWS), 256)
    assert len(held) == 4 and len(train) == 36
    assert not set(train["text"]) & set(held["text"])
    few = [rows.hold_out(datasets.Dataset.from_list(ROWS), 2)[1] for _ in range(2)]
    assert len(few[0]) == 2 and few[0]["text"][:] == few[1]["text"][:]


def test_one_row_cannot_be_held_out():
    with pytest.raises(ValueError, match="only row.*--data.eval-dataset"):
        rows.hold_out(datasets.Dataset.from_list(ROWS[:1]), 1)


@pytest.mark.parametrize("kind", [list, datasets.Dataset.from_list, "file"])
def test_a_file_a_dataset_and_a_list_are_read_alike(kind, tmp_path):
    if kind == "file":
        source = str(tmp_path / "rows.jsonl")
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    else:
        source = kind(ROWS)
    data = options.Data(eval_rows=3, columns=("prompt=text",))
    train, held = rows.read(source, data, needed=("prompt",))
    assert set(origins.visible(train)) == {"kind", "prompt"}
    assert len(held) == 3 and len(train) == 37
    expected = rows.hold_out(datasets.Dataset.from_list(ROWS), 3)
    assert train["prompt"][:] == expected[0]["text"][:]
    assert held["prompt"][:] == expected[1]["text"][:]


def test_held_out_rows_may_be_given_as_well():
    other = [{"text": f"held {i}"} for i in range(9)]
    data = options.Data(eval_dataset=other, eval_rows=4)
    train, held = rows.read(ROWS, data)
    assert len(train) == 40 and len(held) == 4
    assert set(held["text"]) < {row["text"] for row in other}
    assert rows.read(ROWS, data)[1]["text"][:] == held["text"][:]


@pytest.mark.parametrize(
    ("source", "options", "said"),
    [
        (("text",), {}, "rows of type tuple: give a path, a hub name"),
        (["text"], {}, "rows of type list"),
        ([], {}, "no rows"),
        ([{"text": "a"}, {"text": " "}], {}, "row 1 .*: no text"),
        (
            [{"text": "a"}, {"text": ["b"]}],
            {},
            "row 1 .*: text is a list, .*give one t",
        ),
        ([{"word": "a"}], {}, "columns word; needed are"),
        ([{"word": "a"}], {"columns": ["prompt"]}, "no column 'prompt'"),
        (ROWS, {"split": "test"}, "split 'test': rows given in Python have no splits"),
    ],
)
def test_rows_that_cannot_be_read_are_named(source, options, said):
    with pytest.raises(ValueError, match=said):
        rows.load(source, **options)


def test_files_of_prompts_that_cannot_be_read_are_named(tmp_path):
    for written, said in (
        (
            "café".encode("latin-1"),
            "--file .*a.txt, line 1: byte 4 .0xe9. is not UTF-8",
        ),
        (b"\n \n", "--file .*a.txt: only blank lines"),
    ):
        (tmp_path / "a.txt").write_bytes(written)
        with pytest.raises(ValueError, match=said):
            rows.of_prompts("--file", tmp_path / "a.txt")
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\n\ntwo")
    assert rows.of_prompts("--file", tmp_path / "a.txt")["prompt"][:] == ["one", "two"]
