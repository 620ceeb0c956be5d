"""Rows of text from folders, files and the hub, and what is said without any."""

import gzip
import json

import pytest

from rlhf_jax.data import kinds, sources

ROWS = [{"text": f"text {i}", "label": i % 2, "rating": i} for i in range(6)]


def write_lines(path, rows):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "rows"
    folder.mkdir()
    write_lines(folder / "train.jsonl.gz", ROWS)
    write_lines(folder / "val.jsonl", ROWS[:2])
    write_lines(folder / "unsupervised.jsonl", [{"text": "one"}, {"text": "two"}])
    (folder / "README.md").write_text("not rows")
    return folder


def test_a_folder_has_a_file_a_split(folder):
    rows = sources.load(folder)
    assert rows[:]["text"] == [row["text"] for row in ROWS]
    assert rows[:]["rating"] == list(range(6))
    assert kinds.of(rows) == "classification"
    assert len(sources.load(str(folder), split="validation")) == 2


def test_joined_splits_keep_what_all_of_them_have(folder):
    rows = sources.load(folder, split="train+unsupervised")
    assert rows.column_names == ["text"]
    assert len(rows) == 8
    assert rows[7]["text"] == "two"


def test_a_folder_inside_holds_the_rows(folder):
    (folder / "data" / "rl").mkdir(parents=True)
    write_lines(folder / "data" / "rl" / "train.jsonl", ROWS[:1])
    assert len(sources.load(folder, folder="data/rl")) == 1
    with pytest.raises(ValueError, match="has no folder 'data/reward'"):
        sources.load(folder, folder="data/reward")


def test_a_part_of_a_split(folder):
    rows = sources.load(folder, split="train[:2]+train[50%:]")
    assert rows[:]["rating"] == [0, 1, 3, 4, 5]


def test_a_single_file_of_each_format(folder):
    rows = sources.load(folder / "train.jsonl.gz")
    for suffix in ("parquet", "csv", "json"):
        file = folder.parent / f"rows.{suffix}"
        getattr(rows, f"to_{suffix}")(str(file))
        assert sources.load(file, split="train[1:]")[:]["rating"] == [1, 2, 3, 4, 5]
        assert len(sources.load(file, split="rows")) == 6
        with pytest.raises(ValueError, match="no 'test'; there is rows, train"):
            sources.load(file, split="test")


def test_numbered_files_are_one_split(folder):
    for i in range(2):
        write_lines(folder / f"test-0000{i}-of-00002.jsonl", ROWS[3 * i : 3 * i + 3])
    assert sources.load(folder, split="test")[:]["rating"] == list(range(6))


def test_what_save_to_disk_wrote(folder):
    import datasets

    rows = sources.load(folder)
    rows.save_to_disk(folder.parent / "single")
    datasets.DatasetDict(train=rows).save_to_disk(folder.parent / "several")
    for name in ("single", "several"):
        assert len(sources.load(folder.parent / name)) == 6
    with pytest.raises(ValueError, match="there is no 'test'; there is train"):
        sources.load(folder.parent / "several", split="test")


def test_columns_can_be_renamed(folder):
    rows = sources.load(folder, columns={"prompt": "text"})
    assert kinds.of(rows) == "prompt"
    assert rows[0]["prompt"] == "text 0"


@pytest.mark.parametrize(
    ("columns", "kind"),
    [
        ("prompt chosen rejected margin", "preference"),
        ("chosen rejected", "conversations"),
        ("prompt completion", "completion"),
        ("messages", "messages"),
        ("translation", "translation"),
        ("text label", "classification"),
        ("text other", "text"),
        ("prompt answer", "prompt"),
        ("question response_j response_k qid", "paired"),
        ("question choices label", "choices"),
    ],
)
def test_kinds_show_in_the_columns(columns, kind):
    import datasets

    rows = datasets.Dataset.from_dict({name: ["a"] for name in columns.split()})
    assert kinds.of(rows) == kind


def test_a_file_that_changed_is_read_anew(folder):
    write_lines(folder / "test.jsonl", [{"text": "old"}])
    assert sources.load(folder, split="test")[:]["text"] == ["old"]
    write_lines(folder / "test.jsonl", [{"text": "new"}])
    assert sources.load(folder, split="test")[:]["text"] == ["new"]


