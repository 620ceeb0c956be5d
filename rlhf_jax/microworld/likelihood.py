"""The true log p* of reviews, in nats, for KL divergences in both directions."""

import numpy as np

from rlhf_jax.microworld import automaton, reviews


def log_prob(world, prompts, prompt_mask, responses, response_mask):
    """The exact log p*(response | prompt), including the corpus's noise channel.

    prompts [N, P] left-padded review prompts; responses [N, T] right-padded, with the
    mask up to and including the end word. A response without the end word gets the
    probability of all reviews with this prefix. Finite for any words. Returns [N]
    float64.
    """
    return automaton.log_prob(
        world.grammar.machine,
        np.asarray(responses),
        np.asarray(response_mask),
        **reviews.start(world, prompts, prompt_mask),
    )


def entropy(world, rng, n=1024, *, split="train", length=64):
    """The entropy H(p*) of a review in nats: (mean, standard error) over n samples."""
    tokens, mask, _ = reviews.prompts(world, rng, n, split=split)
    words, valid = reviews.sample(world, rng, tokens, mask, length=length)
    surprise = -log_prob(world, tokens, mask, words, valid)
    return float(surprise.mean()), float(surprise.std(ddof=1) / np.sqrt(n))
