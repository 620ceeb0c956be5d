"""Sparse task vectors: which elements a merge keeps, and how they are rescaled.

A task vector is what training changed (`averaging.task_vector`). Each tensor is pruned
by itself. Where a leaf stacks several, such as the layers of our models, [L, ...],
`stacked` says how many leading axes index them: an int, or ints for a prefix of the
tree, `{name: int(name == "layers") for name in params}`. A density is the fraction
kept, a Python number: counts follow from it, so it is static under `jit`.

Masks and probabilities are pytrees like the vector; any others of that form will do.
"""

import math

import jax
import jax.numpy as jnp

from rlhf_jax import trees


def largest(vector, density, *, stacked=0):
    """Masks of the k = max(1, ⌊density·n⌋) largest magnitudes of each tensor.

    Yadav et al. 2023, "TIES-Merging", arXiv:2306.01708 (trim). Ties go to the first, so
    that exactly k are kept. Raises ValueError for a density outside (0, 1].
    """
    check_density(density)

    def of_tensors(x):
        return _top(x, max(1, int(density * x.shape[-1])))

    return _by_tensor(of_tensors, vector, stacked)


def band(vector, density, *, gamma=0.01, stacked=0):
    """Masks of the ⌊density·n⌋ magnitudes that follow the ⌊gamma·n⌋ largest.

    Davari & Belilovsky 2023, "Model Breadcrumbs", arXiv:2312.06795: outliers are
    dropped along with the smallest. Where density and gamma add up to more than 1,
    fewer outliers are dropped; of very small tensors nothing may be kept. Density 1
    keeps everything.

    Raises ValueError for a density outside (0, 1] or a gamma outside [0, 1).
    """
    check_density(density)
    if not 0 <= gamma < 1:
        raise ValueError(f"gamma {gamma}: give the fraction of outliers, in [0, 1)")

    def of_tensors(x):
        n = x.shape[-1]
        kept = n if density == 1 else int(density * n)
        not_small = min(n, kept + int(gamma * n))
        return _top(x, not_small) & ~_top(x, not_small - kept)

    return _by_tensor(of_tensors, vector, stacked)


def by_rank(vector, density, *, epsilon=0.15, axis=-1, stacked=0):
    """Probabilities of being kept, from density − ε to density + ε by magnitude.

    Deep et al. 2024, "DELLA-Merging", arXiv:2406.11617 (MagPrune): linear in the rank
    along one axis of each tensor. Density 1 keeps everything.

    Args: axis: −1 or −2, or such numbers for a prefix of the tree. The inputs of a unit
    are along −1 in a matrix [outputs, inputs], as in torch, and along −2 in our
    kernels, [inputs, outputs]. A vector is ranked as a whole.

    Raises ValueError for a density outside (0, 1], or probabilities outside (0, 1).
    """
    check_density(density)
    if density < 1 and not epsilon < min(density, 1 - density):
        raise ValueError(
            f"density {density} ± epsilon {epsilon}: probabilities must be in (0, 1)"
        )
    spread = 0.0 if density == 1 else 2.0 * epsilon

    def of_leaf(x, stacked, axis):
        x = jnp.asarray(x)
        axes = x.ndim - stacked
        axis = axis if axes > 1 else -1
        if axes == 0 or x.shape[axis] == 1:
            return jnp.full(x.shape, density, jnp.float32)
        order = jnp.argsort(jnp.abs(x), axis)
        ranks = jax.lax.broadcasted_iota(order.dtype, x.shape, axis % x.ndim)
        # The inverse permutation, which a second argsort would find more slowly.
        rank = jnp.put_along_axis(order, order, ranks, axis, inplace=False)
        rank = rank / (x.shape[axis] - 1)
        return (density + spread * (rank - 0.5)).astype(jnp.float32)

    stacked, axis = (jax.tree.broadcast(value, vector) for value in (stacked, axis))
    return jax.tree.map(of_leaf, vector, stacked, axis)


