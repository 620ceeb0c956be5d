"""NLPO: PPO that draws only what a masking policy finds likely.

Ramamurthy et al. 2023, "Is Reinforcement Learning (Not) for Natural Language
Processing?", arXiv:2210.01241. The masking policy is a copy of the policy, taken anew
every few iterations; its nucleus at each state is what the policy may draw from and
what its log-probs are normalised over. The KL penalty is of the policies without masks.

Legend: B rows, T tokens, V vocabulary.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from rlhf_jax import sampling, trees


class Pair(NamedTuple):
    """The weights of the policy and of the one that masks it."""

    policy: Any
    masking: Any


class Restricted:
    """A generator of two of one kind: the first's logits where the second allows.

    Params: a `Pair`. Knows the methods that generation asks for.
    """

    def __init__(self, model, config):
        self._model, self._config = model, config

    def apply(self, variables, *args, method):
        pair, memories = variables["params"], (None, None)
        if method in ("step", "repeat"):
            *args, memories = args
        found = [
            self._model.apply(
                {"params": params},
                *args,
                *(() if memory is None else (memory,)),
                method=method,
            )
            for params, memory in zip(pair, memories, strict=True)
        ]
        if method == "repeat":
            return tuple(found)
        (logits, own), (others, other) = found
        return restrict(logits, allowed(others, config=self._config)), (own, other)


def allowed(logits, *, config):
    """What may be drawn, by the masking policy's logits [..., V]. Returns bool alike.

    The smallest set of probability `mask_top_p`, and at least the `mask_least`
    likeliest tokens; an end token always, which the set is chosen without, so that
    something is left where no text may end yet. Everything at `mask_top_p` 1.
    """
    if config.mask_top_p >= 1.0:
        return jnp.ones(logits.shape, bool)
    sampler = config.sampling
    flat = logits.reshape(-1, logits.shape[-1])
    ends = jnp.zeros(logits.shape[-1:], bool)
    if sampler.eos_ids:
        ends = jnp.isin(jnp.arange(logits.shape[-1]), jnp.array(sampler.eos_ids))
    plain = sampling.Config(
        sampler.max_new_tokens,
        temperature=sampler.temperature,
        vocab_limit=sampler.vocab_limit,
    )
    scaled = sampling.filtered(jnp.where(ends[None], -jnp.inf, flat), config=plain)
    kept = sampling.nucleus(scaled, config.mask_top_p, least=config.mask_least)
    return (kept | ends[None]).reshape(logits.shape)


def restrict(logits, mask):
    """−inf where the mask forbids; no gradient there. [..., V] each."""
    return jnp.where(mask, logits, -jnp.inf)


def pack(mask, tokens):
    """Masks [B, T, V] as bits [B, T, ⌈V/8⌉], the tokens that were drawn allowed.

    A full pass and the sampler's cached one may disagree in the last digit on where a
    nucleus ends; what was drawn was allowed.
    """
    drawn = jnp.arange(mask.shape[-1])[None, None] == tokens[..., None]
    return jnp.packbits(mask | drawn, axis=-1)


def unpack(bits, size):
    """The masks of `pack`, [B, T, size] bool."""
    return jnp.unpackbits(bits, axis=-1, count=size).astype(bool)


def refresh(state, hyper):
    """The masking policy becomes the policy after every `mask_every`-th iteration."""
    every = jnp.maximum(hyper.mask_every, 1)
    due = ((state.iteration + 1) % every == 0) & (hyper.mask_every > 0)
    policy = state.learner.params["policy"]
    return state._replace(masking=trees.where(due, policy, state.masking))
