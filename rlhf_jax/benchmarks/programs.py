"""What benchmarks compute with a model, for any number of rows of any length.

Rows are batched by width and their number is rounded up to a power of two, so that a
few compiled programs serve every suite and every model of the same shape.
"""

import functools

import jax
import numpy as np

from rlhf_jax import sampling
from rlhf_jax.data import batching
from rlhf_jax.evaluation import policy
from rlhf_jax.types import Prompts

_ROWS = 32  # at a time: options and prompts are longer than samples


def score(model, params, rows, *, layout):
    """(right [R] bool, log π of the targets given what is before them [R], in nats).

    rows: `Tokens` [R, T] on the host, padded on the right: see
    `policy.make_continuations`.
    """
    program = _continuations(model, layout)
    count = len(rows.tokens)
    right, totals = np.empty(count, bool), np.empty(count)
    for indices, group in batching.by_width(rows):
        right[indices], totals[indices] = _rounded(program, params, group)
    return right, totals


def complete(model, params, prompts, *, config, layout, seed=0, ids=None):
    """(tokens [R, T], mask [R, T]) that follow prompts, sampled as `config` says.

    prompts: `Prompts` [R, P] on the host, padded on the right, unlike elsewhere. A row
    has a key of its own, from the seed and its number among `ids` [R], by default its
    index, so that its sample does not depend on the rows beside it.
    """
    program = _draws(model, layout, config)
    shape = len(prompts.tokens), config.max_new_tokens
    tokens, mask = np.empty(shape, np.int32), np.empty(shape, np.int32)
    ids = np.arange(len(tokens)) if ids is None else ids
    keys = sampling.row_keys(jax.random.key(seed), ids)
    keys = np.asarray(jax.random.key_data(keys))
    for indices, group in batching.by_width(prompts):
        rows = (*_left_padded(group), keys[indices])
        rollout = _rounded(program, params, rows)
        tokens[indices] = rollout.tokens[:, -config.max_new_tokens :]
        mask[indices] = rollout.response_mask
    return tokens, mask


def _rounded(program, params, rows):
    """`program` on rows, of which the first ones are repeated up to a power of two."""
    count = len(jax.tree.leaves(rows)[0])
    index = np.arange(max(count, 1 << (count - 1).bit_length())) % count
    index = index[: max(count, _ROWS)]
    results = program(params, jax.tree.map(lambda x: x[index], rows))
    return jax.tree.map(lambda x: x[:count], results)


def _left_padded(prompts):
    """Right-padded prompts [R, P] with their padding moved to the left."""
    width = prompts.tokens.shape[1]
    padding = width - prompts.mask.sum(-1, keepdims=True)
    index = (np.arange(width) - padding) % width
    return Prompts(*(np.take_along_axis(x, index, axis=1) for x in prompts))


@functools.lru_cache(maxsize=8)
def _continuations(model, layout):
    """Compiled once for all who ask for the same, like `_draws`."""
    program = policy.make_continuations(model)
    return layout.over_rows(program, replicated=1, chunk=_ROWS)


@functools.lru_cache(maxsize=8)
def _draws(model, layout, config):
    program = policy.make_draw(model, config=config)
    return layout.over_rows(program, replicated=1, chunk=_ROWS)
