"""Parallel corpora as subword ids: read, tokenised, encoded, and cached.

The cache is keyed by a digest of the text and the settings: tokenising 600,000 lines
takes minutes, reading them back takes seconds.

Legend: N rows, L `length`.
"""

import dataclasses
import hashlib
import json
import pathlib
from typing import NamedTuple

import numpy as np

from rlhf_jax.data import sources
from rlhf_jax.data.translation import moses, subwords
from rlhf_jax.runtime import files

_FORMAT = 1  # of the cache; another number invalidates it


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Rows with a column `translation` of {language: text}: see `sources.load`."""

    path: str
    split: str = "train"
    config: str | None = None  # of a hub data set
    tokenized: bool = False  # the text is tokenised already
    rows: int | None = None  # at most so many: a random but fixed sample


@dataclasses.dataclass(frozen=True)
class Config:
    """How text is encoded."""

    languages: tuple[str, ...] = ("fr", "en", "de")
    learn: tuple[Corpus, ...] = ()  # text to learn the merges on
    count: tuple[Corpus, ...] = ()  # text to count the vocabularies on
    merges: int = 25_000
    vocab_size: int | None = None  # the most per language; None: all pieces counted

    def __post_init__(self):
        for name in ("languages", "learn", "count"):
            if not getattr(self, name):
                raise ValueError(f"{name}=(): name at least one")


class Padded(NamedTuple):
    """Rows of ids, padded on the right."""

    tokens: np.ndarray  # [N, L] int32
    mask: np.ndarray  # [N, L] int32


@dataclasses.dataclass(frozen=True)
class Parallel:
    """N rows in several languages; each field is {language: N rows}."""

    texts: dict[str, list[str]]  # as read
    words: dict[str, list[str]]  # lower case, tokenised
    ids: dict[str, subwords.Ragged]  # of the words; every row ends with EOS

    @property
    def languages(self):
        return tuple(self.texts)

    def __len__(self):
        return len(next(iter(self.texts.values())))

    def lengths(self):
        """Pieces in each row's longest language, without EOS: [N]."""
        return np.stack([ids.lengths() for ids in self.ids.values()]).max(0) - 1


class Prepared(NamedTuple):
    """The result of `prepare`."""

    subwords: subwords.Subwords
    sets: dict[str, Parallel]
    facts: dict  # sizes, lengths and shares of unknown pieces, for a report


def prepare(sets, *, config, cache=None, report=None):
    """`Prepared` from {name: corpora}; the corpora of a set are joined.

    A set has the languages that `config` and all its corpora share; rows with a blank
    side are dropped. cache: a folder for intermediate results; report(text) is called
    before slow steps.
    """
    store = _Store(cache, report or (lambda text: None))
    inside = dict.fromkeys(corpus for part in sets.values() for corpus in part)
    wanted = dict.fromkeys((*config.learn, *config.count, *inside))
    texts = {corpus: _read(corpus, config) for corpus in wanted}
    words = {corpus: _words(corpus, lines, store) for corpus, lines in texts.items()}
    pieces, key = _subwords(words, config, store)
    ids = {
        corpus: {
            language: _ids(pieces, key, language, lines, store)
            for language, lines in words[corpus].items()
        }
        for corpus in inside
    }
    made = {
        name: join([Parallel(texts[c], words[c], ids[c]) for c in corpora])
        for name, corpora in sets.items()
    }
    return Prepared(pieces, made, _facts(pieces, made))


def join(parts):
    """Several `Parallel` concatenated, in the languages that all have.

    Raises ValueError if they share none.
    """
    first = parts[0]
    shared = [x for x in first.languages if all(x in p.languages for p in parts)]
    if not shared:
        listed = "; ".join(", ".join(part.languages) for part in parts)
        raise ValueError(f"corpora of {listed} have no language in common: join others")

    def lists(field):
        return {x: [y for p in parts for y in getattr(p, field)[x]] for x in shared}

    ids = {x: _concatenate([part.ids[x] for part in parts]) for x in shared}
    return Parallel(lists("texts"), lists("words"), ids)


def select(parallel, rows):
    """The given rows of a `Parallel`, in the given order."""

    def pick(lists):
        return {name: [column[i] for i in rows] for name, column in lists.items()}

    ids = {
        name: subwords.ragged([column.row(i) for i in rows])
        for name, column in parallel.ids.items()
    }
    return Parallel(pick(parallel.texts), pick(parallel.words), ids)


def pad(ids, rows, *, length):
    """Rows of `Ragged` ids as `Padded` [rows, L], with EOS; row −1 is all padding.

    Raises ValueError for a row longer than `length`.
    """
    rows = np.asarray(rows)
    counts = np.where(rows < 0, 0, ids.lengths()[rows])
    if counts.max(initial=0) > length:
        row = int(rows[counts.argmax()])
        raise ValueError(
            f"row {row} (counted from 0) has {counts.max()} ids with EOS, but "
            f"length={length}: leave it out or raise length"
        )
    position = np.arange(length)
    mask = position < counts[:, None]
    taken = np.where(mask, ids.starts[rows][:, None] + position, 0)
    tokens = np.where(mask, ids.ids[taken], subwords.PAD)
    return Padded(tokens.astype(np.int32), mask.astype(np.int32))


