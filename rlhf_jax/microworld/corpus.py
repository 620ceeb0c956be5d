"""The pretraining corpus: a mixture of reviews, skills and judging texts."""

import dataclasses
import hashlib
from typing import NamedTuple

import numpy as np

from rlhf_jax.microworld import judging, padding, reviews, skills


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Shares of the kinds of text; a kind too long for a row has none."""

    reviews: float = 0.60
    skills: float = 0.20
    judging: float = 0.20


class Text(NamedTuple):
    """The fields of `types.Tokens`."""

    tokens: np.ndarray  # [N, L] int32, right-padded
    mask: np.ndarray  # [N, L] int32
    target_mask: np.ndarray  # [N, L] int32: all words but the first


_SHORTEST = 8  # words of a skill's question and answer


def sample(world, rng, rows, *, length=64, mixture=Mixture(), split="train"):
    """Random rows of text; each starts with bos and ends with eos.

    A row holds one review, one judging text, or as many skill texts as fit. Judging
    texts need 93 tokens; shorter rows have none. Raises ValueError for rows too short
    for reviews.
    """
    if length < reviews.WIDTH + reviews.RESPONSE:
        raise ValueError(f"length={length} is too short for reviews; use 49 or more")
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
    """A short digest of the corpus, as a cache key.

    It hashes a small sample, so that any change of words or grammar changes it.
    """
    text = sample(world, np.random.default_rng(0), 256, length=96)
    return hashlib.sha256(text.tokens.tobytes()).hexdigest()[:16]


def _reviews(world, rng, n, *, split, length):
    prompt = reviews.prompts(world, rng, n, split=split)[:2]
    return padding.join(prompt, reviews.sample(world, rng, *prompt, length=length))


def _judging(world, rng, n, *, split, length):
    return judging.documents(world, rng, n, split=split)


def _skills(world, rng, n, *, split, length):
    """Questions with their answers, as many in a row as fit."""
    count = n * length // _SHORTEST
    counts = rng.multinomial(count, skills.SHARES)
    parts = [
        skills.items(world, kind, split, count, rng=rng)
        for kind, count in zip(skills.KINDS, counts, strict=True)
    ]
    question, question_mask, answer, answer_mask = (
        np.concatenate(fields) for fields in zip(*parts, strict=True)
    )
    texts = padding.join((question, question_mask), (answer, answer_mask))
    order = rng.permutation(count)
    return padding.pack(*(x[order] for x in texts), rows=n, width=length)
