"""The pretraining corpus: reviews, skills and judging texts in one stream."""

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np

from rlhf_jax.microworld import judging, layout, reviews, skills


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of text; shares that do not fit the length go to the rest."""

    reviews: float = 0.45
    skills: float = 0.35
    judging: float = 0.20


class Text(NamedTuple):
    """Field by field what `types.Tokens` holds."""

    tokens: np.ndarray  # [N, L] int32, right-padded
    mask: np.ndarray  # [N, L] int32
    target_mask: np.ndarray  # [N, L] int32: every word but the first


def sample(world, rng, rows, *, length=64, mixture=Mixture(), split="train"):
    """`rows` of text, shuffled; each starts with bos and ends with eos.

    A row holds one review, one judging text, or as many short skill texts as fit.
    Judging texts need 93 tokens: shorter rows leave their share to the others.
    """
    if length < reviews.WIDTH + reviews.RESPONSE:
        raise ValueError(f"length {length} is too short for reviews: 49 or more")
    share = [mixture.reviews, mixture.skills, mixture.judging]
    if length < judging.WIDTH:
        share[2] = 0.0
    kind = rng.choice(3, rows, p=np.array(share) / sum(share))
    tokens, mask = np.zeros((2, rows, length), np.int32)
    for number, write in enumerate((_reviews, _skills, _judging)):
        chosen = np.flatnonzero(kind == number)
        if chosen.size:
            text = write(world, rng, len(chosen), split=split, length=length)
            width = min(length, text[0].shape[1])
            tokens[chosen, :width] = text[0][:, :width]
            mask[chosen, :width] = text[1][:, :width]
    targets = mask.copy()
    targets[:, 0] = 0
    return Text(tokens, mask, targets)


def digest(world):
    """A short name of everything that decides the corpus, for caches of what it made.

    It is read off a small sample, so that any change of words or grammar changes it.
    """
    text = sample(world, np.random.default_rng(0), 256, length=96)
    return hashlib.sha256(text.tokens.tobytes()).hexdigest()[:16]


def _reviews(world, rng, n, *, split, length):
    prompt = reviews.prompts(world, rng, n, split=split)[:2]
    return layout.join(prompt, reviews.sample(world, rng, *prompt, length=length))


def _judging(world, rng, n, *, split, length):
    return judging.documents(world, rng, n, split=split)


def _skills(world, rng, n, *, split, length):
    """Questions with their answers, several in a row."""
    many = length // (skills.WIDTH + skills.ANSWER)
    counts = rng.multinomial(n * many, skills.SHARES)
    parts = [
        skills.items(world, kind, split, count, rng=rng)
        for kind, count in zip(skills.KINDS, counts, strict=True)
    ]
    question, question_mask, answer, answer_mask = (
        np.concatenate(fields) for fields in zip(*parts, strict=True)
    )
    order = rng.permutation(n * many)
    rows = [
        np.concatenate(pair, axis=1)[order].reshape(n, -1)
        for pair in ((question, answer), (question_mask, answer_mask))
    ]
    return layout.join(tuple(rows))
