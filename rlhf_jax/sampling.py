"""Generation: one pass over the prompt, then a loop until every row has ended.

A generator is anything whose `apply` has two methods: `prefill(tokens, mask, length)` →
(logits [B, V], memory), and `step(token [B], position [B], memory)` → the same. For
several responses per prompt it also needs `repeat(copies, memory)` → the memory with
each row repeated.

Legend: B rows, P prompt tokens, T new tokens, V vocabulary.
"""

import dataclasses
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import filters, gumbel, logprobs, ranges, stopping
from rlhf_jax.types import Rollout


@dataclasses.dataclass(frozen=True)
class Config:
    """How to sample; static under jit."""

    max_new_tokens: ranges.Count
    min_new_tokens: int = 0  # no end token before this many others
    uniform_from: ranges.Natural = 0  # rows end at lengths uniform from here; 0: at max
    temperature: ranges.NonNegative = 1.0  # 0: greedy
    top_k: ranges.Natural = 0
    """Draw from so many of the likeliest tokens; 0: from all."""
    top_p: Annotated[float, ranges.Range(above=0, at_most=1)] = 1.0
    """Draw from the fewest tokens that together have this probability; 1: from all."""
    min_p: ranges.Share = 0.0
    """Draw from tokens with at least this share of the largest probability; 0: from
    all."""
    repetition_penalty: ranges.Positive = 1.0
    """Above 1, tokens of the prompt and of the response so far become less likely:
    positive logits are divided by it, negative ones multiplied."""
    eos_ids: tuple[int, ...] = ()
    stops: stopping.Matcher | None = None  # of strings that end a row too
    pad_id: int = 0
    vocab_limit: int | None = None  # ids from here on are never sampled
    # "inverse": one uniform draw per row, faster on CPU.
    sampler: Literal["gumbel", "inverse"] = "gumbel"
    stop_axis: str | None = None  # vmapped axis whose members share the stop test

    def __post_init__(self):
        ranges.check(self)

    def conflicts(self):
        """Fields that contradict each other, and why."""
        if self.uniform_from > self.max_new_tokens:
            yield ("uniform_from", "max_new_tokens"), "no row could be so long"
        if self.pad_id in self.eos_ids:
            reason = "the end of a response would look like padding; choose another"
            yield ("pad_id", "eos_ids"), reason


class _State(NamedTuple):
    time: jax.Array  # [] int32, tokens sampled so far
    logits: jax.Array  # [B, V], of the next token
    memory: Any
    tokens: jax.Array  # [B, T] int32
    mask: jax.Array  # [B, T] int32
    logps: jax.Array  # [B, T] float32
    sampler_logps: jax.Array  # [B, T] float32
    ended: jax.Array  # [B] bool
    lengths: Any = ()  # [B] int32, where rows are cut; (): at T tokens
    seen: Any = ()  # [B, V] bool, what a repetition penalty counts; (): nothing
    matched: Any = ()  # [B] int32, the state of `config.stops`; (): there are none

    @property
    def running(self):
        """[B] bool: which rows sample another token."""
        if isinstance(self.lengths, tuple):
            return ~self.ended
        return ~self.ended & (self.time < self.lengths)


def row_keys(key, row_ids):
    """One key per row, from its global id: samples do not depend on the layout."""
    return jax.vmap(lambda row: jax.random.fold_in(key, row))(row_ids)


