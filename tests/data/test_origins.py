"""Where a row stands in its file: whatever was held out, and whatever the format."""

import gzip
import json

import numpy as np
import pytest

from rlhf_jax.data import origins, sources

datasets = pytest.importorskip("datasets")

ROWS = [{"text": f"text {i}"} for i in range(6)]
LINES = [json.dumps(row) for row in ROWS]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def load(path, **options):
    return sources.load(path, marked=True, **options)


@pytest.mark.parametrize(
    ("name", "written", "wanted"),
    [
        ("a.jsonl", "\n".join(LINES), "line 5"),
        ("a.jsonl", "\n\n" + "\n \n".join(LINES), "line 11"),
        ("a.jsonl.gz", "\n".join(LINES), "line 5"),
        ("a.csv", "text\n" + "\n".join(r["text"] for r in ROWS), "line 6"),
        ("a.csv", 'text\n"one\ntwo"\n\nb\nc\nd\n"e\nf"\n', "line 8"),
        ("a.json", json.dumps(ROWS, indent=1), "row 4 (counted from 0)"),
        ("a.json", "\n".join(LINES), "line 5"),
    ],
)
def test_a_row_of_a_file_is_named_by_its_line(tmp_path, name, written, wanted):
    opener = gzip.open if name.endswith(".gz") else open
    with opener(tmp_path / name, "wt") as file:
        file.write(written)
    rows = load(tmp_path / name)
    assert origins.visible(rows) == ["text"]
    assert origins.words(rows, 4) == f"{tmp_path / name}, {wanted}"


def test_a_place_is_kept_through_sampling_filters_and_parts(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text("\n".join(LINES))
    rows = load(file, split="train[4:]+train[:2]")
    said = [origins.words(rows, i) for i in range(4)]
    assert said == [f"{file}, line {i}" for i in (5, 6, 1, 2)]
    some = rows.select(np.array([3, 0])).filter(lambda row: row["text"] == "text 4")
    assert origins.words(some, 0) == f"{file}, line 5"


def test_one_of_several_files_is_named(tmp_path):
    for i, suffix in enumerate((".jsonl", ".jsonl")):
        part = LINES[3 * i : 3 * i + 3]
        (tmp_path / f"train-{i}{suffix}").write_text("\n".join(part))
    rows = load(tmp_path)
    assert origins.words(rows, 4) == f"{tmp_path / 'train-1.jsonl'}, line 2"
    for i in range(2):
        part = datasets.Dataset.from_list(ROWS[3 * i : 3 * i + 3])
        part.to_parquet(tmp_path / f"test-{i}.parquet")
    wanted = f"{tmp_path / 'test-1.parquet'}, row 1 (counted from 0)"
    assert origins.words(load(tmp_path, split="test"), 4) == wanted


def test_rows_without_files_are_counted(tmp_path):
    rows = datasets.Dataset.from_list(ROWS)
    assert origins.words(rows, 2) == "row 2 (counted from 0)"
    marked = origins.mark(rows, [("the rows given", range(6))])
    some = marked.select([5, 2])
    assert origins.words(some, 1) == "the rows given, row 2 (counted from 0)"
    assert origins.unmark(marked).column_names == ["text"]
    rows.save_to_disk(tmp_path / "saved")
    assert "saved, split 'train', row 2 (" in origins.words(load(tmp_path / "saved"), 2)
