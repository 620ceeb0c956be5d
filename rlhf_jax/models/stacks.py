"""Layers on top of each other: their parameters in one tree, and running through them.

Legend: B rows, T tokens, L layers.
"""

import functools

import jax
import jax.numpy as jnp

_SHALLOW = 6  # so few layers run 10 to 20% faster on CPU without a loop around them

_REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def scan(body, x, stacked, c, at=None):
    """(x at `at`, outputs [L, ...]) of `body(x, layer, at) -> (x, output)`, layer after
    layer.

    stacked: [L, ...]; at: of `pick`. The last layer of a shallow model gets it, and
    computes nothing else; all others get None. `c.remat` says what a backward pass
    recomputes.
    """
    deep = c.layers > _SHALLOW

    def layered(at):
        each = functools.partial(body, at=at)
        if c.remat == "none":
            return each
        # In a loop nothing could be merged with what was computed the first time.
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


def unstack(stacked):
    """L trees of one layer each; the gradient is put together once, not added up."""
    leaves, treedef = jax.tree.flatten(stacked)
    cut = [jax.lax.split(leaf, (1,) * leaf.shape[0]) for leaf in leaves]
    return [
        treedef.unflatten(piece[0] for piece in layer)
        for layer in zip(*cut, strict=True)
    ]


def pick(x, at):
    """What [B, T, ...] has at some positions of T; everything where `at` is None.

    at: a slice, or an index [B], one a row: T then is 1.
    """
    if at is None:
        return x
    if isinstance(at, slice):
        return x[:, at]
    return jnp.take_along_axis(x, at.reshape(-1, *(1,) * (x.ndim - 1)), axis=1)


def stack(module, block, example):
    """The parameters of all `block`s of a module, each leaf [L, ...], as "layers".

    example: configuration → inputs of a block, for the shapes.
    """
    depth = block.config.layers
    if not module.has_variable("params", "layers"):
        return module.param("layers", _init_stack, block, example)
    # `param` would refuse what `models.lora` adds to them.
    found = module.get_variable("params", "layers")
    given = jax.tree.leaves(found)[0].shape[0]
    if given != depth:
        raise ValueError(f"parameters of {given} layers, and layers={depth}")
    return found


def _init_stack(key, block, example):
    inputs = example(block.config)

    def init(key):
        return block.init(key, *inputs)["params"]

    return jax.vmap(init)(jax.random.split(key, block.config.layers))
