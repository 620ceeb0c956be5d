"""Generation: one pass over the prompt, then a loop until every row has ended.

A generator is anything whose `apply` has two methods: `prefill(tokens, mask, length)` →
(logits [B, V], memory), and `step(token [B], position [B], memory)` → the same. For
several responses per prompt it also needs `repeat(copies, memory)` → the memory with
each row repeated. For `continuous.generate` it needs `replace(rows, new, memory)` → the
memory with `rows` [R] replaced by those of `new`, which were just read, and
`take(rows, memory)` → the memory of these rows alone.

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


class Drawn(NamedTuple):
    """The next token of each row."""

    tokens: jax.Array  # [B] int32
    logps: jax.Array  # [B] float32, at the temperature alone
    sampler_logps: jax.Array  # [B] float32, of what was sampled from


class Past(NamedTuple):
    """What the next draw must know of the tokens of each row."""

    seen: Any = ()  # [B, V] bool, what a repetition penalty counts; (): nothing
    matched: Any = ()  # [B] int32, the state of `config.stops`; (): there are none


class _State(NamedTuple):
    time: jax.Array  # [] int32, tokens sampled so far
    logits: jax.Array  # [B, V], of the next token
    memory: Any
    past: Past
    tokens: jax.Array  # [B, T] int32
    mask: jax.Array  # [B, T] int32
    logps: jax.Array  # [B, T] float32
    sampler_logps: jax.Array  # [B, T] float32
    ended: jax.Array  # [B] bool
    lengths: Any  # [B] int32, where rows are cut; (): at T tokens

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
    prompts, logits, memory = read(model, params, prompts, config, copies)
    start = prompts.mask.sum(-1).astype(jnp.int32)
    lengths, keys = cuts(keys, config), token_keys(keys, config)

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
        return _record(state._replace(logits=logits, memory=memory), keys, config)

    state = _empty(prompts, logits, memory, config)._replace(lengths=lengths)
    state = _record(state, keys, config)
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


def read(model, params, prompts, config, copies):
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
    temperature; excluded are ids from `vocab_limit` on; end tokens while `time`, [] or
    [B], is below `min_new_tokens`; then what `top_k`, `top_p` and `min_p` leave out,
    each of what the one before left. Ties are kept.
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
        early = jnp.reshape(time, (-1, 1)) < config.min_new_tokens
        ends = jnp.isin(ids, jnp.array(config.eos_ids))
        scaled = jnp.where(early & ends[None], -jnp.inf, scaled)
    if 0 < config.top_k < scaled.shape[-1]:
        scaled = jnp.where(filters.top_k(scaled, config.top_k), scaled, -jnp.inf)
    if config.top_p < 1.0:
        scaled = jnp.where(filters.nucleus(scaled, config.top_p), scaled, -jnp.inf)
    if config.min_p > 0.0:
        scaled = jnp.where(filters.min_p(scaled, config.min_p), scaled, -jnp.inf)
    return scaled


def draw(logits, keys, past, *, config, time):
    """Samples the next token of every row: `Drawn`.

    logits [B, V]; keys [B], of `token_keys` at the rows' time; past: `Past`; time: the
    tokens sampled so far, [] or [B].
    """
    seen = None if isinstance(past.seen, tuple) else past.seen
    allowed = filtered(logits, config=config, time=time, seen=seen)
    if config.temperature == 0:
        tokens = _argmax(allowed)
        drawn_logps = jnp.zeros(tokens.shape, jnp.float32)
    else:
        tokens = _SAMPLERS[config.sampler](keys, allowed)
        drawn_logps = logprobs.of_tokens(allowed, tokens)
    logps = logprobs.of_tokens(logits, tokens, temperature=config.temperature or 1.0)
    return Drawn(tokens, logps, drawn_logps)


def remember(past, tokens, config):
    """(do `tokens` [B] end their rows? [B], the `Past` that knows them)."""
    stopped = jnp.isin(tokens, jnp.array(config.eos_ids, int))
    if config.stops is not None:
        matched = stopping.advance(config.stops, past.matched, tokens)
        stopped |= stopping.complete(config.stops, matched)
        past = past._replace(matched=matched)
    if not isinstance(past.seen, tuple):
        ids = jnp.arange(past.seen.shape[-1])
        past = past._replace(seen=past.seen | (ids[None] == tokens[:, None]))
    return stopped, past


def _record(state, keys, config):
    """Draws the next token of every row from `state.logits`. keys [T, B]."""
    time, running = state.time, state.running
    given = state.logits, keys[time], state.past
    drawn = draw(*given, config=config, time=time)

    def record(history, value, otherwise=0):
        value = jnp.where(running, value, otherwise).astype(history.dtype)
        return jax.lax.dynamic_update_index_in_dim(history, value, time, axis=1)

    stopped, past = remember(state.past, drawn.tokens, config)
    return state._replace(
        time=time + 1,
        past=past,
        tokens=record(state.tokens, drawn.tokens, config.pad_id),
        mask=record(state.mask, running.astype(jnp.int32)),
        logps=record(state.logps, drawn.logps),
        sampler_logps=record(state.sampler_logps, drawn.sampler_logps),
        ended=state.ended | (running & stopped),
    )


def token_keys(keys, config):
    """The key of each token, from its row's key and its time alone. [B] → [T, B]."""
    times = jnp.arange(config.max_new_tokens)
    return jax.vmap(_fold_rows, (None, 0))(keys, times)


_fold_rows = jax.vmap(jax.random.fold_in, (0, None))


def cuts(keys, config):
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
    return _State(
        time=jnp.zeros((), jnp.int32),
        logits=logits,
        memory=memory,
        past=before(prompts, logits.shape, config),
        tokens=jnp.full(shape, config.pad_id, jnp.int32),
        mask=jnp.zeros(shape, jnp.int32),
        logps=jnp.zeros(shape, jnp.float32),
        sampler_logps=jnp.zeros(shape, jnp.float32),
        ended=jnp.zeros(shape[:1], bool),
        lengths=(),
    )


def before(prompts, shape, config):
    """The `Past` of responses not begun yet, to B prompts. shape: (B, V)."""
    return Past(
        seen=_seen(prompts, shape) if config.repetition_penalty != 1.0 else (),
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
