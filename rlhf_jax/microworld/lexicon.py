"""The words of a microworld: their roles, polarity and strength.

V words, A aspects. Each world draws its words from larger banks, so two worlds share
function words and little else; some adjectives praise in one world and blame in
another.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np

from rlhf_jax.microworld import banks

SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>")
TOPICS = 3  # people, craft, story


@dataclasses.dataclass(frozen=True, eq=False)
class Lexicon:
    """The words with their properties. Arrays are indexed by word id."""

    vocabulary: tuple[str, ...]
    roles: Mapping[str, np.ndarray]  # role -> int32 ids of its words
    role: np.ndarray  # [V] int, index of the word's role in `role_names`
    role_names: tuple[str, ...]
    polarity: np.ndarray  # [V] float: +1 praises, -1 blames, 0 neither
    strength: np.ndarray  # [V] float: 1 to 3 for words with a polarity, else 0
    topic: np.ndarray  # [V] int: the topic of an aspect, -1 for other words
    fits: np.ndarray  # [V, TOPICS] bool: the topics an adjective may describe
    index: Mapping[str, int]  # word -> id

    def __getitem__(self, role: str) -> np.ndarray:
        return self.roles[role]

    def id(self, word: str) -> int:
        """The id of a word of the vocabulary."""
        return self.index[word]

    def ids(self, text: str) -> list[int]:
        """Ids of words separated by blanks; unknown words become `<unk>`."""
        return [self.index.get(word, 3) for word in text.split()]


def create(rng: np.random.Generator) -> Lexicon:
    """Draws the words of a world."""
    valued, drawn = _draw_valued(rng), _draw_plain(rng)
    drawn |= {role: [word for word, *_ in words] for role, words in valued.items()}
    drawn |= {role: list(words) for role, words in banks.FIXED.items()}
    drawn["source"] = _toy_words(rng, drawn)
    role_names = ("special", *drawn)
    vocabulary = SPECIALS + tuple(word for words in drawn.values() for word in words)
    index = {word: position for position, word in enumerate(vocabulary)}
    if len(index) != len(vocabulary):
        raise ValueError("a word has two roles: the banks must be disjoint")
    roles = {
        role: np.array([index[word] for word in words], np.int32)
        for role, words in drawn.items()
    }
    role = np.zeros(len(vocabulary), np.int64)
    for position, name in enumerate(role_names[1:], 1):
        role[roles[name]] = position
    polarity, strength = np.zeros((2, len(vocabulary)))
    for words in valued.values():
        for word, sign, power in words:
            polarity[index[word]], strength[index[word]] = sign, power
    topic, fits = _topics(rng, roles, len(vocabulary))
    return Lexicon(
        vocabulary, roles, role, role_names, polarity, strength, topic, fits, index
    )


def _draw_plain(rng):
    """Words without a polarity: titles, names, aspects, towns, ..."""
    titles = [first + last for first in banks.FIRST for last in banks.LAST]
    aspects = [word for bank in banks.ASPECTS for word in _pick(rng, bank, 10)]
    return {
        "title": _pick(rng, titles, 48),
        "name": _pick(rng, banks.NAMES, 32),
        "genre": _pick(rng, banks.GENRES, 4),
        "town": _pick(rng, banks.TOWNS, 8),
        "aspect": aspects,
        "mild": _pick(rng, banks.MILD, 3),
        "strong": _pick(rng, banks.STRONG, 5),
        "sure": _pick(rng, banks.SURE, 2),
        "agree": ["and", *_pick(rng, banks.AGREE, 3)],
        "contrast": ["but", *_pick(rng, banks.CONTRAST, 3)],
        "opener": _pick(rng, banks.OPENERS, 4),
    }


def _draw_valued(rng):
    """(word, polarity, strength) of all words that praise or blame."""
    ambivalent = _pick(rng, banks.AMBIVALENT, 8)
    words = {}
    for sign, extra in ((1, ambivalent[:4]), (-1, ambivalent[4:])):
        name = "praise" if sign > 0 else "blame"
        adjectives = [
            (word, sign, power)
            for power, count in ((1, 6), (2, 8), (3, 6))
            for word in _pick(rng, banks.ADJECTIVES[sign][power], count)
        ]
        adjectives += [(word, sign, int(rng.integers(1, 3))) for word in extra]
        words[f"{name}_adjective"] = adjectives
        other = ("verb", banks.VERBS, 4), ("noun", banks.NOUNS, 6)
        for kind, bank, count in (*other, ("advice", banks.ADVICE, 2)):
            chosen = _pick(rng, list(bank[sign].items()), count)
            words[f"{name}_{kind}"] = [(word, sign, power) for word, power in chosen]
    return words


def _toy_words(rng, drawn):
    """32 made-up words of a toy language."""
    taken = {word for words in drawn.values() for word in words}
    onsets, endings = banks.TOY
    made = [first + last for first in onsets for last in endings]
    return _pick(rng, [word for word in made if word not in taken], 32)


def _topics(rng, roles, size):
    topic = np.full(size, -1, np.int64)
    topic[roles["aspect"]] = np.arange(30) // 10
    fits = np.zeros((size, TOPICS), bool)
    for role in ("praise_adjective", "blame_adjective"):
        # Each adjective lacks one topic; every topic is missing equally often.
        missing = rng.permutation(np.arange(24) % TOPICS)
        fits[roles[role]] = missing[:, None] != np.arange(TOPICS)
    return topic, fits


def _pick(rng, bank, count):
    chosen = rng.choice(len(bank), size=count, replace=False)
    return [bank[i] for i in chosen]
