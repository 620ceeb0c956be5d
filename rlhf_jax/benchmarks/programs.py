"""What benchmarks compute with a model, for any number of rows of any length.

Texts are packed and prompts batched by width, and the number of rows is rounded up to a
power of two, so that a few compiled programs serve every suite and every model of the
same shape.
"""

import functools

import jax
import numpy as np

from rlhf_jax import sampling
from rlhf_jax.data import batching, beginnings
from rlhf_jax.evaluation import policy
from rlhf_jax.types import Prompts

_ROWS = 32  # at a time: prompts are longer than samples
_TOKENS = 2048  # of packed rows, at a time on a device


def score(model, params, rows, *, layout):
    """(right [R] bool, log π of the targets given what is before them [R], in nats).

    What neighbours have in common at their beginning is read once: give the options of
    a question one after the other. right: each target is the likeliest token.

    rows: `Tokens` [R, T] on the host, padded on the right; the last token of a row is
    only scored, so that rows may have one token more than the model's context.
    """
    packed = beginnings.pack(rows)
    most = max(_TOKENS // packed.tokens.shape[1], 1) * layout.size
    program = _scores(model, layout, most)
    best, logps = _rounded(program, params, packed._replace(owners=None), most)
    shown = packed.owners >= 0
    owners = packed.owners[shown]
    right, totals = np.ones(len(rows.tokens), bool), np.zeros(len(rows.tokens))
    np.logical_and.at(right, owners, best[shown])
    np.add.at(totals, owners, logps[shown])
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
        rollout = _rounded(program, params, rows, _ROWS)
        tokens[indices] = rollout.tokens[:, -config.max_new_tokens :]
        mask[indices] = rollout.response_mask
    return tokens, mask


def _rounded(program, params, rows, most):
    """`program` on rows, of which the first ones are repeated up to a power of two, or
    to `most`."""
    count = len(jax.tree.leaves(rows)[0])
    index = np.arange(batching.power_of_two(count)) % count
    index = index[: max(count, most)]
    results = program(params, jax.tree.map(lambda x: x[index], rows))
    return jax.tree.map(lambda x: x[:count], results)


def _left_padded(prompts):
    """Right-padded prompts [R, P] with their padding moved to the left."""
    width = prompts.tokens.shape[1]
    padding = width - prompts.mask.sum(-1, keepdims=True)
    index = (np.arange(width) - padding) % width
    return Prompts(*(np.take_along_axis(x, index, axis=1) for x in prompts))


@functools.lru_cache(maxsize=8)
def _scores(model, layout, most):
    """Compiled once for all who ask for the same, like `_draws`."""
    program = policy.make_branched(model)
    return layout.over_rows(program, replicated=1, chunk=most)


@functools.lru_cache(maxsize=8)
def _draws(model, layout, config):
    program = policy.make_draw(model, config=config)
    return layout.over_rows(program, replicated=1, chunk=_ROWS)
