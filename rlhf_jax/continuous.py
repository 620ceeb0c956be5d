"""Continuous batching: where a response ends, the next prompt takes its slot.

`sampling.generate` decodes all rows side by side until the longest has ended. Here S
slots are decoded, fewer than there are rows, and a queue of prompts fills those that
are free: Yu et al. 2022, "Orca: A Distributed Serving System for Transformer-Based
Generative Models", OSDI. Shapes are static and all is one program: a scan over parts of
the queue, after each of which a loop decodes until enough slots are free for the next.
When the queue is empty and most rows have ended, the others move to fewer slots.

Legend: N rows, K responses per prompt, S slots, R rows of a part, P prompt tokens,
T new tokens.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import sampling, sharding
from rlhf_jax.types import Prompts, Rollout

_PARTS = 8  # the parts of the queue that fill all slots, about
_LEFT = 4  # the last rows run in one of so many slots


class _Slots(NamedTuple):
    row: jax.Array  # [S] int32, the row that is written; N: none
    start: jax.Array  # [S] int32, the valid tokens of its prompt
    time: jax.Array  # [S] int32, the tokens sampled so far
    token: jax.Array  # [S] int32, the last of them
    running: jax.Array  # [S] bool, whether another one is sampled
    past: sampling.Past
    memory: Any


class _Written(NamedTuple):
    tokens: jax.Array  # [N, T] int32; -1: none
    logps: jax.Array  # [N, T, 2] float32: `logps` and `sampler_logps` of a Rollout
    ended: jax.Array  # [N] bool


class _Part(NamedTuple):
    rows: jax.Array  # [R] int32; N: none
    prompts: Prompts  # [R / K, P]


class _Job(NamedTuple):
    """What all slots share."""

    model: Any
    params: Any
    config: sampling.Config
    copies: int
    keys: jax.Array  # [T, N], of `sampling.token_keys`
    cuts: jax.Array  # [N] int32, the length at which a row is cut


def generate(model, params, prompts, keys, *, config, slots, copies=1):
    """The `Rollout` of `sampling.generate`, with only `slots` rows decoded at a time.

    A token depends on its row's key, its time in the row and the row's tokens only, so
    rows are the same as there, up to rounding: products of other sizes round otherwise.
    Whole prompts are refilled, all their copies together, so that each is read once.

    The model also needs `replace` and `take`: see `sampling`. Args as there; slots: a
    multiple of `copies`, fewer than the rows. Raises ValueError for another number,
    with a `stop_axis`, and where the devices of a mesh share the rows.
    """
    count = keys.shape[0]
    _check(count, slots, copies)
    _check_place(f"slots={slots}", config)
    cuts = sampling.cuts(keys, config)
    if isinstance(cuts, tuple):
        cuts = jnp.full(count, config.max_new_tokens)
    job = _Job(model, params, config, copies, sampling.token_keys(keys, config), cuts)
    first, queue = _parts(prompts, slots, copies)
    parts, size = queue.rows.shape
    left = slots // _LEFT
    free = jnp.full(parts, size).at[-1].set(slots - left)

    def refill(carry, given):
        (held, written), (part, least) = carry, given
        (at,) = jnp.nonzero(~held.running, size=size)
        new, written = _begin(job, part, written)
        held = _replace(job, at, new, held)
        return _decode(job, held, written, free=least), None

    carry = _begin(job, first, _nothing(count, config))
    (held, written), _ = jax.lax.scan(refill, carry, (queue, free))
    if left:
        (at,) = jnp.nonzero(held.running, size=left)
        _, written = _decode(job, _take(job, at, held), written, free=left)
    return _rollout(prompts, written, config, copies)


def take_turns(model, params, prompts, keys, *, config, rows_per_slot, copies=1):
    """`generate` with one slot for so many rows; 1: `sampling.generate`.

    Where rows are shared by devices, each has slots for its own. Raises ValueError
    where no slots would be left.
    """
    if rows_per_slot == 1:
        return sampling.generate(
            model, params, prompts, keys, config=config, copies=copies
        )
    _check_place(f"rows_per_slot={rows_per_slot}", config)
    prompts_held = keys.shape[0] // (rows_per_slot * copies)
    if prompts_held == 0:
        responses = f"{copies} responses to a prompt" if copies > 1 else "one response"
        raise ValueError(
            f"rows_per_slot={rows_per_slot}: of {keys.shape[0]} rows on a device, that "
            f"leaves no slots for {responses}; choose at most {keys.shape[0] // copies}"
        )
    return generate(
        model, params, prompts, keys, config=config, slots=prompts_held * copies,
        copies=copies,
    )  # fmt: skip


def _check(count, slots, copies):
    if not 0 < slots < count or slots % copies:
        also = f"a multiple of the {copies} responses to a prompt, " * (copies > 1)
        raise ValueError(
            f"slots={slots}: {count} rows take turns in them; choose {also}at least 1 "
            "and fewer than the rows"
        )


def _check_place(name, config):
    """Raises ValueError where rows cannot move; name: what asks for it."""
    if config.stop_axis is not None:
        raise ValueError(
            f"{name} and stop_axis={config.stop_axis!r}: vmapped members would take "
            "turns at different times; leave one of them out"
        )
    axes = [x for x in sharding.ROWS if x in jax.sharding.get_abstract_mesh().auto_axes]
    if axes:
        raise ValueError(
            f"{name}: the rows of a mesh are sharded over {' and '.join(axes)} and "
            "cannot take turns across devices; choose --layout data on one host"
        )


def _parts(prompts, slots, copies):
    """(the `_Part` that all slots begin with, the queue as one `_Part` [parts, ...]).

    The first leaves room for one part of the queue, whose last part is filled up.
    """
    count, held = len(prompts.tokens), slots // copies
    size = max(held // _PARTS, 1)
    begun = held - size
    parts = -(-(count - begun) // size)
    order = np.full(held + parts * size, count)  # of prompts; `count`: none
    order[:begun] = np.arange(begun)
    order[held : held + count - begun] = np.arange(begun, count)
    rows = order[:, None] * copies + np.arange(copies, dtype=np.int32)
    rows = jnp.array(np.minimum(rows, count * copies), jnp.int32)
    prompts = Prompts(*(x[np.minimum(order, count - 1)] for x in prompts))
    every = _Part(rows, prompts)
    first, queue = (
        jax.tree.map(lambda x, i=i: x[i], every)
        for i in (slice(held), np.arange(held, len(order)).reshape(parts, size))
    )
    return (
        first._replace(rows=first.rows.reshape(-1)),
        queue._replace(rows=queue.rows.reshape(parts, -1)),
    )


def _begin(job, part, written):
    """(`_Slots` with the first token of every row of a part, what is written then)."""
    prompts, logits, memory = sampling.read(
        job.model, job.params, part.prompts, job.config, job.copies
    )
    none = jnp.zeros_like(part.rows)
    slots = _Slots(
        row=part.rows,
        start=prompts.mask.sum(-1).astype(jnp.int32),
        time=none,
        token=none,
        running=part.rows < len(job.cuts),
        past=sampling.before(prompts, logits.shape, job.config),
        memory=memory,
    )
    return _draw(job, logits, slots, written)


def _decode(job, slots, written, *, free):
    """Decodes until so many slots are free: (`_Slots`, `_Written`)."""

    def busy(carry):
        held, _ = carry
        return held.running.sum() > len(held.running) - free

    def advance(carry):
        held, written = carry
        logits, memory = job.model.apply(
            {"params": job.params},
            # Free slots are fed id 0: what they hold is never read.
            jnp.where(held.running, held.token, 0),
            held.start + held.time - 1,
            held.memory,
            method="step",
        )
        return _draw(job, logits, held._replace(memory=memory), written)

    return jax.lax.while_loop(busy, advance, (slots, written))


def _draw(job, logits, slots, written):
    """Samples the next token in every slot and writes those of running rows."""
    running, time = slots.running, slots.time
    drawn = sampling.draw(
        logits, job.keys[time, slots.row], slots.past, config=job.config, time=time
    )
    stopped, past = sampling.remember(slots.past, drawn.tokens, job.config)
    row = jnp.where(running, slots.row, len(job.cuts))  # beyond the last: dropped
    logps = jnp.stack([drawn.logps, drawn.sampler_logps], axis=-1)
    written = _Written(
        tokens=written.tokens.at[row, time].set(drawn.tokens, mode="drop"),
        logps=written.logps.at[row, time].set(logps, mode="drop"),
        ended=written.ended.at[row].set(stopped, mode="drop"),
    )
    time = time + running.astype(jnp.int32)
    running &= ~stopped & (time < job.cuts[slots.row])
    slots = slots._replace(time=time, token=drawn.tokens, running=running, past=past)
    return slots, written


def _replace(job, at, new, slots):
    """The slots with those `at` [R] replaced by new ones."""
    memory = job.model.apply(
        {"params": job.params}, at, new.memory, slots.memory, method="replace"
    )
    old, new = slots._replace(memory=()), new._replace(memory=())
    replaced = jax.tree.map(lambda x, fresh: x.at[at].set(fresh), old, new)
    return replaced._replace(memory=memory)


def _take(job, at, slots):
    """Only the running slots, which are `at` [R], and free ones to make R."""
    memory = job.model.apply({"params": job.params}, at, slots.memory, method="take")
    held = jax.tree.map(lambda x: x[at], slots._replace(memory=()))
    known = jnp.arange(len(at)) < slots.running.sum()
    return held._replace(memory=memory, running=known)


def _nothing(count, config):
    length = config.max_new_tokens
    return _Written(
        tokens=jnp.full((count, length), -1),
        logps=jnp.zeros((count, length, 2)),
        ended=jnp.zeros(count, bool),
    )


def _rollout(prompts, written, config, copies):
    prompts = Prompts(*(jnp.repeat(x, copies, axis=0) for x in prompts))
    drawn = written.tokens >= 0
    response = jnp.where(drawn, written.tokens, config.pad_id)
    mask, drawn = prompts.mask.astype(jnp.int32), drawn.astype(jnp.int32)
    return Rollout(
        tokens=jnp.concatenate([prompts.tokens, response], axis=1),
        mask=jnp.concatenate([mask, drawn], axis=1),
        response_mask=drawn,
        logps=written.logps[..., 0],
        sampler_logps=written.logps[..., 1],
        ended=written.ended,
    )
