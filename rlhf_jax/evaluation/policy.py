"""What a policy is worth and what it has lost: its measurement on fixed inputs.

Arrays and callables in, numbers out. Programs are compiled once and serve every
method and seed, since the weights are arguments.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import logprobs, masking, sampling
from rlhf_jax.algorithms.policy_gradient import collect
from rlhf_jax.types import Prompts, Tokens

_ROWS = 128  # drawn at once, by everyone who draws: one shape is one program


def prompt_rows(prompts, key):
    """What `draw` reads: (tokens, mask, key data), a key for each row. [N, ...] each.

    Keys travel as plain integers, for typed keys cannot be cut and padded on the host.
    """
    rows = np.arange(prompts.tokens.shape[0])
    return (*prompts, np.asarray(jax.random.key_data(sampling.row_keys(key, rows))))


def make_draw(model, *, config):
    """`draw(params, rows) -> Rollout`, rows from `prompt_rows`."""

    def draw(params, rows):
        tokens, mask, keys = rows
        keys = jax.random.wrap_key_data(keys)
        return sampling.generate(
            model, params, Prompts(tokens, mask), keys, config=config
        )

    return draw


@functools.lru_cache(maxsize=8)
def compile_draw(model, layout, config):
    """`draw` of `make_draw` for any number of rows, compiled once for all who ask."""
    return layout.over_rows(make_draw(model, config=config), whole=1, chunk=_ROWS)


def make_compare(model, *, config):
    """`compare(params, initial, rollout) -> (divergence [B], entropy [B])`, in nats.

    Σ_t KL(π(·|s_t) ‖ π₀(·|s_t)) and Σ_t H(π(·|s_t)), exact, over the whole vocabulary
    at every state that was visited, at the sampling temperature.
    """
    temperature = config.temperature or 1.0

    def compare(params, initial, rollout):
        valid = rollout.response_mask
        policy = _response_logits(model, params, rollout)
        reference = _response_logits(model, initial, rollout)
        divergence = logprobs.divergence(policy, reference, temperature=temperature)
        entropy = logprobs.entropy(policy, temperature=temperature)
        return (
            masking.zero(divergence, valid).sum(-1),
            masking.zero(entropy, valid).sum(-1),
        )

    return compare


def _response_logits(model, params, rollout):
    hidden = collect.before_responses(model, params, rollout)
    return model.apply({"params": params}, hidden, method="unembed")


def make_text_nll(model):
    """`text_nll(params, Tokens) -> (Σ NLL [B], tokens [B])` on text the policy did not
    write; nats, over the positions `target_mask` picks."""

    def text_nll(params, text: Tokens):
        logits = model.apply({"params": params}, text.tokens, text.mask)
        logps = logprobs.of_tokens(logits[:, :-1], text.tokens[:, 1:])
        targets = text.target_mask[:, 1:]
        return -masking.zero(logps, targets).sum(-1), targets.sum(-1)

    return text_nll


def make_logps(model):
    """`logps(params, (tokens, mask)) -> [B, T]` of each token given those before it in
    its row; 0 for the first."""

    def logps(params, rows):
        tokens, mask = rows
        logits = model.apply({"params": params}, tokens, mask)
        found = logprobs.of_tokens(logits[:, :-1], tokens[:, 1:])
        return jnp.pad(found, ((0, 0), (1, 0)))

    return logps


def make_answer(model, *, config):
    """`answer(params, (tokens, mask)) -> (tokens [B, T], mask [B, T])`, greedily."""

    def answer(params, rows):
        tokens, mask = rows
        keys = jax.vmap(jax.random.key)(jnp.zeros(tokens.shape[0], jnp.uint32))
        out = sampling.generate(
            model, params, Prompts(tokens, mask), keys, config=config
        )
        length = out.response_mask.shape[1]
        return out.tokens[:, -length:], out.response_mask

    return answer


def halves(values, weights=None):
    """Means over all rows, over the even rows and over the odd ones.

    The two halves serve selection and report: a checkpoint is chosen on one and read
    on the other. Args: values [N]; weights [N], for instance token counts.
    Returns (all, even, odd) floats.
    """
    values = np.asarray(values, np.float64)
    if weights is None:
        parts = values, values[::2], values[1::2]
        return tuple(float(part.mean()) for part in parts)
    weights = np.asarray(weights, np.float64)
    picks = slice(None), slice(None, None, 2), slice(1, None, 2)
    return tuple(float(values[p].sum() / weights[p].sum()) for p in picks)
