"""Stacks of layers: parameters stacked in one tree, and the loop over them.

Legend: B rows, T tokens, L layers.
"""

import functools

import jax
import jax.numpy as jnp

from rlhf_jax import sharding

_SHALLOW = 6  # up to so many layers are unrolled: 10 to 20% faster on CPU

_REMAT = {
    "none": jax.checkpoint_policies.dots_saveable,  # see `_keeps_all`
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def scan(body, x, stacked, c, at=None):
    """Runs `body(x, layer, at) -> (x, output)` over the layers.

    Returns (x at positions `at`, outputs [L, ...]). stacked: [L, ...]; at: as in
    `pick`. Only the last layer of a shallow model gets it, and computes nothing else;
    all others get None. `c.remat` chooses what a backward pass recomputes.
    """
    deep = c.layers > _SHALLOW

    def layered(at):
        each = functools.partial(body, at=at)
        if _keeps_all(c, deep):
            return each
        # Inside a scan, common-subexpression elimination cannot undo the remat.
        return jax.checkpoint(each, prevent_cse=not deep, policy=_REMAT[c.remat])

    if deep:
        x, outputs = jax.lax.scan(layered(None), x, stacked)
        return pick(x, at), outputs
    *first, last = unstack(stacked)
    outputs = []
    for layer in first:
        x, output = layered(None)(x, layer)
        outputs.append(output)
    x, output = layered(at)(x, last)
    return x, jax.tree.map(lambda *each: jnp.stack(each), *outputs, output)


def _keeps_all(c, deep):
    """Whether a backward pass finds all that it needs, and computes nothing again.

    Not in a scan on CPU: what comes between products is soon computed again, while
    to keep it is to fill, write and read arrays [L, ...]. Without, an update of a
    model of 30 layers takes 4% less time and 0.5 GiB less memory. Even then no product
    is computed twice.
    """
    return c.remat == "none" and not (deep and sharding.platform() == "cpu")


def unstack(stacked):
    """L trees of one layer each; the gradient is concatenated once, not added up."""
    leaves, treedef = jax.tree.flatten(stacked)
    pieces = [jax.lax.split(leaf, (1,) * leaf.shape[0]) for leaf in leaves]
    return [
        treedef.unflatten(piece[0] for piece in layer)
        for layer in zip(*pieces, strict=True)
    ]


def pick(x, at):
    """x [B, T, ...] at some positions of T; all of x if `at` is None.

    at: a slice, or an index [B], one per row, which gives [B, 1, ...].
    """
    if at is None:
        return x
    if isinstance(at, slice):
        return x[:, at]
    return jnp.take_along_axis(x, at.reshape(-1, *(1,) * (x.ndim - 1)), axis=1)


def stack(module, block, example):
    """A module's parameter "layers": those of all its `block`s, leaves [L, ...].

    example(config): example inputs of a block. Raises ValueError if the parameters
    given have another number of layers.
    """
    depth = block.config.layers
    if not module.has_variable("params", "layers"):
        return module.param("layers", _init_stack, block, example)
    # `param` would refuse the leaves that `models.lora` adds.
    stacked = module.get_variable("params", "layers")
    given = jax.tree.leaves(stacked)[0].shape[0]
    if given != depth:
        raise ValueError(f"parameters of {given} layers, but layers={depth}")
    return stacked


def _init_stack(key, block, example):
    inputs = example(block.config)

    def init(key):
        return block.init(key, *inputs)["params"]

    return jax.vmap(init)(jax.random.split(key, block.config.layers))
