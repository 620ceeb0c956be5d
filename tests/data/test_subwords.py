"""Joint byte-pair encoding and the vocabularies of languages."""

import collections
import json
import subprocess
import sys

import numpy as np
import pytest

from rlhf_jax.data.translation import subwords

EN = ["the lowest low tower is lower than the newest", "a low tower is new", "the end"]
DE = [
    "der neueste turm ist niedriger",
    "das ende der lower towers",
    "wer ist der ferne",
]
LINES = EN + DE


@pytest.fixture(scope="module")
def encoder():
    return subwords.learn(LINES, merges=17)


@pytest.fixture(scope="module")
def pieces(encoder):
    made = {
        name: subwords.vocabulary(encoder, subwords.count(encoder, lines))
        for name, lines in (("en", EN), ("de", DE))
    }
    return subwords.Subwords(encoder, made)


def merges_of(encoder):
    return [tuple(pair) for pair in json.loads(encoder.to_str())["model"]["merges"]]


def cut_by_hand(word, merges):
    """A word's pieces by the paper's rule: the earliest merge that fits, again."""
    rank = {pair: i for i, pair in enumerate(merges)}
    symbols = list(subwords._mark(word))
    while True:
        pairs = [
            (rank[pair], pair)
            for pair in zip(symbols, symbols[1:], strict=False)
            if pair in rank
        ]
        if not pairs:
            return symbols
        symbols = joined(symbols, min(pairs)[1])


def joined(symbols, pair):
    """Symbols with every occurrence of a pair made one, from the left."""
    out, i = [], 0
    while i < len(symbols):
        both = tuple(symbols[i : i + 2]) == pair
        out.append("".join(pair) if both else symbols[i])
        i += 1 + both
    return out


def test_each_merge_was_of_a_most_frequent_pair(encoder):
    words = collections.Counter(w for line in LINES for w in line.split())
    cut = {word: list(subwords._mark(word)) for word in words}
    learned = merges_of(encoder)
    assert len(learned) == subwords.merge_count(encoder) == 17
    for pair in learned:
        counts = collections.Counter()
        for word, times in words.items():
            for adjacent in zip(cut[word], cut[word][1:], strict=False):
                counts[adjacent] += times
        assert counts[pair] == max(counts.values()) >= 2
        cut = {word: joined(symbols, pair) for word, symbols in cut.items()}


def test_words_are_cut_by_the_earliest_merge_that_fits(encoder):
    learned = merges_of(encoder)
    for word in ["lowest", "towers", "newer", "niedrigste", "low", "endend", "t"]:
        ids = next(iter(subwords._encode(encoder, [word])))
        unknown = encoder.token_to_id("<unk>")
        known = [encoder.token_to_id(s) for s in cut_by_hand(word, learned)]
        assert ids == [unknown if i is None else i for i in known], word


def test_what_is_learned_does_not_depend_on_the_process():
    code = (
        "from rlhf_jax.data.translation import subwords; import sys; "
        f"sys.stdout.write(subwords.learn({LINES!r}, merges=30).to_str())"
    )
    said = {
        subprocess.run([sys.executable, "-c", code], capture_output=True).stdout
        for _ in range(3)
    }
    assert len(said) == 1 and len(next(iter(said))) > 1000


def test_rare_pairs_are_not_merged_however_many_are_asked_for():
    assert subwords.merge_count(subwords.learn(["ab ab cd"], merges=100)) == 1


def test_a_vocabulary_has_the_most_frequent_pieces_first(encoder, pieces):
    counts = subwords.count(encoder, EN)
    ordered = [counts[int(i)] for i in pieces.vocabularies["en"]]
    assert ordered == sorted(counts.values(), reverse=True)
    few = subwords.vocabulary(encoder, counts, size=10)
    np.testing.assert_array_equal(few, pieces.vocabularies["en"][:6])
    assert subwords.Subwords(encoder, {"en": few}).size("en") == 10


def test_ids_are_decoded_to_the_words_they_are_of(pieces):
    for language, lines in (("en", EN), ("de", DE)):
        ids = pieces.encode(language, lines)
        assert (ids.ids >= 3).all() and (ids.ids < pieces.size(language)).all()
        assert (ids.ids != subwords.UNK).all()
        last = [ids.row(i).tolist().index(subwords.EOS) for i in range(len(lines))]
        np.testing.assert_array_equal(np.array(last) + 1, ids.lengths())
        longest = ids.lengths().max()
        rows = [[*ids.row(i), *[0] * longest][:longest] for i in range(len(lines))]
        assert pieces.decode(language, rows) == lines


def test_decoding_stops_at_the_first_end_and_leaves_out_what_is_masked(pieces):
    names = pieces.pieces("en")
    the, low = names.index("the"), names.index("low")
    inner = next(i for i, name in enumerate(names) if name.endswith("@@"))
    part = names[inner].removesuffix("@@")
    rows = np.array(
        [
            [2, the, low, 3, low],  # BOS before, words after the end
            [the, 0, low, 3, 0],
            [1, the, 3, 0, 0],
            [the, inner, 3, 0, 0],  # a piece that wants more, at the end
            [the, inner, low, 3, 0],
            [3, the, 3, 0, 0],
        ]
    )
    expected = ["the low", "the low", "<unk> the", f"the {part}", f"the {part}low", ""]
    assert pieces.decode("en", rows) == expected
    mask = np.ones_like(rows)
    mask[0, 3] = 0
    assert pieces.decode("en", rows, mask)[0] == "the low low"


def test_unknown_letters_and_pieces_of_other_languages_are_unknown(pieces):
    ids = pieces.encode("en", ["the ø the", "niedriger"])
    the = pieces.pieces("en").index("the")
    assert ids.row(0).tolist() == [the, subwords.UNK, the, subwords.EOS]
    assert subwords.UNK in ids.row(1)
    odd = "\U0002f800"  # beyond the letters that can be moved to the private planes
    assert pieces.encode("en", [f"the {odd}"]).ids.tolist() == [the, 1, 3]


def test_letters_at_the_end_of_words_survive_whatever_they_are():
    lines = ["é ß 😀 ’", "é ß 😀 ’"]
    encoder = subwords.learn(lines, merges=1)
    counts = subwords.count(encoder, lines)
    made = subwords.Subwords(encoder, {"x": subwords.vocabulary(encoder, counts)})
    ids = made.encode("x", lines[:1]).ids
    assert made.decode("x", ids[None]) == lines[:1]


def test_what_is_saved_is_loaded(pieces, tmp_path):
    pieces.save(tmp_path)
    again = subwords.load(tmp_path)
    assert again.languages == ("en", "de") and again.pieces("de") == pieces.pieces("de")
    np.testing.assert_array_equal(
        again.encode("de", LINES).ids, pieces.encode("de", LINES).ids
    )


def test_ragged_rows_come_back():
    rows = [[4, 5], [], [6]]
    made = subwords.ragged(rows)
    assert [made.row(i).tolist() for i in range(3)] == rows
    assert made.lengths().tolist() == [2, 0, 1]
    empty = subwords.ragged([])
    assert empty.ids.shape == (0,) and len(empty.lengths()) == 0


def test_misuse_names_the_value_and_the_fix(pieces):
    with pytest.raises(ValueError, match="no vocabulary of 'fr': there is en, de"):
        pieces.encode("fr", ["x"])
    with pytest.raises(ValueError, match="merges=0: at least 1"):
        subwords.learn(LINES, merges=0)
