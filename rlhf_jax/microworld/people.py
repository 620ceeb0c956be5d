"""Human-like preferences: noisy annotators of the gold reward.

N pairs of responses to the same prompt. Most annotators follow the gold reward with
logistic noise; some prefer length and adjectives regardless of it.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from rlhf_jax.microworld import gold, reviews


@dataclasses.dataclass(frozen=True)
class Noise:
    """The noise of annotators."""

    mode: str = "logistic"  # or "flip": a wrong label with probability 1 − agreement
    agreement: float = 0.75  # mean probability of preferring the better response
    easily_pleased: float = 0.15  # share of annotators who like length and adjectives
    weights: gold.Weights = gold.FIRST


class Pairs(NamedTuple):
    """The fields of `types.Preferences` without margins."""

    chosen: np.ndarray  # [N, P + T] int32: prompt, then response
    chosen_mask: np.ndarray  # [N, P + T] int32
    rejected: np.ndarray  # [N, P + T] int32
    rejected_mask: np.ndarray  # [N, P + T] int32
    preference: np.ndarray  # [N] float32, 1: `chosen` was preferred


def preferences(world, rng, prompts, first, first_mask, second, second_mask, *, noise):
    """[N] bool: an annotator prefers the first response.

    P = σ(Δgold/τ), with τ chosen so that the better response is preferred with mean
    probability `noise.agreement`. Easily pleased annotators have P = σ(Δlength +
    Δadjectives), both in standard deviations. Raises ValueError for an unknown mode.
    """
    if noise.mode not in ("logistic", "flip"):
        raise ValueError(f"mode {noise.mode!r} is neither 'logistic' nor 'flip'")
    sides = (first, first_mask), (second, second_mask)
    score = [reward(world, prompts, *side, weights=noise.weights) for side in sides]
    difference = score[0] - score[1]
    if noise.mode == "logistic":
        chance = _sigmoid(difference / temperature(difference, noise.agreement))
    else:
        chance = 0.5 + np.sign(difference) * (noise.agreement - 0.5)
    taste = [_abundance(world, *side) for side in sides]
    pleased = rng.random(len(difference)) < noise.easily_pleased
    chance = np.where(pleased, _sigmoid(taste[0] - taste[1]), chance)
    return rng.random(len(difference)) < chance


def pairs(world, rng, n, *, split="train", noise=Noise(), length=reviews.RESPONSE):
    """n preference pairs: two reviews of the corpus's grammar per prompt."""
    tokens, mask, _ = reviews.prompts(world, rng, n, split=split)
    first = reviews.sample(world, rng, tokens, mask, length=length)
    second = reviews.sample(world, rng, tokens, mask, length=length)
    wins = preferences(world, rng, tokens, *first, *second, noise=noise)
    return choose(tokens, mask, *first, *second, wins)


def choose(prompts, prompt_mask, first, first_mask, second, second_mask, wins):
    """`Pairs` with the prompts in front; wins [N] bool: `first` was preferred."""
    wins = np.asarray(wins)[:, None]
    chosen, rejected = (
        [np.where(side, a, b) for a, b in ((first, second), (first_mask, second_mask))]
        for side in (wins, ~wins)
    )
    return Pairs(
        np.concatenate([prompts, chosen[0]], axis=1).astype(np.int32),
        np.concatenate([prompt_mask, chosen[1]], axis=1).astype(np.int32),
        np.concatenate([prompts, rejected[0]], axis=1).astype(np.int32),
        np.concatenate([prompt_mask, rejected[1]], axis=1).astype(np.int32),
        np.ones(len(prompts), np.float32),
    )


def reward(world, prompts, responses, response_mask, *, weights=gold.FIRST):
    """The gold reward; whether a response ended is read from its tokens."""
    ended = reviews.ended(world, responses, response_mask)
    return gold.reward(world, prompts, responses, response_mask, ended, weights=weights)


def temperature(difference, agreement):
    """The τ with mean σ(|Δ|/τ) = agreement, or the nearest if ties prevent it."""
    size = np.abs(np.asarray(difference, np.float64))
    low, high = 1e-4, 1e4
    for _ in range(80):
        middle = np.sqrt(low * high)
        if _sigmoid(size / middle).mean() > agreement:
            low = middle
        else:
            high = middle
    return high


def _abundance(world, words, mask):
    """Length plus number of adjectives, each in standard deviations of the corpus."""
    adjectives = np.isin(words, gold.adjectives(world.lexicon)) & (mask != 0)
    return (mask.sum(1) - 21.8) / 5.3 + (adjectives.sum(1) - 1.8) / 1.1


def _sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))