def generate(model, params, prompts, keys, *, config, copies=1):
    """Continues left-padded prompts until each row samples an end token, or T tokens.

    A row also ends with the token that completes a stop string, which stays in it. With
    `uniform_from` = u each row is also cut at a length uniform in u..T, drawn from its
    key; without `eos_ids` only that stops it (as in StackLLaMA).

    `logps` are log softmax(logits / temperature) over the whole vocabulary, as in a
    full forward pass (at temperature 1 if greedy). `sampler_logps` are those of the
    distribution sampled from, after everything in `filtered` (0 if greedy). After its
    end a row holds `pad_id`, mask 0 and zeros. A token depends on the row's key, the
    time step and the row's tokens only.

    Args: model and params: a generator; prompts: `Prompts` [B, P], with a valid token
    in every row; keys [B·copies]; config: a static `Config`; copies: responses per
    prompt, in adjacent rows; the prompt is read once. Returns `Rollout` of B·copies
    rows. No gradient flows through sampling.
    """
    prompts, logits, memory = _read(model, params, prompts, config, copies)
    start = prompts.mask.sum(-1).astype(jnp.int32)
    lengths = _lengths(keys, config)
    times = jnp.arange(config.max_new_tokens)
    keys = jax.vmap(_fold_rows, (None, 0))(keys, times)  # [T, B], before the loop

    def advance(state):
        last = jnp.take(state.tokens, state.time - 1, axis=1)
        # Rows that have ended are fed id 0: pad_id may lie outside the vocabulary.
        logits, memory = model.apply(
            {"params": params},
            jnp.where(state.running, last, 0),
            start + state.time - 1,
            state.memory,
            method="step",
        )
        return _draw(state._replace(logits=logits, memory=memory), keys, config)

    state = _empty(prompts, logits, memory, config)._replace(lengths=lengths)
    state = _draw(state, keys, config)
    state = jax.lax.while_loop(lambda s: _unfinished(s, config), advance, state)
    mask = prompts.mask.astype(jnp.int32)
    return Rollout(
        tokens=jnp.concatenate([prompts.tokens, state.tokens], axis=1),
        mask=jnp.concatenate([mask, state.mask], axis=1),
        response_mask=state.mask,
        logps=state.logps,
        sampler_logps=state.sampler_logps,
        ended=state.ended,
    )


def _read(model, params, prompts, config, copies):
    """(prompts, logits, memory) after reading the prompts, each in `copies` rows."""
    length = prompts.tokens.shape[1] + config.max_new_tokens
    logits, memory = model.apply(
        {"params": params}, prompts.tokens, prompts.mask, length, method="prefill"
    )
    if copies > 1:
        prompts, logits = jax.tree.map(
            lambda x: jnp.repeat(x, copies, axis=0), (prompts, logits)
        )
        memory = model.apply({"params": params}, copies, memory, method="repeat")
    return prompts, logits, memory


def filtered(logits, *, config, time=None, seen=None):
    """Logits / temperature, with −inf for tokens not to be sampled. [B, V] → [B, V].

    In this order, as in `transformers`: the penalty on `seen` tokens [B, V], then the
    temperature; excluded are ids from `vocab_limit` on; end tokens while `time` <
    `min_new_tokens`; then what `top_k`, `top_p` and `min_p` leave out, each of what the
    one before left. Ties are kept.
    """
    logits = logits.astype(jnp.float32)
    if config.repetition_penalty != 1.0 and seen is not None:
        penalty = config.repetition_penalty
        logits = filters.repetition_penalty(logits, seen, penalty=penalty)
    scaled = logits / (config.temperature or 1.0)
    ids = jnp.arange(scaled.shape[-1])
    if config.vocab_limit is not None:
        scaled = jnp.where((ids < config.vocab_limit)[None], scaled, -jnp.inf)
    if config.min_new_tokens > 0 and config.eos_ids and time is not None:
        early = jnp.isin(ids, jnp.array(config.eos_ids)) & (
            time < config.min_new_tokens
        )
        scaled = jnp.where(early[None], -jnp.inf, scaled)
    if 0 < config.top_k < scaled.shape[-1]:
        scaled = jnp.where(filters.top_k(scaled, config.top_k), scaled, -jnp.inf)
    if config.top_p < 1.0:
        scaled = jnp.where(filters.nucleus(scaled, config.top_p), scaled, -jnp.inf)
    if config.min_p > 0.0:
        scaled = jnp.where(filters.min_p(scaled, config.min_p), scaled, -jnp.inf)
    return scaled


