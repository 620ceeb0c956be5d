"""The pretraining corpus: reviews, skills and judging texts in one stream."""

import dataclasses
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
    """`rows` documents, shuffled; each starts with bos and ends with eos.

    Judging texts need 92 tokens: shorter rows leave their share to the others.
    """
    if length < reviews.WIDTH + reviews.RESPONSE:
        raise ValueError(f"length {length} is too short for reviews: 49 or more")
    share = [mixture.reviews, mixture.skills, mixture.judging]
    if length < 92:
        share[2] = 0.0
    kind = rng.choice(3, rows, p=np.array(share) / sum(share))
    tokens, mask = np.zeros((2, rows, length), np.int32)
    for number, write in enumerate((_reviews, _skills, judging.documents)):
        chosen = np.flatnonzero(kind == number)
        if chosen.size:
            text = write(world, rng, len(chosen), split=split)
            width = min(length, text[0].shape[1])
            tokens[chosen, :width] = text[0][:, :width]
            mask[chosen, :width] = text[1][:, :width]
    targets = mask.copy()
    targets[:, 0] = 0
    return Text(tokens, mask, targets)


def _reviews(world, rng, n, *, split):
    prompt = reviews.prompts(world, rng, n, split=split)[:2]
    return layout.join(prompt, reviews.sample(world, rng, *prompt, length=51))


def _skills(world, rng, n, *, split):
    """Questions with their answers, all kinds equally often."""
    counts = np.bincount(rng.integers(len(skills.KINDS), size=n), minlength=5)
    parts = [
        skills.items(world, kind, split, count, rng=rng)
        for kind, count in zip(skills.KINDS, counts, strict=True)
    ]
    fields = map(np.concatenate, zip(*parts, strict=True))
    question, question_mask, answer, answer_mask = fields
    return layout.join((question, question_mask), (answer, answer_mask))
