"""Merging task vectors: several of them in, one out.

A task vector τ_i = θ_i − θ₀ is what training changed (`averaging.task_vector`). A merge
operator turns τ_1 ... τ_N into one τ, which `averaging.add_vectors(θ₀, [τ], [λ])` adds
to the initial weights. λ in (0, 1) stops part of the way, as `averaging.interpolate`
from the initial to the merged weights does; λ > 1 extrapolates. Weights outside [0, 1],
negative ones included, are allowed everywhere. Task arithmetic needs no operator:
`averaging.add_vectors(θ₀, vectors, weights)`.

WARP (Ramé et al. 2024, arXiv:2406.16768) repeats three steps: train a few policies with
the KL penalty to their own moving average (`reference_average` of
`algorithms.policy_gradient`, also the anchor of EMA policy gradients,
arXiv:2602.04417); `slerp` their task vectors; start the next round at 0.3 of the way
from the initial weights to the merge (LITI).

    vectors = [averaging.task_vector(initial, policy) for policy in policies]
    merged = averaging.add_vectors(initial, [merging.slerp(vectors)], [1.0])
    initial = averaging.interpolate(initial, merged, 0.3)

Arguments that all operators share: vectors, a list of pytrees like θ₀; weights, a
number each, may be traced; density, the fraction kept, one for all or one each, static;
stacked, which leaves stack several tensors, see `sparsify`. They return a pytree in
float32, or wider if the vectors are, and raise ValueError for vectors of different
structures or shapes, or numbers of them. Gradients reach vectors and weights; masks and
signs are constants.
"""

import itertools

import jax
import jax.numpy as jnp

from rlhf_jax import averaging, sparsify, trees

_NO_TOTAL = 1e-8  # weights whose sum is smaller are not normalised


def combine(vectors, weights, *, elect=False, normalize=False):
    """Σ_i w_i m_i τ_i, divided by Σ_i w_i m_i if `normalize`.

    Without `elect` every m_i is 1. With it, m_i is 1 where w_i τ_i has the sign of
    Σ_i w_i τ_i, which counts as + where that is 0 (the sign election of TIES). A zero
    has neither sign, so its weight is not in the divisor. A divisor of 0 becomes 1.
    """
    weights = _checked(vectors, weights)

    def of_leaf(*leaves):
        parts = [w * x for w, x in zip(weights, _wide(leaves), strict=True)]
        shares = weights
        if elect:
            agree = _agree(parts)
            parts = [jnp.where(m, x, 0.0) for m, x in zip(agree, parts, strict=True)]
            shares = [jnp.where(m, w, 0.0) for m, w in zip(agree, weights, strict=True)]
        return sum(parts) / _or_one(sum(shares)) if normalize else sum(parts)

    return jax.tree.map(of_leaf, *vectors)


def ties(vectors, weights, *, density, normalize=True, stacked=0):
    """Trim to the largest magnitudes, elect signs, average those that agree.

    Yadav et al. 2023, "TIES-Merging", arXiv:2306.01708. With `normalize` only the
    proportions of the weights count; λ sets the scale.
    """
    masks = [
        sparsify.largest(vector, d, stacked=stacked)
        for vector, d in _each(vectors, density)
    ]
    sparse = map(sparsify.apply, vectors, masks)
    return combine(list(sparse), weights, elect=True, normalize=normalize)


def dare(
    vectors,
    weights,
    *,
    key,
    density,
    rescale="probability",
    elect=False,
    normalize=False,
    stacked=0,
):
    """Drop at random, rescale what is left, and add; `elect` makes it DARE-TIES.

    Yu et al. 2023, "Language Models are Super Mario", arXiv:2311.03099.

    Args: rescale: "probability" divides by the density, as in the paper, which makes
    the expectation τ; "l1" multiplies each tensor by Σ|τ|/Σ|kept|, as mergekit does;
    None leaves it.
    """
    sparse = []
    for subkey, (vector, d) in _with_keys(key, vectors, density):
        sparsify.check_density(d)
        sparse.append(_dropped(subkey, vector, d, rescale, stacked))
    return combine(sparse, weights, elect=elect, normalize=normalize)


