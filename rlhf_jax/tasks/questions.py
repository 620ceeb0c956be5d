"""Questions to a labeler of the microworld, in JAX: asked in the program that samples.

B rows, P prompt tokens, T response tokens. Padding stays where it is, which neither
positions nor attention notice: the answers are those to the questions that
`microworld.judging` writes in words.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import labeling
from rlhf_jax.feedback import scores
from rlhf_jax.microworld import judging, reviews
from rlhf_jax.types import Prompts

_NAMES = {
    "review": "review",
    "rate": "rate",
    "compare": "compare",
    "colon": ":",
    "score": "score",
    "better": "better",
    "ask": "?",
}


class Words(NamedTuple):
    """The words of questions, as ids. They are static: worlds whose words have the same
    ids, as all have, share their programs."""

    review: int  # in a prompt, where `rate` or `compare` stands in a question
    rate: int
    compare: int
    colon: int
    score: int
    better: int
    ask: int
    end: int
    labels: tuple[int, ...]  # A and B
    numbers: tuple[int, ...]  # 1 to 10


def words(world):
    """The `Words` of a world."""
    ids = {name: int(world.lexicon.id(word)) for name, word in _NAMES.items()}
    labels, numbers = (
        tuple(of(world).tolist()) for of in (judging.labels, judging.scores)
    )
    return Words(**ids, end=int(world.eos_id), labels=labels, numbers=numbers)


@functools.lru_cache(maxsize=8)
def rated(model, known):
    """`score(params, tokens [B, P + T], mask) -> [B]`: the reward of d-RLAIF.

    The expected rating 1 to 10 of a response, mapped to [−1, 1]: see
    `scores.make_rating`. One function for equal arguments, so that programs are
    compiled once. known: `Words`.
    """
    labels = tuple((number,) for number in known.numbers)
    return scores.make_rating(model, labels, functools.partial(rating, known))


@functools.lru_cache(maxsize=8)
def preferred(model, known):
    """`score(params, tokens [B, P + T], mask) -> [B]` of pairs of rows.

    Of two samples of a prompt, adjacent rows, ±½ log p/(1 − p), with p the labeler's
    preference for the first, both orders averaged: σ of their difference is p. Online
    AI feedback, arXiv:2402.04792, asks this of every pair that it learns from.
    """
    of_labels = scores.make_scores(model, tuple((label,) for label in known.labels))

    def score(params, tokens, mask):
        both = comparisons(known, tokens, mask)
        first, second = (of_labels(params, None, question)[0] for question in both)
        p = labeling.preference(first, second, None)
        lead = jax.scipy.special.logit(jnp.clip(p, 1e-6, 1 - 1e-6)) / 2
        return jnp.stack([lead, -lead], axis=1).reshape(-1)

    return score


def rating(known, tokens, mask):
    """`Prompts` that ask for a rating of responses [B, P + T]. known: `Words`."""
    prompt, body = _parts(known, tokens, mask, known.rate)
    end = _words(len(tokens), known.score, known.ask)
    return _joined(prompt, _words(len(tokens), known.colon), body, end)


def comparisons(known, tokens, mask):
    """Two `Prompts` [B/2, ...] that ask which of two adjacent rows [B, P + T] is
    better: the first row read first, and the second row read first."""
    prompt, body = _parts(known, tokens, mask, known.compare)
    prompt = jax.tree.map(lambda x: x[::2], prompt)
    sides = [jax.tree.map(lambda x, i=i: x[i::2], body) for i in range(2)]
    count = len(tokens) // 2
    a, b = (_words(count, label, known.colon) for label in known.labels)
    end = _words(count, known.better, known.ask)
    return tuple(
        _joined(prompt, a, one, b, other, end) for one, other in (sides, sides[::-1])
    )


def _parts(known, tokens, mask, form):
    """(prompt, response) as pairs (tokens, mask): the prompt of another form, the
    response without its end word and cut to what labelers read."""
    prompt, body = jnp.split(tokens, [reviews.WIDTH], axis=1)
    asked, valid = jnp.split(mask, [reviews.WIDTH], axis=1)
    body, valid = (x[:, : judging.REVIEW] for x in (body, valid))
    prompt = jnp.where(prompt == known.review, form, prompt)
    return (prompt, asked), (body, jnp.where(body == known.end, 0, valid))


def _words(rows, *ids):
    """The same words in all rows: (tokens, mask)."""
    tokens = jnp.broadcast_to(
        jnp.stack([jnp.asarray(x) for x in ids]), (rows, len(ids))
    )
    return tokens, jnp.ones_like(tokens)


def _joined(*parts):
    tokens, masks = zip(*parts, strict=True)
    return Prompts(jnp.concatenate(tokens, axis=1), jnp.concatenate(masks, axis=1))