def draw(key, vector, probability):
    """Random masks: each element of the vector is kept with its probability.

    Yu et al. 2023, "Language Models are Super Mario", arXiv:2311.03099 (DARE's drop).
    probability: a number or a pytree like the vector, may be traced.
    """
    probability = jax.tree.broadcast(probability, vector)
    leaves, structure = jax.tree.flatten(vector)
    keys = jax.tree.unflatten(structure, jax.random.split(key, len(leaves)))
    return jax.tree.map(
        lambda key, x, p: jax.random.uniform(key, jnp.shape(x)) < p,
        keys,
        vector,
        probability,
    )


def apply(vector, mask, probability=1.0):
    """m·τ/p, in the dtypes of τ; if p is the probability of m, its expectation is τ.

    DARE's rescale. probability: as in `draw`; by default nothing is rescaled.
    """

    def of_leaf(x, mask, p):
        x = jnp.asarray(x)
        return (jnp.where(mask, x, 0) / p).astype(x.dtype)

    trees.check_alike([vector, mask])
    probability = jax.tree.broadcast(probability, vector)
    return jax.tree.map(of_leaf, vector, mask, probability)


def match(vector, sparse, *, stacked=0):
    """sparse · Σ|τ| / Σ|sparse|, tensor by tensor: it restores the L1 norm of τ.

    This is what mergekit's `rescale` does, in place of 1/p. Zeros stay zeros.
    """

    def of_leaf(x, sparse, stacked):
        x, sparse = jnp.asarray(x), jnp.asarray(sparse)
        axes = tuple(range(stacked, x.ndim))
        wide = jnp.promote_types(x.dtype, jnp.float32)
        before, after = (
            jnp.abs(v.astype(wide)).sum(axes, keepdims=True) for v in (x, sparse)
        )
        ratio = jnp.where(after > 0, before / jnp.where(after > 0, after, 1.0), 1.0)
        return (sparse * ratio).astype(x.dtype)

    trees.check_alike([vector, sparse])
    return jax.tree.map(of_leaf, vector, sparse, jax.tree.broadcast(stacked, vector))


def check_density(density):
    """Raises ValueError unless a density is in (0, 1]."""
    if not 0 < density <= 1:
        raise ValueError(f"density {density}: give the fraction to keep, in (0, 1]")


def _by_tensor(fn, tree, stacked):
    """fn([S, n]) of each leaf, whose S stacked tensors are laid out as rows."""

    def of_leaf(x, stacked):
        x = jnp.asarray(x)
        rows = math.prod(x.shape[:stacked])
        return fn(x.reshape(rows, x.size // max(rows, 1))).reshape(x.shape)

    return jax.tree.map(of_leaf, tree, jax.tree.broadcast(stacked, tree))


def _top(x, k):
    """Masks of the k largest magnitudes in each row of x [S, n], the first of equals.

    The bits of non-negative floats are ordered as the floats are, so that the k-th
    largest is found bit by bit, in 31 passes over the data. Sorting takes 15 times as
    long on a CPU.
    """
    size = jnp.abs(x.astype(jnp.promote_types(x.dtype, jnp.float32)))
    width = 8 * size.dtype.itemsize
    bits = jax.lax.bitcast_convert_type(size, f"int{width}")

    def add_bit(i, bar):
        higher = bar | jnp.left_shift(jnp.ones_like(bar), width - 2 - i)
        enough = (bits >= higher).sum(-1, keepdims=True) >= k
        return jnp.where(enough, higher, bar)

    bar = jnp.zeros((len(x), 1), bits.dtype)
    bar = jax.lax.fori_loop(0, width - 1, add_bit, bar)
    above, level = bits > bar, bits == bar
    room = k - above.sum(-1, keepdims=True)
    return above | (level & (jnp.cumsum(level, -1) <= room))