def _draw(state, keys, config):
    """Samples the next token of every row from `state.logits` and records it.

    keys [T, B].
    """
    seen = None if isinstance(state.seen, tuple) else state.seen
    allowed = filtered(state.logits, config=config, time=state.time, seen=seen)
    if config.temperature == 0:
        token = _argmax(allowed)
        drawn_logps = jnp.zeros(token.shape, jnp.float32)
    else:
        token = _SAMPLERS[config.sampler](keys[state.time], allowed)
        drawn_logps = logprobs.of_tokens(allowed, token)
    logps = logprobs.of_tokens(
        state.logits, token, temperature=config.temperature or 1.0
    )
    running = state.running

    def record(history, value, otherwise=0):
        value = jnp.where(running, value, otherwise).astype(history.dtype)
        return jax.lax.dynamic_update_index_in_dim(history, value, state.time, axis=1)

    stopped, fields = _remember(state, token, config)
    return state._replace(
        time=state.time + 1,
        tokens=record(state.tokens, token, config.pad_id),
        mask=record(state.mask, running.astype(jnp.int32)),
        logps=record(state.logps, logps),
        sampler_logps=record(state.sampler_logps, drawn_logps),
        ended=state.ended | (running & stopped),
        **fields,
    )


def _remember(state, token, config):
    """(does `token` [B] end its row? [B], the fields of the state that remember it)."""
    stopped, fields = jnp.isin(token, jnp.array(config.eos_ids, int)), {}
    if config.stops is not None:
        matched = stopping.advance(config.stops, state.matched, token)
        stopped |= stopping.complete(config.stops, matched)
        fields["matched"] = matched
    if not isinstance(state.seen, tuple):
        ids = jnp.arange(state.seen.shape[-1])
        fields["seen"] = state.seen | (ids[None] == token[:, None])
    return stopped, fields


_fold_rows = jax.vmap(jax.random.fold_in, (0, None))


def _lengths(keys, config):
    """The length at which each row is cut, () if none is; its key is no time step's."""
    if not config.uniform_from:
        return ()
    low, high = config.uniform_from, config.max_new_tokens
    draw = jax.vmap(lambda key: jax.random.randint(key, (), low, high + 1))
    return draw(_fold_rows(keys, high))


def _gumbel(keys, logits):
    """argmax of logits + Gumbel noise: V random numbers per row."""
    return _argmax(logits + gumbel.gumbel(keys, logits.shape[-1]))


def _argmax(scores):
    """The first id with the largest score. [B, V] → [B].

    Two vectorised reductions, three times as fast as `jnp.argmax` on CPU.
    """
    ids = jnp.arange(scores.shape[-1])
    largest = scores == scores.max(-1, keepdims=True)
    # If all scores are NaN none is largest: return the last id, a valid one.
    return jnp.where(largest, ids[None], ids[-1]).min(-1)


def _inverse(keys, logits):
    """The first id whose cumulative probability exceeds one uniform draw per row."""
    uniform = jax.vmap(jax.random.uniform)(keys)[:, None]
    weights = jax.nn.softmax(logits, axis=-1)
    cumulative = jnp.cumsum(weights, axis=-1)
    index = (cumulative <= uniform * cumulative[:, -1:]).sum(-1)
    # The product can round up to the total; then take the last possible id.
    last = logits.shape[-1] - 1 - jnp.argmax(weights[:, ::-1] > 0, axis=-1)
    return jnp.minimum(index, last)


_SAMPLERS = {"gumbel": _gumbel, "inverse": _inverse}


def _empty(prompts, logits, memory, config):
    shape = (logits.shape[0], config.max_new_tokens)
    penalized = config.repetition_penalty != 1.0
    return _State(
        time=jnp.zeros((), jnp.int32),
        logits=logits,
        memory=memory,
        tokens=jnp.full(shape, config.pad_id, jnp.int32),
        mask=jnp.zeros(shape, jnp.int32),
        logps=jnp.zeros(shape, jnp.float32),
        sampler_logps=jnp.zeros(shape, jnp.float32),
        ended=jnp.zeros(shape[:1], bool),
        seen=_seen(prompts, logits.shape) if penalized else (),
        matched=() if config.stops is None else jnp.zeros(shape[:1], jnp.int32),
    )


def _seen(prompts, shape):
    """The tokens of each prompt: [B, V] bool of the given shape."""
    ids = jnp.where(prompts.mask != 0, prompts.tokens, shape[-1])
    rows = jnp.arange(shape[0])[:, None]
    return jnp.zeros(shape, bool).at[rows, ids].set(True, mode="drop")


def _unfinished(state, config):
    running = jnp.any(state.running)
    if config.stop_axis is not None:
        running = jax.lax.pmax(running.astype(jnp.int32), config.stop_axis) > 0
    return running & (state.time < config.max_new_tokens)