def della(
    vectors,
    weights,
    *,
    key,
    density,
    epsilon=0.15,
    axis=-1,
    rescale="probability",
    elect=True,
    normalize=None,
    stacked=0,
):
    """DARE that keeps large elements more often; linear DELLA without `elect`.

    Deep et al. 2024, "DELLA-Merging", arXiv:2406.11617. Args: epsilon and axis:
    `sparsify.by_rank`; rescale: as in `dare`, with the probability of each element;
    normalize: by default as `elect`.
    """
    probabilities = [
        sparsify.by_rank(vector, d, epsilon=epsilon, axis=axis, stacked=stacked)
        for vector, d in _each(vectors, density)
    ]
    sparse = [
        _dropped(subkey, vector, p, rescale, stacked)
        for subkey, (vector, p) in _with_keys(key, vectors, probabilities)
    ]
    normalize = elect if normalize is None else normalize
    return combine(sparse, weights, elect=elect, normalize=normalize)


def breadcrumbs(
    vectors,
    weights,
    *,
    density,
    gamma=0.01,
    elect=False,
    normalize=False,
    stacked=0,
):
    """Drop outliers and small elements, and add; with `elect`, Breadcrumbs with TIES.

    Davari & Belilovsky 2023, "Model Breadcrumbs", arXiv:2312.06795. gamma: the fraction
    of outliers, see `sparsify.band`.
    """
    masks = [
        sparsify.band(vector, d, gamma=gamma, stacked=stacked)
        for vector, d in _each(vectors, density)
    ]
    sparse = map(sparsify.apply, vectors, masks)
    return combine(list(sparse), weights, elect=elect, normalize=normalize)


def model_stock(vectors, *, stacked=0):
    """t·mean(τ), t = N·c / (1 + (N − 1)·c), c the mean cosine of two of the N vectors.

    Jang et al. 2024, "Model Stock", arXiv:2403.19522. t is 1 for equal vectors, 0 for
    orthogonal ones, negative for opposing ones, and 0 where its denominator is. Each
    tensor has its own t, whatever the length of its vectors: mergekit, which puts a
    floor of 1e-6 under products of norms, takes short ones for orthogonal.

    Raises ValueError for fewer than two vectors.
    """
    count = len(vectors)
    if count < 2:
        raise ValueError(f"{count} vectors: model stock compares at least two")
    _checked(vectors, [1.0] * count)

    def of_leaf(stacked, *leaves):
        leaves = _wide(leaves)
        units = [_direction(x, stacked) for x in leaves]
        axes = tuple(range(stacked, leaves[0].ndim))
        cosines = [
            jnp.clip((u * v).sum(axes, keepdims=True), -1.0, 1.0)
            for u, v in itertools.combinations(units, 2)
        ]
        cosine = sum(cosines) / len(cosines)
        below = 1.0 + (count - 1) * cosine
        found = jnp.abs(below) > 1e-6
        ratio = jnp.where(found, count * cosine / jnp.where(found, below, 1.0), 0.0)
        return ratio * sum(leaves) / count

    return jax.tree.map(of_leaf, jax.tree.broadcast(stacked, vectors[0]), *vectors)


def slerp(vectors, weights=None, *, stacked=0):
    """τ ← slerp(τ, τ_m, w_m / (w_1 + ... + w_m)) for m = 2 ... N, starting from τ_1.

    Ramé et al. 2024, "WARP", arXiv:2406.16768, whose weights are equal, the default;
    each tensor has its own angle (`averaging.slerp`). The norm is kept, of which the
    average of two orthogonal vectors loses 30%. With more than two vectors the order
    matters. Weights that add up to 0 count as equal.
    """
    weights = [1.0] * len(vectors) if weights is None else weights
    weights = _checked(vectors, weights)
    merged, total = jax.tree.map(lambda x: _wide([x])[0], vectors[0]), weights[0]
    for vector, weight in zip(vectors[1:], weights[1:], strict=True):
        total = total + weight
        share = jnp.where(_is_none(total), 0.5, weight / _or_one(total))
        merged = averaging.slerp(merged, vector, share, stacked=stacked)
    return merged


