"""Heterogeneous model averaging: every block of layers has a ratio of its own.

A ratio is the weight on the second tree, the aligned model: 0 is the model that
alignment started from, and "20% of the starting weights" is a ratio of 0.8. The
authors' script counts the other way: its `alpha` is the weight on the model before
RLHF.

Lin et al. 2023, "Mitigating the Alignment Tax of RLHF", arXiv:2309.06256 (HMA). K is
the number of blocks, L that of layers; `ratios` makes K ratios of what is trained.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import trees

FIRST, MEAN, SECOND = -1, -2, -3  # instead of a block: ratio 0, the mean ratio, 1
_OTHERS = {"sft": FIRST, "interpolate": MEAN, "rlhf": SECOND}
_HEADS = {"unembedding", "head"}


def average(sft, rlhf, ratios, *, blocks, mean=None):
    """(1 − α_b)·θ₀ + α_b·θ with the ratio α_b of the block b that a layer is in.

    Args:
      sft, rlhf: pytrees of equal structure and shapes, before and after alignment.
      ratios: [K] in [0, 1], the weights on `rlhf`, may be traced. 0 and 1 are exact.
      blocks: a pytree of ints, or a prefix of one; [L] for a leaf that stacks layers.
        The index of a block; or FIRST (−1), which keeps the leaf of `sft`, SECOND,
        which takes that of `rlhf`, or MEAN, which has the mean ratio.
      mean: [], that of MEAN; None: the plain mean of the ratios.
    Returns a pytree with the dtypes of `sft`; leaves of FIRST are not copied. Gradients
    flow to ratios and trees, and one interpolated tree is held whatever K. Raises
    ValueError where trees or blocks do not fit.
    """
    ratios = jnp.asarray(ratios)
    blocks = _fitted(sft, rlhf, blocks, ratios.shape)
    if mean is None:
        # The mean of equal ratios is that ratio, without a rounding.
        mean = ratios[0] + (ratios - ratios[:1]).mean()
    special = jnp.stack([jnp.ones(()), jnp.asarray(mean), jnp.zeros(())])
    table = jnp.concatenate([ratios, special])  # SECOND, MEAN and FIRST from its end

    def leaf(a, b, block):
        if (block == FIRST).all():
            return jnp.asarray(a)
        weight = table[block]
        if block.ndim:
            weight = weight.reshape(-1, *(1,) * (a.ndim - 1))
        return trees.lerp(a, b, weight)

    return jax.tree.map(leaf, sft, rlhf, blocks)


def layer_blocks(
    params, K, *, others="interpolate", norms=None, embeddings=None, head=None
):
    """The blocks of the paper for `average`: K contiguous parts of the stack of layers.

    Linear layers, and adapters of them, are in the block of their layer. Layers are
    leaves [L, ...] under "layers", or trees numbered from 0.

    Args:
      params: a pytree of anything with a shape.
      others: what happens to norms, embeddings and heads. "interpolate": the mean
        ratio; "sft" or "rlhf": kept as they are there.
      norms: the same for those of layers; or "layer": they go with their layer.
      embeddings, head: the same for these; or the index of a block. A tied table is an
        embedding.
    None is as `others`. The authors' merge script has others="sft", head="interpolate",
    and its `lblock3` head=K; the one for single parts norms="layer", embeddings=0.
    """
    leaves, index = _by_path(params), split(depth(params), K)
    linear = {path[:-1] for path in leaves if path[-1] in ("kernel", "lora_a")}
    rest = _code(others)
    inner = rest if norms in (None, "layer") else _code(norms)
    embedded, headed = (rest if x is None else _code(x) for x in (embeddings, head))

    def block(path):
        layer = _layer(path)
        if layer is None and "embedding" in path:
            return embedded
        if layer is None:
            return headed if _HEADS & set(path) else rest
        if path[:-1] not in linear and norms != "layer":
            return inner
        return index if layer == "all" else int(index[layer])

    return jax.tree.unflatten(jax.tree.structure(params), map(block, leaves))


def depth(params):
    """L, the number of layers in the stack. Raises ValueError if there is not one."""
    layers = [(_layer(path), leaf) for path, leaf in _by_path(params).items()]
    numbers = {layer for layer, _ in layers if isinstance(layer, int)}
    depths = {leaf.shape[0] for layer, leaf in layers if layer == "all"}
    depths |= {1 + max(numbers)} if numbers else set()
    if len(depths) != 1:
        raise ValueError(
            f"stacks of {sorted(depths)} layers: give `average` blocks of your own"
            if depths
            else "no stack of layers to divide: nothing is under 'layers'"
        )
    return depths.pop()


def split(L, K):
    """The block of each of L layers: ints [L]; contiguous, 0 next to the input.

    ⌊L/K⌋ layers a block and what remains in the last: 0-7, 8-15, 16-25 of 26. For K = 3
    and more than 30 layers, thirds to the nearest layer: 0-10, 11-20, 21-31 of 32. So
    has the authors' code.
    """
    if not 1 <= K <= L:
        raise ValueError(f"{K} blocks of {L} layers: choose from 1 to {L}")
    starts = np.arange(K) * (L // K)
    if K == 3 and L > 30:
        starts = np.round(np.arange(3) * L / 3)
    return np.searchsorted(starts, np.arange(L), side="right") - 1


def block_sizes(params, K, *, blocks):
    """How many parameters each block has: [K] float64, the weights of a mean over
    parameters. Leaves that are in no block do not count."""
    sizes = np.zeros(K)
    for leaf, block in zip(
        jax.tree.leaves(params),
        jax.tree.leaves(_fitted(params, params, blocks, (K,))),
        strict=True,
    ):
        inside = block[block >= 0]
        np.add.at(sizes, inside, np.prod(leaf.shape) / max(block.size, 1))
    return sizes


def make_loss(loss, sft, rlhf, *, blocks, to_ratios, mean=None, penalize=None):
    """`loss(scores [K], batch, count)`: a loss of parameters, as one of the scores.

    With the likelihood of samples of the aligned policy it is the paper's proxy for the
    reward. Only the scores learn; the two models are held, and one between them. Make
    it inside a compiled step that takes the models as arguments, so that they are not
    compiled in as constants.

    Args: loss, as `training` has them; sft, rlhf, blocks, mean: of `average`;
    to_ratios: scores → ratios, such as a partial `ratios.of_scores`; penalize(ratios,
    batch, count) → [], this batch's share of what is added.
    """

    def of_scores(scores, batch, count):
        alphas = to_ratios(scores)
        between = average(sft, rlhf, alphas, blocks=blocks, mean=mean)
        value, metrics = loss(between, batch, count)
        if penalize is not None:
            share = penalize(alphas, batch, count)
            value, metrics = value + share, {**metrics, "penalty": share}
        return value, metrics

    return of_scores


def _code(choice):
    """The index of a word of `others`, or of a block."""
    if isinstance(choice, str) and choice not in _OTHERS:
        raise ValueError(f"{choice!r}: choose from {', '.join(_OTHERS)}")
    return _OTHERS.get(choice, choice)


def _by_path(params):
    """{path, a tuple of names: leaf}, in the order of leaves."""
    paths = (tuple(path.split("/")) for path in trees.paths(params))
    return dict(zip(paths, jax.tree.leaves(params), strict=True))


def _layer(path):
    """Which layer a leaf is of: a number, "all" where it stacks them, or None."""
    if "layers" not in path[:-1]:
        return None
    following = path[path.index("layers") + 1]
    return int(following) if following.isdigit() else "all"


def _fitted(sft, rlhf, blocks, shape):
    """The blocks, an array of ints for every leaf. Raises ValueError if any is off."""
    one, two = trees.paths(sft), trees.paths(rlhf)
    if jax.tree.structure(sft) != jax.tree.structure(rlhf):
        apart = sorted(set(one) ^ set(two))
        where = f": {apart[0]} is in one of them alone" if apart else ""
        raise ValueError(f"the two models have different structures{where}")
    try:
        blocks = jax.tree.broadcast(blocks, sft)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"blocks do not fit the parameters: {reason}") from None
    blocks = jax.tree.map(np.asarray, blocks)
    if len(shape) != 1 or not shape[0]:
        raise ValueError(f"ratios of shape {shape}: give one for each block, [K]")
    every = map(jax.tree.leaves, (sft, rlhf, blocks))
    for path, a, b, block in zip(one, *every, strict=True):
        if a.shape != b.shape:
            raise ValueError(
                f"{path} is {a.shape} in one model, {b.shape} in the other"
            )
        if block.ndim and block.shape != a.shape[:1]:
            raise ValueError(f"{path} is {a.shape}, its blocks are {block.shape}")
        if not np.issubdtype(block.dtype, np.integer):
            raise ValueError(f"{path}: blocks are ints, not {block.dtype}")
        if block.size and not SECOND <= block.min() <= block.max() < shape[0]:
            raise ValueError(f"{path}: block {block} of {shape[0]} ratios")
    return blocks
