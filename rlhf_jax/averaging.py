"""Averaging in weight space: points between and beyond trained models.

All functions work leaf by leaf on pytrees with the same structure. Merge LoRA adapters
into the weights first: the product of averaged factors is not the average of products.
"""

import jax
import jax.numpy as jnp

from rlhf_jax import trees


def interpolate(a, b, weight):
    """(1 − w)·a + w·b: model averaging; w = 0 gives exactly `a`, w = 1 exactly `b`.

    Lin et al. 2023, "Mitigating the Alignment Tax of RLHF", arXiv:2309.06256 (MA);
    Wortsman et al. 2022, "Robust Fine-Tuning" (WiSE-FT), arXiv:2109.01903.

    Args: pytrees; weight [] in [0, 1] is on `b`, may be traced. Returns a pytree with
    the dtypes of `a`. Raises ValueError for models that differ in structure or shape.
    """
    trees.check_alike([a, b])
    return trees.lerp(a, b, weight)


def slerp(a, b, weight, *, stacked=0):
    """sin((1 − w)ω)/sin ω · a + sin(wω)/sin ω · b, ω the angle between the leaves.

    Shoemake 1985, "Animating Rotation with Quaternion Curves". Parallel, opposite and
    zero leaves, which have no arc, are interpolated linearly. Weight 0 and 1 are exact.

    Args as in `interpolate`; `stacked`: how many leading axes index separate tensors,
    an int or ints for a prefix of the tree; 1 for layers stacked as [L, ...].
    """
    trees.check_alike([a, b])
    return jax.tree.map(
        lambda x, y, axes: _slerp_leaf(x, y, weight, axes),
        a,
        b,
        jax.tree.broadcast(stacked, a),
    )


def _slerp_leaf(a, b, weight, stacked):
    a, b = jnp.asarray(a), jnp.asarray(b)
    x, y = (v.astype(jnp.promote_types(v.dtype, jnp.float32)) for v in (a, b))
    norm_x, norm_y = _norm(x, stacked), _norm(y, stacked)
    u, v = (
        x / jnp.where(norm_x > 0, norm_x, 1.0),
        y / jnp.where(norm_y > 0, norm_y, 1.0),
    )
    # The half-angle form is accurate for small angles, where arccos is not.
    angle = 2.0 * jnp.arctan2(_norm(u - v, stacked), _norm(u + v, stacked))
    arc = (norm_x > 0) & (norm_y > 0) & (jnp.sin(angle) > 1e-3)
    angle = jnp.where(arc, angle, 1.0)
    mixed = jnp.sin((1.0 - weight) * angle) * x + jnp.sin(weight * angle) * y
    mixed = (mixed / jnp.sin(angle)).astype(a.dtype)
    inside = arc & (jnp.asarray(weight) != 0.0) & (jnp.asarray(weight) != 1.0)
    return jnp.where(inside, mixed, trees.lerp(a, b, weight))


def _norm(x, stacked):
    axes = tuple(range(stacked, x.ndim))
    return jnp.sqrt(jnp.square(x).sum(axes, keepdims=True))


def task_vector(initial, tuned):
    """τ = tuned − initial: what fine-tuning changed, as a pytree.

    Ilharco et al. 2023, "Editing Models with Task Arithmetic", arXiv:2212.04089.
    """
    return trees.subtract(tuned, initial)


def add_vectors(initial, vectors, weights):
    """initial + Σ_i w_i · τ_i: task arithmetic; a negative weight unlearns a task.

    Args: vectors: a list of pytrees like `initial`; weights: one number each, also
    outside [0, 1], may be traced. Returns a pytree with the dtypes of `initial`; sums
    are in float32 at least. Raises ValueError if the numbers or shapes differ.
    """
    if len(vectors) != len(weights):
        raise ValueError(
            f"{len(vectors)} vectors and {len(weights)} weights: give one weight each"
        )
    trees.check_alike([initial, *vectors])
    return jax.tree.map(
        lambda *leaves: _weighted_sum([1.0, *weights], leaves), initial, *vectors
    )


def soup(models, weights=None):
    """Σ_i w_i · θ_i / Σ_i w_i: the average of several models, uniform by default.

    Wortsman et al. 2022, "Model Soups", arXiv:2203.05482. `models`: a list of pytrees.
    Returns a pytree with the dtypes of the first; sums are in float32 at least. Raises
    ValueError where there is no model, or not one weight for each, or they differ.
    """
    weights = [1.0] * len(models) if weights is None else list(weights)
    if not models or len(models) != len(weights):
        raise ValueError(
            f"{len(models)} models and {len(weights)} weights: give one weight each"
        )
    trees.check_alike(models)
    shares = [w / sum(weights) for w in weights]
    return jax.tree.map(lambda *leaves: _weighted_sum(shares, leaves), *models)


def _weighted_sum(weights, leaves):
    wide = jnp.promote_types(jnp.result_type(*leaves), jnp.float32)
    parts = (w * jnp.asarray(x, wide) for w, x in zip(weights, leaves, strict=True))
    return sum(parts).astype(jnp.result_type(leaves[0]))


def graft(a, b, density):
    """γ⊙b + (1 − γ)⊙a, γ = 1 for the ⌊density·n⌋ of n weights that moved furthest.

    Panigrahi et al. 2023, "Task-Specific Skill Localization in Fine-tuned Language
    Models", arXiv:2302.06600, with the mask that their training of it starts from:
    the largest |b − a| of the whole tree, not of each tensor. Ties are all in.

    Args: pytrees; density: a float in [0, 1]; 0 gives exactly `a`, 1 exactly `b`.
    Returns a pytree with the dtypes of `a`; no gradient flows through the mask. Raises
    ValueError for another density, or for 2³¹ weights and more.
    """
    size = trees.size(a)
    if not 0.0 <= density <= 1.0:
        raise ValueError(f"a share of {density} of the weights: choose it from 0 to 1")
    if size >= 2**31:
        raise ValueError(f"{size:,} weights are too many to count in 32 bits")
    moved = jax.tree.map(_moved, a, b)
    least = _kth_largest(jax.tree.leaves(moved), int(density * size))
    return jax.tree.map(
        lambda x, y, m: jnp.where(m >= least, jnp.asarray(y).astype(x.dtype), x),
        a,
        b,
        moved,
    )


def _moved(a, b):
    """|b − a| as the bits of a float32, which are ordered as it is."""
    a, b = (jnp.asarray(x, jnp.float32) for x in (a, b))
    return jax.lax.bitcast_convert_type(jnp.abs(b - a), jnp.int32)


def _kth_largest(leaves, k):
    """The k-th largest of non-negative ints, found bit by bit: nothing is sorted."""

    def set_bit(place, found):
        trial = found | (1 << (30 - place))
        count = sum((x >= trial).sum(dtype=jnp.int32) for x in leaves)
        return jnp.where(count >= k, trial, found)

    return jax.lax.fori_loop(0, 31, set_bit, jnp.int32(0))
