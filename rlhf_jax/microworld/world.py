"""A microworld: its words, its films and its grammar, all drawn from one seed."""

import dataclasses
import functools

import numpy as np

from rlhf_jax.microworld import grammar, lexicon


@dataclasses.dataclass(frozen=True, eq=False)
class Films:
    """The facts about the films. Entries are word ids unless they are indices."""

    title: np.ndarray  # [48] word ids
    director: np.ndarray  # [48] word ids of names
    star: np.ndarray  # [48] word ids of names, never the director
    genre: np.ndarray  # [48] index of the genre, 0 to 3
    year: np.ndarray  # [48] word ids of numbers
    home: np.ndarray  # [32] word ids of towns, by index of the name
    friend: np.ndarray  # [32] word ids of names, by index of the name


@dataclasses.dataclass(frozen=True, eq=False)
class World:
    """Everything that defines a microworld."""

    seed: int
    lexicon: lexicon.Lexicon
    films: Films
    grammar: grammar.Grammar
    translation: np.ndarray  # [V] int32: what a toy word means in reviews, else 0

    pad_id, eos_id, bos_id, unk_id = 0, 1, 2, 3

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return self.lexicon.vocabulary

    def encode(self, text: str) -> list[int]:
        """Ids of words separated by blanks, without special tokens."""
        return self.lexicon.ids(text)

    def decode(self, ids) -> str:
        """Words joined by blanks, without padding, bos and eos."""
        skipped = (self.pad_id, self.eos_id, self.bos_id)
        return " ".join(self.vocabulary[i] for i in ids if i not in skipped)


@functools.lru_cache(maxsize=32)
def create(seed: int = 0) -> World:
    """The microworld of a seed; cached, so that it is the same object every time."""
    streams = np.random.default_rng([seed, 20312]).spawn(4)
    words = lexicon.create(streams[0])
    translation = np.zeros(len(words.vocabulary), np.int32)
    roles = "aspect", "praise_adjective", "blame_adjective"
    meanings = np.concatenate([words[role] for role in roles])
    translation[words["source"]] = streams[3].permutation(meanings)[:32]
    return World(
        seed,
        words,
        _films(words, streams[1]),
        grammar.create(words, streams[2]),
        translation,
    )


def _films(words, rng):
    films, names = len(words["title"]), len(words["name"])
    director = rng.permutation(np.arange(films) % names)
    star = (director + rng.integers(1, names, films)) % names
    friend = rng.permutation(names)
    # One cycle through all names, so that nobody is their own friend.
    friend = friend[np.roll(np.argsort(friend), 1)]
    return Films(
        title=words["title"],
        director=words["name"][director],
        star=words["name"][star],
        genre=rng.permutation(np.arange(films) % len(words["genre"])),
        year=words["number"][rng.choice(np.arange(20, 100), films, replace=False)],
        home=words["town"][rng.permutation(np.arange(names) % len(words["town"]))],
        friend=words["name"][friend],
    )