def online_dare(params, update, vector, *, key, density, alpha):
    """θ + α·τ + (1 − α)·drop(δ): a step of an optimiser that also steps towards τ.

    Lu et al. 2024, "Online Merging Optimizers", arXiv:2405.17931 (OnDARE). drop keeps
    a random fraction `density` of the update and divides by it. This is not a convex
    combination: every step adds α·τ, T·α·τ after T steps, so α must be tiny (1e-7 in
    the authors' script). They also drop from τ, once, before training
    (`sparsify.draw`, `apply`), and clip it to ±1.

    Args: params, update (the optimiser's, δ), vector (τ): pytrees of one structure;
    alpha [] may be traced, density is static. Returns params in their dtypes.
    """
    sparsify.check_density(density)
    trees.check_alike([params, update, vector])
    sparse = _dropped(key, update, density, "probability", 0)
    return averaging.add_vectors(params, [vector, sparse], [alpha, 1.0 - alpha])


def online_ties(params, update, vector, *, density, alpha, stacked=0):
    """θ + α·m₁τ + (1 − α)·m₂·trim(δ): as `online_dare`, with TIES in place of dropping.

    Lu et al. 2024, arXiv:2405.17931 (OnTIES). m is 1 where the sign is that of
    τ + trim(δ), unweighted, so that τ decides wherever it is larger than the update;
    nothing is normalised. The authors also trim τ, once, before training
    (`sparsify.largest`, `apply`).
    """
    trees.check_alike([params, update, vector])
    mask = sparsify.largest(update, density, stacked=stacked)
    sparse = sparsify.apply(update, mask)
    agree = jax.tree.map(lambda *leaves: _agree(_wide(leaves)), vector, sparse)
    masks = jax.tree.transpose(jax.tree.structure(vector), None, agree)
    pair = list(map(sparsify.apply, (vector, sparse), masks))
    return averaging.add_vectors(params, pair, [alpha, 1.0 - alpha])


def _dropped(key, vector, probability, rescale, stacked):
    mask = sparsify.draw(key, vector, probability)
    if rescale == "probability":
        return sparsify.apply(vector, mask, probability)
    if rescale is None:
        return sparsify.apply(vector, mask)
    if rescale == "l1":
        return sparsify.match(vector, sparsify.apply(vector, mask), stacked=stacked)
    raise ValueError(f'rescale {rescale!r}: choose "probability", "l1" or None')


def _agree(parts):
    """Where each part has the sign of their sum; + if that is 0."""
    sign = jnp.where(sum(parts) >= 0, 1, -1)
    return [jnp.sign(x) == sign for x in parts]


def _is_none(total):
    return jnp.abs(total) < _NO_TOTAL


def _or_one(total):
    return jnp.where(_is_none(total), 1.0, total)


def _direction(x, stacked):
    square = jnp.square(x).sum(tuple(range(stacked, x.ndim)), keepdims=True)
    return x * jax.lax.rsqrt(jnp.where(square > 0, square, 1.0))


def _wide(leaves):
    wide = jnp.promote_types(jnp.result_type(*leaves), jnp.float32)
    return [jnp.asarray(x, wide) for x in leaves]


def _each(vectors, values):
    """Pairs of vectors and values, of which there is one for all or one each."""
    values = values if isinstance(values, list | tuple) else [values] * len(vectors)
    if len(values) != len(vectors):
        raise ValueError(f"{len(vectors)} vectors and {len(values)} densities")
    return list(zip(vectors, values, strict=True))


def _with_keys(key, vectors, values):
    keys = jax.random.split(key, len(vectors))
    return zip(keys, _each(vectors, values), strict=True)


def _checked(vectors, weights):
    """The weights, one for each of vectors that are alike."""
    if len(vectors) != len(weights) or not len(vectors):
        raise ValueError(
            f"{len(vectors)} vectors and {len(weights)} weights: give one weight each"
        )
    trees.check_alike(vectors)
    return list(weights)
