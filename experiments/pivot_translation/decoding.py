"""Programs over many sentences: rows of like length together, in few shapes.

Legend: N rows, L tokens.
"""

import functools

import jax
import numpy as np

from rlhf_jax import sampling
from rlhf_jax.algorithms.translation_game import messages
from rlhf_jax.data.translation import subwords

EDGES = (16, 24, 32, 41)  # tokens, the end included; what is longer makes one more
_ROWS = 128  # at once


def config(*, longest=40, shortest=3, temperature=0.0):
    """How messages are drawn: greedily, and as long as published, by default."""
    return sampling.Config(
        max_new_tokens=longest,
        min_new_tokens=shortest,
        temperature=temperature,
        eos_ids=(subwords.EOS,),
        pad_id=subwords.PAD,
    )


@functools.lru_cache(maxsize=16)
def compile_translate(model, layout, config):
    """translate(params, tokens [N, L], mask) -> `Message` on the host, any N.

    One program for each of `EDGES`, compiled once for all who ask.
    """

    def translate(params, rows):
        tokens, mask = rows
        keys = jax.vmap(jax.random.key)(np.zeros(tokens.shape[0], np.uint32))
        return messages.speak(model, params, tokens, mask, keys, config=config)

    program = layout.over_rows(translate, replicated=1, chunk=_ROWS)

    def call(params, tokens, mask):
        return by_length(functools.partial(program, params), (tokens, mask), mask)

    return call


@functools.lru_cache(maxsize=16)
def compile_logps(model, layout):
    """score(params, source, mask, target, mask) -> log-probs [N, T] on the host."""

    def score(params, rows):
        return messages.logps(model, params, *rows)

    program = layout.over_rows(score, replicated=1, chunk=_ROWS)

    def call(params, *rows):
        longest = np.maximum(rows[1].sum(-1), rows[3].sum(-1))
        return by_length(functools.partial(program, params), rows, longest)

    return call


def by_length(program, rows, lengths):
    """program(rows) for rows cut to the edge of their length; results in their order.

    Args: rows: a tuple of [N, L] arrays of right-padded rows, cut alike; lengths [N],
    or a mask [N, L]. Shapes of results may not depend on L, or are padded with zeros.
    """
    lengths = np.asarray(lengths)
    lengths = lengths.sum(-1) if lengths.ndim > 1 else lengths
    widest = max(x.shape[1] for x in rows)
    edges = [*(e for e in EDGES if e < widest), widest]
    position = np.searchsorted(edges, lengths)
    parts, order = [], []
    for k, edge in enumerate(edges):
        index = np.flatnonzero(position == k)
        if not len(index):
            continue
        padded = np.resize(index, -(-len(index) // _ROWS) * _ROWS)
        result = program(tuple(_cut(x, edge)[padded] for x in rows))
        kept = slice(len(index))
        parts.append(jax.tree.map(lambda x, kept=kept: x[kept], result))
        order.append(index)
    back = np.argsort(np.concatenate(order))
    return jax.tree.map(lambda *x: np.concatenate(_alike(x))[back], *parts)


def _cut(rows, edge):
    """The first `edge` columns; padding beyond them is cut, never a token."""
    rows = np.asarray(rows)
    if rows.shape[1] < edge:
        return np.pad(rows, [(0, 0), (0, edge - rows.shape[1])])
    return rows[:, :edge]


def _alike(parts):
    """Arrays [n, T] padded to the widest."""
    if parts[0].ndim < 2:
        return parts
    width = max(x.shape[1] for x in parts)
    return [np.pad(x, [(0, 0), (0, width - x.shape[1])]) for x in parts]
