"""Measuring a policy on fixed inputs: samples, KL, entropy, NLL of text, answers.

Weights are arguments, so each program is compiled once for all methods and seeds.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import continuous, logprobs, masking, sampling
from rlhf_jax.models import responses
from rlhf_jax.types import Prompts, Tokens

_ROWS = 128  # sampled at a time by every caller: one shape, one program


def prompt_rows(prompts, key):
    """The rows that `draw` takes: (tokens, mask, key data), [N, ...] each.

    Keys are passed as plain integers: typed keys cannot be sliced and padded on the
    host.
    """
    rows = np.arange(prompts.tokens.shape[0])
    return (*prompts, np.asarray(jax.random.key_data(sampling.row_keys(key, rows))))


def make_draw(model, *, config, rows_per_slot=1):
    """`draw(params, rows) -> Rollout`, rows from `prompt_rows`.

    rows_per_slot: as for `continuous.take_turns`.
    """
    how = {"config": config, "rows_per_slot": rows_per_slot}

    def draw(params, rows):
        tokens, mask, keys = rows
        keys = jax.random.wrap_key_data(keys)
        return continuous.take_turns(model, params, Prompts(tokens, mask), keys, **how)

    return draw


@functools.lru_cache(maxsize=8)
def compile_draw(model, layout, config):
    """`make_draw` for any number of rows, compiled once and shared by all callers.

    Of a population each member stops with the one that writes longest.
    """
    axis = getattr(layout, "axis_name", None)
    config = dataclasses.replace(config, stop_axis=axis)
    return layout.over_rows(make_draw(model, config=config), replicated=1, chunk=_ROWS)


def make_compare(model, *, config):
    """`compare(params, initial, rollout) -> (divergence [B], entropy [B])`, in nats.

    Σ_t KL(π(·|s_t) ‖ π₀(·|s_t)) and Σ_t H(π(·|s_t)), exact over the vocabulary at every
    state of the rollout, at the sampling temperature.
    """
    temperature = config.temperature or 1.0

    def compare(params, initial, rollout):
        valid = rollout.response_mask
        states = [responses.states(model, p, rollout) for p in (params, initial)]

        def measure(here, there):
            policy = responses.unembed(model, params, here)
            reference = responses.unembed(model, initial, there)
            return (
                logprobs.divergence(policy, reference, temperature=temperature),
                logprobs.entropy(policy, temperature=temperature),
            )

        size = 2 * responses.vocabulary(model, params, states[0])  # two of them
        divergence, entropy = responses.in_parts(measure, states, size)
        return (
            masking.zero(divergence, valid).sum(-1),
            masking.zero(entropy, valid).sum(-1),
        )

    return compare


@functools.lru_cache(maxsize=8)
def compile_compare(model, layout, config, *, chunk=256):
    """`make_compare` for any number of rows, compiled once and shared by all callers.

    chunk: the most rows at a time; logits of two models are held for each.
    """
    program = make_compare(model, config=config)
    return layout.over_rows(program, replicated=2, chunk=chunk)


def make_text_nll(model):
    """`text_nll(params, Tokens) -> (Σ NLL [B] in nats, tokens [B])` of given text, over
    the tokens in `target_mask`."""

    def text_nll(params, text: Tokens):
        logps = _logps(model, params, text.tokens, text.mask)
        targets = text.target_mask[:, 1:]
        return -masking.zero(logps, targets).sum(-1), targets.sum(-1)

    return text_nll


@functools.lru_cache(maxsize=8)
def compile_text_nll(model, layout):
    """`make_text_nll` for any number of rows, compiled once for all callers."""
    return layout.over_rows(make_text_nll(model), replicated=1)


def make_logps(model):
    """`logps(params, (tokens, mask)) -> [B, T]`: the log-prob of each token given its
    prefix; 0 for the first."""

    def logps(params, rows):
        tokens, mask = rows
        return jnp.pad(_logps(model, params, tokens, mask), ((0, 0), (1, 0)))

    return logps


def _logps(model, params, tokens, mask):
    """The log-prob of each token but the first, given its prefix: [B, T − 1]."""
    hidden = model.apply({"params": params}, tokens, mask, method="hidden")
    return responses.logps_of_states(model, params, hidden[:, :-1], tokens[:, 1:])


def make_answers(model):
    """`answers(params, data) -> (right [B] bool, logps [B] in nats)` of given answers.

    data: tokens and mask [B, P + T] of questions, padded on the left, each with its
    answer, padded on the right; response_mask [B, T]. An answer is right if each of its
    tokens, the end included, is the likeliest after those before it: greedy decoding
    would write exactly this. Its log-prob is the sum over its tokens.
    """

    def answers(params, data):
        hidden = responses.states(model, params, data)
        best, logps = _read(model, params, hidden, responses.tokens(data))
        valid = data.response_mask
        return (best | (valid == 0)).all(-1), masking.zero(logps, valid).sum(-1)

    return answers


def make_branched(model):
    """`branched(params, Branched) -> (is it the likeliest token [N, K] bool, log π
    [N, K] in nats)` of each target of `data.beginnings.pack`, as if every text were
    read alone.
    """

    def branched(params, rows):
        hidden = model.apply(
            {"params": params},
            rows.tokens,
            rows.mask,
            segments=(rows.texts, rows.branches),
            method="hidden",
        )
        hidden = jnp.take_along_axis(hidden, rows.states[..., None], axis=1)
        return _read(model, params, hidden, rows.targets)

    return branched


def _read(model, params, hidden, tokens):
    """(is each token the likeliest after its state, its log-prob), [B, T] each."""

    def read(hidden, tokens):
        logits = responses.unembed(model, params, hidden)
        return logits.argmax(-1) == tokens, logprobs.of_tokens(logits, tokens)

    size = responses.vocabulary(model, params, hidden)
    return responses.in_parts(read, (hidden, tokens), size)


def halves(values, weights=None):
    """Means over all rows, the even rows and the odd rows.

    A checkpoint is selected on one half and reported on the other. A single row is both
    halves. Args: values [N]; weights [N], such as token counts. Returns (all, even,
    odd) floats.
    """
    values = np.asarray(values, np.float64)
    odd = slice(min(1, len(values) - 1), None, 2)
    picks = slice(None), slice(None, None, 2), odd
    if weights is None:
        return tuple(float(values[p].mean()) for p in picks)
    weights = np.asarray(weights, np.float64)
    return tuple(float(values[p].sum() / weights[p].sum()) for p in picks)
