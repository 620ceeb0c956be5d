"""NLPO: PPO that samples only from tokens a masking policy finds likely.

Ramamurthy et al. 2023, "Is Reinforcement Learning (Not) for Natural Language
Processing?", arXiv:2210.01241. The masking policy is a copy of the policy, refreshed
every few iterations. At each state the policy samples from its nucleus, and log-probs
are normalised over it. The KL penalty compares policies without masks.

Legend: B rows, T tokens, V vocabulary.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp

from rlhf_jax import filters, sampling, trees


class Pair(NamedTuple):
    """The weights of the policy and of its masking policy."""

    policy: Any
    masking: Any


class Masked:
    """A generator with a token mask: the policy's logits where the other's allow.

    Both policies share one module, and each has a memory of its own. Params: a `Pair`.
    It has the methods that `sampling.generate` and `continuous.generate` call.
    """

    def __init__(self, model, config):
        self._model, self._config = model, config

    def apply(self, variables, *args, method):
        count = {"prefill": 0, "replace": 2}.get(method, 1)  # memories, the last ones
        shared, memories = args[: len(args) - count], args[len(args) - count :]
        results = [
            self._model.apply(
                {"params": params}, *shared, *(both[i] for both in memories),
                method=method,
            )
            for i, params in enumerate(variables["params"])
        ]  # fmt: skip
        if method in ("repeat", "replace", "take"):
            return tuple(results)
        (logits, memory), (mask_logits, mask_memory) = results
        mask = allowed(mask_logits, config=self._config)
        return apply(logits, mask), (memory, mask_memory)


def allowed(logits, *, config):
    """The tokens that may be drawn, from the masking policy's logits: [..., V] bool.

    The smallest set with probability `mask_top_p`, but at least the `mask_least`
    likeliest tokens; everything if `mask_top_p` is 1. End tokens are always allowed
    and do not count towards the set, so something is left when no text may end yet.
    """
    if config.mask_top_p >= 1.0:
        return jnp.ones(logits.shape, bool)
    sampler = config.sampling
    flat = logits.reshape(-1, logits.shape[-1])
    is_end = jnp.zeros(logits.shape[-1:], bool)
    if sampler.eos_ids:
        is_end = jnp.isin(jnp.arange(logits.shape[-1]), jnp.array(sampler.eos_ids))
    plain = sampling.Config(
        sampler.max_new_tokens,
        temperature=sampler.temperature,
        vocab_limit=sampler.vocab_limit,
    )
    scaled = sampling.filtered(jnp.where(is_end[None], -jnp.inf, flat), config=plain)
    kept = filters.nucleus(scaled, config.mask_top_p, least=config.mask_least)
    return (kept | is_end[None]).reshape(logits.shape)


def apply(logits, mask):
    """Logits with −inf, and no gradient, where the mask is False. [..., V] each."""
    return jnp.where(mask, logits, -jnp.inf)


def pack(mask, tokens):
    """Masks [B, T, V] as bits [B, T, ⌈V/8⌉], with the sampled tokens always allowed.

    A full pass and the sampler's cached pass may round differently at the edge of the
    nucleus, but a token that was sampled must have been allowed.
    """
    drawn = jnp.arange(mask.shape[-1])[None, None] == tokens[..., None]
    return jnp.packbits(mask | drawn, axis=-1)


def unpack(bits, size):
    """The inverse of `pack`: masks [B, T, size] bool."""
    return jnp.unpackbits(bits, axis=-1, count=size).astype(bool)


def refresh(state, hyper):
    """Copies the policy to the masking policy after every `mask_every`-th iteration."""
    every = jnp.maximum(hyper.mask_every, 1)
    due = ((state.iteration + 1) % every == 0) & (hyper.mask_every > 0)
    policy = state.learner.params["policy"]
    return state._replace(masking=trees.where(due, policy, state.masking))
