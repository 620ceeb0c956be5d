"""Parallel text to ids: what is read, joined, padded and kept."""

import dataclasses
import gzip
import json

import numpy as np
import pytest

from rlhf_jax.data.translation import corpora, moses, subwords
from rlhf_jax.runtime import files

TRIPLES = [
    ("Un homme, un chien.", "A man, a dog.", "Ein Mann, ein Hund."),
    ("Le chien dort.", "The dog sleeps.", "Der Hund schläft."),
    ("L'homme dort.", "The man sleeps.", "Der Mann schläft."),
]
PAIRS = [("The man's dog .", "Der Hund des Mannes ."), ("A dog !", "Ein Hund !")]


def write(path, rows, languages):
    rows = [{"translation": dict(zip(languages, row, strict=True))} for row in rows]
    path.parent.mkdir(exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)
    return str(path.parent)


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A corpus of three languages and one of two, whose words stand apart."""
    root = tmp_path_factory.mktemp("corpora")
    three = write(root / "three" / "train.jsonl.gz", TRIPLES, ("fr", "en", "de"))
    write(root / "three" / "val.jsonl.gz", TRIPLES[:1], ("fr", "en", "de"))
    two = write(root / "two" / "train.jsonl.gz", PAIRS, ("en", "de"))
    return corpora.Corpus(three), corpora.Corpus(two, tokenized=True)


@pytest.fixture(scope="module")
def config(given):
    return corpora.Config(learn=given[:1], count=given[:1], merges=20)


@pytest.fixture(scope="module")
def prepared(given, config):
    three, two = given
    return corpora.prepare({"tune": (three,), "teach": (two, three)}, config=config)


def test_texts_words_and_ids_tell_the_same(prepared, given):
    tune = prepared.sets["tune"]
    assert tune.languages == ("fr", "en", "de") and len(tune) == 3
    for index, name in enumerate(tune.languages):
        assert tune.texts[name] == [row[index] for row in TRIPLES]
        assert tune.words[name] == moses.words(tune.texts[name], name)
        padded = corpora.pad(tune.ids[name], range(3), length=30)
        decoded = prepared.subwords.decode(name, *padded)
        assert decoded == tune.words[name]


def test_a_row_is_as_long_as_its_longest_language(prepared):
    tune = prepared.sets["tune"]
    for i, length in enumerate(tune.lengths()):
        counts = [len(tune.ids[name].row(i)) - 1 for name in tune.languages]
        assert length == max(counts)


def test_joined_corpora_have_the_languages_and_the_rows_of_all(prepared):
    teach, tune = prepared.sets["teach"], prepared.sets["tune"]
    assert teach.languages == ("en", "de") and len(teach) == 5
    assert teach.texts["en"] == [row[0] for row in PAIRS] + tune.texts["en"]
    assert teach.words["en"][:2] == ["the man 's dog .", "a dog !"]
    for i in range(3):
        np.testing.assert_array_equal(teach.ids["de"].row(2 + i), tune.ids["de"].row(i))


def test_merges_and_vocabularies_come_from_the_corpora_named(given, prepared):
    three, two = given
    other = corpora.prepare(
        {"tune": (three,)},
        config=corpora.Config(
            learn=(three,), count=(three, two), merges=20, vocab_size=40
        ),
    )
    same = prepared.subwords.encoder.to_str()
    assert other.subwords.encoder.to_str() == same
    assert prepared.facts["merges"] == 20
    assert other.facts["vocabulary"] == {
        name: min(40, other.subwords.size(name)) for name in ("fr", "en", "de")
    }
    # The vocabularies of the first know nothing of what only the pairs hold.
    assert prepared.facts["sets"]["tune"]["unknown share"]["en"] == 0
    assert prepared.facts["sets"]["teach"]["unknown share"]["en"] > 0


def test_padding_is_masked_and_the_row_of_none_is_all_padding():
    ids = subwords.ragged([[5, 3], [3], [6, 7, 3]])
    tokens, mask = corpora.pad(ids, [2, -1, 0], length=4)
    np.testing.assert_array_equal(tokens, [[6, 7, 3, 0], [0] * 4, [5, 3, 0, 0]])
    np.testing.assert_array_equal(mask, [[1, 1, 1, 0], [0] * 4, [1, 1, 0, 0]])
    assert tokens.dtype == mask.dtype == np.int32
    with pytest.raises(ValueError, match=r"row 2 .* has 3 ids with EOS, but length=2"):
        corpora.pad(ids, [0, 2], length=2)


def test_selected_rows_are_those_rows(prepared):
    tune = prepared.sets["tune"]
    some = corpora.select(tune, [2, 0])
    assert some.texts["fr"] == [TRIPLES[2][0], TRIPLES[0][0]]
    np.testing.assert_array_equal(some.ids["de"].row(1), tune.ids["de"].row(0))


def test_rows_with_a_blank_side_are_left_out(tmp_path, config):
    rows = [("Hund", "dog"), (" ", "man"), ("Mann", ""), ("Hunde", "dogs")]
    path = write(tmp_path / "gaps" / "train.jsonl.gz", rows, ("de", "en"))
    made = corpora.prepare({"gaps": (corpora.Corpus(path),)}, config=config)
    assert made.sets["gaps"].texts == {"en": ["dog", "dogs"], "de": ["Hund", "Hunde"]}


# What is kept


def everything(made):
    sets = {
        name: (part.texts, part.words, {k: v.ids.tolist() for k, v in part.ids.items()})
        for name, part in made.sets.items()
    }
    return sets, made.facts, made.subwords.encoder.to_str()


def test_prepared_data_are_read_from_the_cache(
    given, config, prepared, tmp_path, monkeypatch
):
    sets = {"tune": given[:1], "teach": given[::-1]}
    said = []
    options = {"config": config, "cache": tmp_path, "report": said.append}
    first = corpora.prepare(sets, **options)
    assert sum("tokenising" in text for text in said) == 5
    assert sum("20 merges" in text for text in said) == 1
    said.clear()

    def never(*args, **kwargs):
        raise AssertionError("made again")

    monkeypatch.setattr(moses, "words", never)
    monkeypatch.setattr(subwords, "learn", never)
    monkeypatch.setattr(subwords.Subwords, "encode", never)
    again = corpora.prepare(sets, **options)
    assert everything(again) == everything(first) == everything(prepared)
    assert not said


def test_other_text_and_other_settings_are_prepared_anew(given, config, tmp_path):
    three, _ = given
    sets = {"tune": (three,)}
    corpora.prepare(sets, config=config, cache=tmp_path)
    kept = {path.name for path in tmp_path.iterdir()}
    fewer = corpora.Config(learn=(three,), count=(three,), merges=10)
    made = corpora.prepare(sets, config=fewer, cache=tmp_path)
    assert made.facts["merges"] == 10
    more = {path.name for path in tmp_path.iterdir()} - kept
    assert sorted(name.split("-")[1] for name in more) == ["ids"] * 3 + ["subwords"]


def test_what_is_damaged_is_made_anew(given, config, tmp_path):
    sets, said = {"tune": given[:1]}, []
    first = corpora.prepare(sets, config=config, cache=tmp_path)
    damaged = next(tmp_path.glob("translation-words-*"))
    lines = damaged / "lines.txt"
    lines.write_text(lines.read_text().replace("e", "x"))
    again = corpora.prepare(sets, config=config, cache=tmp_path, report=said.append)
    assert everything(again) == everything(first)
    assert any("was altered; making it anew" in text for text in said)
    files.unseal(damaged)


# Misuse and real text


def test_misuse_names_the_value_and_the_fix(given, config, prepared):
    three, two = given
    with pytest.raises(ValueError, match=r"learn=\(\): name at least one"):
        corpora.Config(count=(three,))
    spanish = corpora.Config(("es",), learn=(three,), count=(three,))
    with pytest.raises(ValueError, match="translations are fr, en, de; wanted are es"):
        corpora.prepare({"x": (three,)}, config=spanish)
    uncounted = corpora.Config(learn=(three,), count=(two,))
    with pytest.raises(ValueError, match="no text of fr to count"):
        corpora.prepare({"x": (three,)}, config=uncounted)
    french = corpora.Config(("fr",), learn=(three,), count=(three,))
    only = corpora.prepare({"x": (three,)}, config=french).sets["x"]
    with pytest.raises(ValueError, match="corpora of fr; en, de have no language in"):
        corpora.join([only, prepared.sets["teach"]])


def test_real_captions_survive_the_way_to_ids_and_back(data_folder):
    corpus = corpora.Corpus(str(data_folder / "multi30k"), split="val[:200]")
    config = corpora.Config(learn=(corpus,), count=(corpus,), merges=500)
    made = corpora.prepare({"val": (corpus,)}, config=config)
    val = made.sets["val"]
    for name in val.languages:
        padded = corpora.pad(val.ids[name], range(200), length=100)
        assert made.subwords.decode(name, *padded) == val.words[name]


def test_a_corpus_of_few_rows_is_drawn_blindly_and_always_the_same(given, config):
    few = dataclasses.replace(given[0], rows=2)
    result = [
        corpora.prepare({"few": (few,), "all": given[:1]}, config=config).sets
        for _ in range(2)
    ]
    assert len(result[0]["few"]) == 2 < len(result[0]["all"])
    assert result[0]["few"].texts == result[1]["few"].texts
    kept = result[0]["few"].texts["en"]
    assert [t for t in result[0]["all"].texts["en"] if t in kept] == kept  # in order
