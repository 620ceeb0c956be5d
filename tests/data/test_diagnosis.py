"""Files that cannot be read: one line that names the file, the line and the fix."""

import gzip
import json

import pytest

from rlhf_jax.data import diagnosis, sources

datasets = pytest.importorskip("datasets")

GOOD = "".join(json.dumps({"text": f"text {i}"}) + "\n" for i in range(40)).encode()
LATIN = '{"text": "café"}\n'.encode("latin-1")


def packed(data):
    """As gzip writes it, whenever that is: bytes are names of tests here."""
    return gzip.compress(data, mtime=0)


@pytest.mark.parametrize(
    ("name", "written", "wanted"),
    [
        ("a.jsonl", LATIN, ", line 1: byte 14 (0xe9) is not UTF-8; save the file as"),
        ("a.jsonl", GOOD + LATIN, ", line 41: byte 14 (0xe9) is not UTF-8"),
        (
            "a.jsonl.gz",
            packed(LATIN),
            ", line 1: byte 14 (0xe9) is not UTF-8",
        ),
        ("a.csv", b"text\nb\n" + LATIN, ", line 3: byte 14 (0xe9) is not UTF-8"),
        ("a.jsonl", GOOD.decode().encode("utf-16"), ", line 1: byte 1 (0xff) is not"),
        (
            "a.jsonl.gz",
            packed(GOOD)[:99],
            ": the file is packed and breaks off",
        ),
        ("a.jsonl.gz", GOOD, ": no gzip file, though its name says so; leave .gz out"),
        ("a.jsonl", GOOD + b'{"text": \n', ", line 41: not JSON, Expecting value"),
        (
            "a.jsonl",
            b'"a"\n"b"\n',
            ', line 1: a text, "a", not a row; write one object',
        ),
        ("a.jsonl", b'{"text": "a", "text": "b"}\n', ", line 1: the key 'text' twice"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', ", line 1: half of a surrogate pair"),
        ("a.jsonl", b"\n \n", ": only blank lines; give it at least one row"),
        ("a.json", b'[{"text": "a"},\n', ", line 2: not JSON, Expecting value"),
        ("a.json", b'[{"text": "a"}, 5]', ", row 1 (counted from 0): a number, 5, not"),
        ("a.json", b'{"text": "a"}\n{"text"}\n', ", line 2: not JSON, Expecting ':'"),
        ("a.csv", b"text,b\na,1\nb,2,3\n", " cannot be read: Error tokenizing data"),
        ("a.parquet", b"hello", " cannot be read: Parquet file size is 5 bytes"),
    ],
)
def test_the_first_thing_wrong_is_said_in_one_line_and_nothing_before_it(
    tmp_path, monkeypatch, capfd, name, written, wanted
):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / name).write_bytes(written)
    with pytest.raises(ValueError) as caught:
        sources.load(tmp_path / name)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / name}{wanted}") and "\n" not in said
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a.jsonl", b"\xef\xbb\xbf" + GOOD),
        ("a.jsonl", GOOD.replace(b"\n", b"\r\n")),
        ("a.jsonl", GOOD + '{"text": "a\\u0000b"}\n{"text": "😀"}'.encode()),
        ("a.jsonl", b"[" + b",".join(GOOD.split(b"\n")[:-1]) + b"]"),
        ("a.jsonl", GOOD + json.dumps({"text": "a" * 10**6}).encode()),
        ("a.csv", b"text\nNA\nnull\nNone\n"),
    ],
)
def test_unusual_files_are_read(tmp_path, monkeypatch, name, written):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / name).write_bytes(written)
    rows = sources.load(tmp_path / name)
    assert len(rows) >= 3 and all(isinstance(text, str) for text in rows["text"])


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (None, "null"),
        (True, "a truth value, true"),
        (0.5, "a number, 0.5"),
        (["a", 1], 'a list, ["a", 1]'),
        ({"b": "é"}, 'an object, {"b": "é"}'),
        ("x" * 99, f'a text, "{"x" * 59}...'),
    ],
)
def test_a_value_is_named_by_its_kind_and_its_beginning(value, wanted):
    assert diagnosis.named(value) == wanted