def test_a_read_only_cache_is_not_needed(folder, monkeypatch):
    monkeypatch.setattr(sources.os, "access", lambda path, mode: False)
    assert len(sources.load(folder)) == 6
    assert not (folder.parent / "cache").exists()


def test_loading_prints_nothing(folder, capfd):
    sources.load(folder, split="train+unsupervised")
    assert capfd.readouterr() == ("", "")


def test_texts_that_another_set_has_are_dropped(folder):
    rows, other = sources.load(folder), sources.load(folder, split="val")
    assert sources.drop_shared(rows, other)[:]["rating"] == [2, 3, 4, 5]
    assert sources.drop_shared(["a", "b", "a"], ["a"]) == ["b"]


def says(message, *arguments, **options):
    with pytest.raises(ValueError) as caught:
        sources.load(*arguments, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_error_for_a_missing_path_names_similar_paths(folder):
    path = folder.parent / "rosw"
    text = says("neither a folder, nor a file, nor a data set on the hub", path)
    assert str(path) in text
    assert f"in {folder.parent} there is rows" in text


def test_a_hub_that_cannot_be_reached_takes_one_line(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    says("some/name: neither a folder, nor a file", "some/name")
    assert datasets.config.HF_HUB_OFFLINE is True


def test_an_unreachable_hub_is_noticed_before_rows_are_asked_for(monkeypatch):
    import datasets

    seen = []

    def asked(name, *rest, **options):
        seen.append(datasets.config.HF_HUB_OFFLINE)
        raise ConnectionError("down")

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(sources, "_reachable", lambda name: False)
    monkeypatch.setattr(datasets, "load_dataset", asked)
    says("can be reached (down)", "some/name")
    assert seen == [True]
    assert datasets.config.HF_HUB_OFFLINE is False


def test_the_error_for_a_missing_split_lists_the_splits(folder):
    says("there is no 'test'; there is train, unsupervised, val", folder, split="test")
    (folder.parent / "empty").mkdir()
    says("there is no .jsonl, .json, .csv or .parquet file", folder.parent / "empty")
    says("README.md: not a .jsonl, .json, .csv or .parquet", folder / "README.md")


def test_no_rows_is_an_error(folder):
    (folder / "test.jsonl").write_text("")
    says("test.jsonl is empty", folder, split="test")


def test_a_broken_file_is_named(folder):
    (folder / "test.jsonl").write_text('{"text": "a"}\n{"text": \n')
    says("test.jsonl, line 2: not JSON, Expecting value", folder, split="test")


def test_the_error_for_a_missing_column_lists_the_columns(folder):
    text = says("no column 'prompt'", folder, columns=("prompt",))
    assert "there is text, label, rating" in text
    assert "columns={'prompt': 'your column'}" in text
    write_lines(folder / "test.jsonl", [{"review": "a"}])
    text = says("columns review; needed are", folder, split="test")
    assert "prompt+chosen+rejected" in text


@pytest.mark.parametrize("blank", ["", "  \n", None])
def test_the_error_for_an_empty_text_names_its_row(folder, blank):
    rows = [{"text": "a"}, {"text": "b"}, {"text": blank}]
    write_lines(folder / "test.jsonl", rows)
    says("test.jsonl, line 3: no text", folder, split="test")


@pytest.mark.data
def test_real_reviews(data_folder):
    train = sources.load(data_folder / "imdb")
    test = sources.load(data_folder / "imdb", split="test")
    assert len(train) == 25_000
    kept = sources.drop_shared(train, test)
    assert 0 < len(train) - len(kept) < 200
    assert not set(kept[:]["text"]) & set(test[:]["text"])


@pytest.mark.data
def test_real_sets_are_recognised(data_folder):
    wanted = {
        "tinystories_small": "text",
        "sst2": "classification",
        "rotten_tomatoes": "classification",
        "multi30k": "translation",
        "dpo_en_demo": "preference",
    }
    for name, kind in wanted.items():
        assert kinds.of(sources.load(data_folder / name)) == kind
