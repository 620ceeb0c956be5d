"""Review prompts and reviews, for the corpus and for policies to continue.

N rows, P prompt tokens, T response tokens. A prompt names a film, its genre and its
director or star, and opens with a clause of praise or blame. A review continues it:

    <bos> review moonfall , horror by karin . the pacing was quite dull
    but i loved the clever plot .
    overall moonfall with ada is a gem despite the pacing . <eos>

A hash of the prompt determines its split, so no prompt of the validation or test split
occurs in the training corpus.
"""

from typing import NamedTuple

import numpy as np

from rlhf_jax.microworld import automaton, splits, wording
from rlhf_jax.microworld.draws import Draws

WIDTH = 13  # P: prompts have 12 or 13 tokens
RESPONSE = 36  # T


class Info(NamedTuple):
    """The content of prompts, [N] each."""

    film: np.ndarray  # index of the film
    name: np.ndarray  # word id of the person named
    sign: np.ndarray  # 0: the opening praises, 1: it blames
    aspect: np.ndarray  # index of the opening's aspect
    genre: np.ndarray  # index of the film's genre


def prompts(world, rng, n, *, split="train"):
    """n random prompts of a split: tokens [N, P] int32, mask [N, P] int32, Info."""
    kept, count = [], 0
    while count < n:
        drawn = _draw(world, rng, splits.draws_needed(n - count, split))
        inside = splits.contains(drawn[0], split, salt=world.seed)
        kept.append([x[inside] for x in drawn])
        count += inside.sum()
    tokens, *rest = (np.concatenate(parts)[:n] for parts in zip(*kept, strict=True))
    return tokens, (tokens != world.pad_id).astype(np.int32), Info(*rest)


def sample(world, rng, tokens, mask, *, length=RESPONSE, flaws=False):
    """Samples a review for every prompt from the corpus's grammar.

    Returns tokens [N, length] int32 (with the end word) and mask [N, length]; with
    `flaws` also the flaws of each review, [N, len(grammar.FLAWS)] bool. The few longer
    reviews are cut and have no end word.
    """
    grammar = world.grammar
    words, valid, passed = automaton.sample(
        grammar.machine, rng, length=length, **start(world, tokens, mask)
    )
    if not flaws:
        return words, valid
    kinds = np.where(passed >= 0, grammar.flaw[passed], 0)
    has_flaw = (kinds[..., None] == np.arange(grammar.flaw.max() + 1)).any(1)
    has_flaw[:, 0] = ~has_flaw[:, 1:].any(1)
    return words, valid, has_flaw


def ended(world, responses, response_mask):
    """[N] bool: the end word is among the valid tokens."""
    inside = np.asarray(response_mask) != 0
    return ((np.asarray(responses) == world.eos_id) & inside).any(1)


def start(world, tokens, mask):
    """The automaton's state after each prompt, as arguments for `automaton`."""
    info, words = parse(world, tokens, mask), world.lexicon
    person, credit = other(world, info)
    slots = {
        "title": world.films.title[info.film],
        "name": info.name,
        "other": person,
        "credit": credit,
        "opening": words["aspect"][info.aspect],
        "praise_link": words["link"][info.sign],
        "blame_link": words["link"][1 - info.sign],
    }
    return {
        "node": world.grammar.opening[info.sign],
        "memory": info.aspect,
        "group": info.genre,
        "slots": np.stack([slots[name] for name in wording.SLOTS], axis=1),
    }


def other(world, info):
    """[N] word ids of the films' persons that the prompts do not name, and of "by" or
    "with": which of director and star they are."""
    films = world.films
    director, star = films.director[info.film], films.star[info.film]
    directed = info.name == director  # the prompt says "by"
    credit = world.lexicon["credit"][np.where(directed, 1, 0)]
    return np.where(directed, star, director), credit


def parse(world, tokens, mask=None):
    """The `Info` of prompts. Raises ValueError for a row that is not a prompt."""
    words, tokens = world.lexicon, np.asarray(tokens)
    mask = tokens != world.pad_id if mask is None else np.asarray(mask) != 0
    first = np.argmax(mask, axis=1)
    position = np.minimum(first[:, None] + np.array([2, 4, 6, 9]), tokens.shape[1] - 1)
    title, genre, name, aspect = np.take_along_axis(tokens, position, axis=1).T
    info = Info(
        film=title - words["title"][0],
        name=name,
        sign=np.where(words.polarity[tokens[:, -1]] > 0, 0, 1),
        aspect=aspect - words["aspect"][0],
        genre=genre - words["genre"][0],
    )
    expected = {"title": title, "genre": genre, "name": name, "aspect": aspect}
    right = [np.isin(ids, words[role]) for role, ids in expected.items()]
    wrong = ~np.all(right, axis=0)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(
            f"row {row} is not a review prompt: {world.decode(tokens[row])!r}; "
            "make prompts with reviews.prompts"
        )
    return info


def _draw(world, rng, n):
    """Prompts of all splits: left-padded tokens, and the fields of `Info`."""
    words, films = world.lexicon, world.films
    film, sign = rng.integers(len(films.title), size=n), rng.integers(2, size=n)
    genre, starring = films.genre[film], rng.random(n) < 0.5
    name = np.where(starring, films.star[film], films.director[film])
    aspect = Draws.of_rows(world.grammar.relevance)(rng, genre)
    adjectives = world.grammar.opener.reshape(-1, len(world.vocabulary))
    adjective = Draws.of_rows(adjectives)(rng, sign * 30 + aspect)
    copula = words["copula"][rng.integers(4, size=n)]
    adverbs = np.concatenate([words["mild"], words["strong"]])
    adverb = adverbs[rng.integers(len(adverbs), size=n)]
    fixed = {word: np.full(n, words.id(word)) for word in ("<bos>", "review", ",")}
    fixed |= {word: np.full(n, words.id(word)) for word in (".", "the")}
    by = np.where(starring, words.id("with"), words.id("by"))
    head = (fixed["<bos>"], fixed["review"], words["title"][film], fixed[","])
    head += (words["genre"][genre], by, name, fixed["."], fixed["the"])
    head = np.stack([*head, words["aspect"][aspect], copula], axis=1)
    tokens = np.zeros((n, WIDTH), np.int32)
    plain = rng.random(n) < 0.6
    tokens[plain, 1:-1] = head[plain]
    tokens[~plain, :-2] = head[~plain]
    tokens[~plain, -2] = adverb[~plain]
    tokens[:, -1] = adjective
    return tokens, film, name, sign, aspect, genre