def _read(corpus, config):
    """{language: texts} of the rows without a blank side."""
    rows = sources.load(
        corpus.path, split=corpus.split, columns=("translation",), config=corpus.config
    )
    if corpus.rows is not None and len(rows) > corpus.rows:
        drawn = np.random.default_rng(0).permutation(len(rows))[: corpus.rows]
        rows = rows.select(np.sort(drawn))
    rows = rows[:]["translation"]
    languages = [x for x in config.languages if x in rows[0]]
    if not languages:
        raise ValueError(
            f"{corpus.path}: translations are {', '.join(rows[0])}; wanted are "
            f"{', '.join(config.languages)}; choose languages or another corpus"
        )
    full = [row for row in rows if all((row[x] or "").strip() for x in languages)]
    return {x: [row[x] for row in full] for x in languages}


def _words(corpus, texts, store):
    """{language: lines of words}."""

    def one(language, lines):
        def make():
            store.report(f"tokenising {corpus.path}, {language}: {len(lines)} lines")
            return moses.words(lines, language, tokenized=corpus.tokenized)

        key = [moses.version(), language, corpus.tokenized, _digest(lines)]
        return store.find("words", key, make, _write_lines, _read_lines)

    return {language: one(language, lines) for language, lines in texts.items()}


def _subwords(words, config, store):
    """(`Subwords`, their cache key)."""

    def lines(corpora, language):
        return [line for c in corpora for line in words[c].get(language, ())]

    learned = [line for x in config.languages for line in lines(config.learn, x)]
    counted = {x: lines(config.count, x) for x in config.languages}
    if empty := [x for x, text in counted.items() if not text]:
        raise ValueError(f"no text of {', '.join(empty)} to count: add a corpus of it")

    def make():
        store.report(f"learning {config.merges} merges of {len(learned)} lines")
        encoder = subwords.learn(learned, merges=config.merges)
        counts = {x: subwords.count(encoder, text) for x, text in counted.items()}
        return subwords.Subwords(
            encoder,
            {
                x: subwords.vocabulary(encoder, count, size=config.vocab_size)
                for x, count in counts.items()
            },
        )

    digests = [_digest(learned), *(_digest(text) for text in counted.values())]
    sizes = [config.merges, config.vocab_size, config.languages]
    key = [subwords.version(), sizes, digests]
    return store.find("subwords", key, make, subwords.Subwords.save, subwords.load), key


def _ids(pieces, key, language, lines, store):
    return store.find(
        "ids",
        [key, language, _digest(lines)],
        lambda: pieces.encode(language, lines),
        lambda ids, folder: np.savez(folder / "ids.npz", **ids._asdict()),
        lambda folder: subwords.Ragged(**np.load(folder / "ids.npz")),
    )


def _concatenate(parts):
    lengths = np.concatenate([part.lengths() for part in parts])
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return subwords.Ragged(np.concatenate([part.ids for part in parts]), starts)


def _facts(pieces, sets):
    """Statistics of vocabularies and sets, as JSON."""

    def describe(parallel):
        return {
            "rows": len(parallel),
            "pieces a row": {
                name: float(ids.lengths().mean() - 1)
                for name, ids in parallel.ids.items()
            },
            "unknown share": {
                name: float((ids.ids == subwords.UNK).sum() / (len(ids.ids) or 1))
                for name, ids in parallel.ids.items()
            },
        }

    return {
        "merges": subwords.merge_count(pieces.encoder),
        "vocabulary": {name: pieces.size(name) for name in pieces.languages},
        "sets": {name: describe(parallel) for name, parallel in sets.items()},
    }


class _Store:
    """A cache of folders, each named by a digest of what its content depends on."""

    def __init__(self, folder, report):
        self.folder = None if folder is None else pathlib.Path(folder)
        self.report = report

    def find(self, name, key, make, write, read):
        """The value of a key, from the cache or made anew if missing or damaged."""
        if self.folder is None:
            return make()
        path = (
            self.folder / f"translation-{name}-{_digest([json.dumps([_FORMAT, key])])}"
        )
        if path.exists():
            try:
                files.unseal(path)
                return read(path)
            except files.Damaged as damage:
                self.report(f"{path}: {damage}; making it anew")
                files.remove(path)
        value = make()
        try:
            with files.folder(path) as new:
                write(value, new)
                files.seal(new, {"format": _FORMAT})
        except OSError:
            if not path.exists():  # otherwise another process wrote the same first
                raise
        return value


def _write_lines(lines, folder):
    (folder / "lines.txt").write_text("\n".join(lines), encoding="utf-8", newline="\n")


def _read_lines(folder):
    return (folder / "lines.txt").read_bytes().decode("utf-8").split("\n")


def _digest(lines):
    """16 hex digits of lines of text."""
    digest = hashlib.sha256(f"{len(lines)}".encode())
    for line in lines:
        digest.update(b"\0" + line.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]
