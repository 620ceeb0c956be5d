"""Joint byte-pair encoding with one vocabulary per language: words to ids and back.

Sennrich et al. 2016, arXiv:1508.07909: merges are learned within words on all languages
together, and a piece at the end of a word differs from the same letters inside one.
Each language has its own ids; 0 to 3 are the special tokens.
"""

import collections
import importlib.metadata
import itertools
import json
import pathlib
from typing import NamedTuple

import numpy as np

PAD, UNK, BOS, EOS = range(4)
SPECIAL = ("<pad>", "<unk>", "<bos>", "<eos>")
# With the library's marker for word ends, equally frequent pairs merge in an order that
# differs between processes. Instead, the last letter of a word is moved to a private
# plane of Unicode, where it is a letter like any other.
_END = 0xF0000
_LAST_LETTER = 0x1FFFF


class Ragged(NamedTuple):
    """Rows of ids of different lengths, concatenated."""

    ids: np.ndarray  # [M] int32
    starts: np.ndarray  # [N + 1] int64

    def lengths(self):
        return np.diff(self.starts)

    def row(self, i):
        return self.ids[self.starts[i] : self.starts[i + 1]]


def ragged(rows):
    """A list of rows as `Ragged`."""
    starts = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    ids = itertools.chain.from_iterable(rows)
    return Ragged(np.fromiter(ids, np.int32, int(starts[-1])), starts)


def learn(lines, *, merges):
    """A joint encoder with at most `merges` merges, each of a pair seen at least twice.

    lines: of space-separated words, in all languages. Returns a `tokenizers.Tokenizer`;
    `merge_count` gives the number of merges learned.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    if merges < 1:
        raise ValueError(f"merges={merges}: at least 1 is needed")
    lines = [" ".join(map(_mark, line.split())) for line in lines]
    letters = {letter for line in lines for letter in line} - {" "}
    encoder = Tokenizer(models.BPE(unk_token=SPECIAL[UNK]))
    encoder.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=1 + len(letters) + merges,
        min_frequency=2,
        special_tokens=[SPECIAL[UNK]],
        show_progress=False,
    )
    encoder.train_from_iterator(lines, trainer)
    return encoder


def merge_count(encoder):
    """The number of merges of an encoder."""
    return len(json.loads(encoder.to_str())["model"]["merges"])


def count(encoder, lines):
    """How often each piece occurs in lines: a Counter of the encoder's ids."""
    counts = collections.Counter()
    for ids in _encode(encoder, lines):
        counts.update(ids)
    del counts[encoder.token_to_id(SPECIAL[UNK])]
    return counts


def vocabulary(encoder, counts, *, size=None):
    """The pieces of a language, most frequent first: [V] ids of the encoder.

    Ties are sorted by text. size: the most ids, special ones included; None: no limit.
    """
    by_rank = sorted(counts, key=lambda i: (-counts[i], encoder.id_to_token(i)))
    pieces = by_rank if size is None else by_rank[: max(size - len(SPECIAL), 0)]
    return np.array(pieces, np.int32)


class Subwords:
    """Words of several languages to ids and back.

    Args: encoder from `learn`; vocabularies: {language: [V] ids of the encoder}, the
    first of which has id 4.
    """

    def __init__(self, encoder, vocabularies):
        self.encoder = encoder
        self.vocabularies = dict(vocabularies)
        self._ids, self._texts = {}, {}
        for language, pieces in self.vocabularies.items():
            ids = np.full(encoder.get_vocab_size(), UNK, np.int32)
            ids[pieces] = np.arange(len(pieces)) + len(SPECIAL)
            self._ids[language] = ids
            texts = [_unmark(encoder.id_to_token(int(i))) for i in pieces]
            self._texts[language] = ["", f"{SPECIAL[UNK]} ", "", "", *texts]

    @property
    def languages(self):
        return tuple(self.vocabularies)

    def size(self, language):
        """The number of ids of a language, with the special ones."""
        return len(self._pieces(language)) + len(SPECIAL)

    def encode(self, language, lines):
        """`Ragged` ids of lines of words, with EOS and without BOS."""
        self._pieces(language)
        rows = ragged([(*row, 0) for row in _encode(self.encoder, lines)])
        ids = self._ids[language][rows.ids]
        ids[rows.starts[1:] - 1] = EOS
        return Ragged(ids, rows.starts)

    def decode(self, language, tokens, mask=None):
        """Lines of words from ids [N, T], each up to its first EOS, with pieces joined.

        Positions where mask [N, T] is 0 are skipped, and so are pad and BOS. An unknown
        piece becomes <unk>; an incomplete word at the end of a line is kept.
        """
        self._pieces(language)
        texts, tokens = self._texts[language], np.asarray(tokens)
        valid = np.ones(tokens.shape, bool) if mask is None else np.asarray(mask) != 0
        rows = (row[keep].tolist() for row, keep in zip(tokens, valid, strict=True))
        return [_join(row, texts) for row in rows]

    def pieces(self, language):
        """The text of every id of a language; a piece inside a word ends with @@."""
        self._pieces(language)
        texts = self._texts[language][len(SPECIAL) :]
        return [*SPECIAL, *(t[:-1] if t[-1] == " " else f"{t}@@" for t in texts)]

    def save(self, folder):
        """Writes encoder.json and vocabularies.json into a folder."""
        folder = pathlib.Path(folder)
        self.encoder.save(str(folder / "encoder.json"))
        lists = {name: pieces.tolist() for name, pieces in self.vocabularies.items()}
        (folder / "vocabularies.json").write_text(json.dumps(lists))

    def _pieces(self, language):
        """The vocabulary of a language. Raises ValueError if there is none."""
        if language not in self.vocabularies:
            raise ValueError(
                f"no vocabulary of {language!r}: there is {', '.join(self.languages)}"
            )
        return self.vocabularies[language]


def load(folder):
    """The `Subwords` that `Subwords.save` wrote."""
    from tokenizers import Tokenizer

    folder = pathlib.Path(folder)
    lists = json.loads((folder / "vocabularies.json").read_text())
    encoder = Tokenizer.from_file(str(folder / "encoder.json"))
    return Subwords(encoder, {k: np.array(v, np.int32) for k, v in lists.items()})


def version():
    """The version of tokenizers, on which the pieces depend."""
    return importlib.metadata.version("tokenizers")


def _encode(encoder, lines):
    """Ids of each line; each distinct word is encoded once."""
    known = dict.fromkeys(word for line in lines for word in line.split())
    marked = [_mark(word) for word in known]
    encodings = encoder.encode_batch(marked, add_special_tokens=False)
    known = {w: e.ids for w, e in zip(known, encodings, strict=True)}
    return [[i for word in line.split() for i in known[word]] for line in lines]


def _mark(word):
    """The word with its last letter moved to the private planes of Unicode."""
    last = ord(word[-1])
    return word[:-1] + chr(_END + last if last <= _LAST_LETTER else _END)


def _unmark(piece):
    """The text of a piece, with a space after it if it ends a word."""
    last = ord(piece[-1])
    return piece if last < _END else f"{piece[:-1]}{chr(last - _END or 0xFFFD)} "


def _join(ids, texts):
    if EOS in ids:
        ids = ids[: ids.index(EOS)]
    return "".join(texts[i] for i in ids).rstrip(" ")
