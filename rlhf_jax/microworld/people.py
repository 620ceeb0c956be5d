"""Human-like preferences: the gold reward seen through noisy annotators.

N pairs of responses to the same prompt. Most annotators follow the gold reward with
logistic noise; some like length and adjectives, whatever they are worth.
"""

import dataclasses
from typing import NamedTuple

import numpy as np

from rlhf_jax.microworld import gold, reviews


@dataclasses.dataclass(frozen=True)
class Noise:
    """How annotators err."""

    mode: str = "logistic"  # or "flip": a wrong label with probability 1 − agreement
    agreement: float = 0.75  # mean probability of preferring the better one
    easily_pleased: float = 0.15  # share of annotators who like length and adjectives
    weights: gold.Weights = gold.FIRST


class Pairs(NamedTuple):
    """Field by field what `types.Preferences` holds."""

    chosen: np.ndarray  # [N, P + T] int32: prompt, then response
    chosen_mask: np.ndarray  # [N, P + T] int32
    rejected: np.ndarray  # [N, P + T] int32
    rejected_mask: np.ndarray  # [N, P + T] int32
    preference: np.ndarray  # [N] float32, 1: `chosen` was preferred


def preferences(world, rng, prompts, first, first_mask, second, second_mask, *, noise):
    """[N] bool: an annotator prefers the first response.

    P = σ(Δgold/τ), with τ such that these annotators prefer the better response with
    mean probability `noise.agreement`. The easily pleased judge by σ(Δlength +
    Δadjectives), both in standard deviations.
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
    """n preference pairs of the corpus' own reviews, two of every prompt."""
    tokens, mask, _ = reviews.prompts(world, rng, n, split=split)
    first = reviews.sample(world, rng, tokens, mask, length=length)
    second = reviews.sample(world, rng, tokens, mask, length=length)
    wins = preferences(world, rng, tokens, *first, *second, noise=noise)
    return choose(tokens, mask, *first, *second, wins)


def choose(prompts, prompt_mask, first, first_mask, second, second_mask, wins):
    """Sort responses into chosen and rejected: `Pairs`, prompts put in front."""
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
    """The gold reward, with the end read from the responses."""
    ended = reviews.ended(world, responses, response_mask)
    return gold.reward(world, prompts, responses, response_mask, ended, weights=weights)


def temperature(difference, agreement):
    """τ with mean σ(|Δ|/τ) = agreement; the nearest possible when ties forbid it."""
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
    """Length and adjectives in standard deviations of the corpus, added."""
    adjectives = np.isin(words, gold.adjectives(world.lexicon)) & (mask != 0)
    return (mask.sum(1) - 19) / 5.5 + (adjectives.sum(1) - 2.4) / 1.4


def _sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))
