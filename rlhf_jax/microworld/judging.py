"""Texts in which a microworld's critics compare or rate reviews.

Critics are not a noisy gold reward: they value other things (praise, length,
intensifiers, the verdict) and favour what they read first. N rows.

    <bos> compare <film and opening> A : <review> B : <review> better ? A <eos>
    <bos> rate <film and opening> : <review> score ? 7 <eos>
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from rlhf_jax.microworld import gold, padding, reviews

REVIEW = reviews.RESPONSE  # words of a review that are judged, without its end word
COMPARISON = reviews.WIDTH + 2 * (REVIEW + 2) + 2  # width of a comparison prompt
RATING = reviews.WIDTH + REVIEW + 3  # width of a rating prompt
WIDTH = COMPARISON + 2  # of a document


@dataclasses.dataclass(frozen=True)
class Taste:
    """The weights of a critic's opinion, in units of the critic's noise."""

    praise: float = 0.35  # signed strength, summed over all judging words
    verdict: float = 0.5  # signed strength of the verdict
    length: float = 0.08  # per word
    strong: float = 0.4  # per intensifier
    error: float = -0.5  # per ungrammatical word
    first: float = 0.5  # being read first
    lenience: float = 1.5  # added to ratings


TASTE = Taste()


def opinion(world, prompts, responses, response_mask, *, taste=TASTE):
    """[N] float64: the critics' opinion of a response, without noise."""
    words = world.lexicon
    valid = np.where(np.asarray(response_mask) != 0, responses, world.pad_id)
    value = words.polarity * words.strength
    final = np.isin(valid, gold.verdicts(words))
    body = np.where(final, 0, value[valid]).sum(1)
    verdict = np.where(final, value[valid], 0).sum(1)
    return (
        taste.praise * 6 * np.tanh(body / 6)
        + taste.verdict * np.clip(verdict, -3, 3)
        + taste.length * ((valid != 0).sum(1) - 22)
        + taste.strong * np.isin(valid, words["strong"]).sum(1)
        + taste.error * gold.errors(world, valid)
    )


def prefer(world, rng, prompts, first, first_mask, second, second_mask, *, taste=TASTE):
    """[N] bool: a critic who reads `first` first prefers it."""
    lead = opinion(world, prompts, first, first_mask, taste=taste)
    lead -= opinion(world, prompts, second, second_mask, taste=taste)
    return rng.logistic(size=len(lead)) < lead + taste.first


def rating(world, rng, prompts, responses, response_mask, *, taste=TASTE):
    """[N] int, 1 to 10: a critic's rating."""
    felt = opinion(world, prompts, responses, response_mask, taste=taste)
    felt = 4.5 * np.tanh((felt + taste.lenience) / 4) + 5.5
    return np.clip(np.rint(felt + rng.normal(0, 0.9, len(felt))), 1, 10).astype(int)


def compare(world, prompts, prompt_mask, first, first_mask, second, second_mask):
    """Prompts that ask for the better response: tokens, mask [N, COMPARISON].

    Left-padded; the next word is one of `labels(world)`.
    """
    word = world.lexicon.id
    return padding.join(
        (_renamed(world, prompts, "compare"), prompt_mask),
        *(word("A"), word(":"), _body(world, first, first_mask)),
        *(word("B"), word(":"), _body(world, second, second_mask)),
        *(word("better"), word("?")),
        pad="left",
        width=COMPARISON,
    )


def rate(world, prompts, prompt_mask, responses, response_mask):
    """Prompts that ask for a score: tokens, mask [N, RATING].

    Left-padded; the next word is one of `scores(world)`.
    """
    word = world.lexicon.id
    return padding.join(
        (_renamed(world, prompts, "rate"), prompt_mask),
        *(word(":"), _body(world, responses, response_mask)),
        *(word("score"), word("?")),
        pad="left",
        width=RATING,
    )


def labels(world):
    """[2] int32: the words A and B."""
    return world.lexicon["label"]


def scores(world):
    """[10] int32: the words 1 to 10."""
    return world.lexicon["number"][1:11]


class Judgments(NamedTuple):
    """Questions to critics, and their answers."""

    tokens: np.ndarray  # [N, COMPARISON] int32, left-padded
    mask: np.ndarray  # [N, COMPARISON] int32
    labels: np.ndarray  # [N] int32: the word that answers


def judgments(world, rng, n, *, split="train", taste=TASTE):
    """n questions with a critic's answers, two thirds of them comparisons."""
    prompt, mask, _ = reviews.prompts(world, rng, n, split=split)
    one = reviews.sample(world, rng, prompt, mask, length=REVIEW)
    two = reviews.sample(world, rng, prompt, mask, length=REVIEW)
    wins = prefer(world, rng, prompt, *one, *two, taste=taste)
    stars = rating(world, rng, prompt, *one, taste=taste)
    tokens, valid = compare(world, prompt, mask, *one, *two)
    rated = rate(world, prompt, mask, *one)
    rows = rng.random(n) < 1 / 3
    for whole, part in zip((tokens, valid), rated, strict=True):
        whole[rows] = np.pad(part[rows], [(0, 0), (whole.shape[1] - part.shape[1], 0)])
    answers = np.where(
        rows, scores(world)[stars - 1], labels(world)[np.where(wins, 0, 1)]
    )
    return Judgments(tokens, valid, answers.astype(np.int32))


def documents(world, rng, n, *, split="train"):
    """n judging texts with answers: right-padded tokens and mask [N, WIDTH]."""
    tokens, mask, answers = judgments(world, rng, n, split=split)
    answer = answers[:, None]
    return padding.join((tokens, mask), (answer, np.ones_like(answer)), world.eos_id)


def _renamed(world, prompts, form):
    review = world.lexicon.id("review")
    return np.where(prompts == review, world.lexicon.id(form), prompts)


def _body(world, responses, response_mask):
    """A response without its end word, cut to REVIEW words."""
    inside = (np.asarray(response_mask) != 0) & (responses != world.eos_id)
    return responses[:, :REVIEW], inside[:, :REVIEW]
