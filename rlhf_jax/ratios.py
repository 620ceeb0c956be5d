"""Ratios of heterogeneous averaging: K numbers in [0, 1] with a fixed mean.

Scores are what is trained, [K] without bounds; ratios are weights on the aligned model,
for `heterogeneous.average`. A fixed mean ᾱ makes an average comparable with the plain
one of weight ᾱ.

Lin et al. 2023, "Mitigating the Alignment Tax of RLHF", arXiv:2309.06256.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np

_MOST = 7  # ratios whose orders are listed: 5,040


def init(K, *, mean):
    """s_k = logit(ᾱ): scores [K] float32 at which all ratios are ᾱ, plain averaging."""
    _check_mean(mean)
    return jnp.full(K, _logit(jnp.asarray(mean, jnp.float32)))


def of_scores(scores, *, mean, weights=None):
    """α_k = σ(s_k + c), with the c for which Σ_k w_k α_k / Σ_k w_k = ᾱ.

    Every ratio is in [0, 1] and the mean is exact to 1e-6, whatever the scores. The
    gradient, of any order, is that of the implicit c:
    ∂c/∂s_k = −w_k α_k(1 − α_k) / Σ_j w_j α_j(1 − α_j).

    Args: scores [K], finite; mean [] in [0, 1], may be traced; weights [K] ≥ 0, such as
    `heterogeneous.block_sizes`; None: equal. Returns [K].
    """
    _check_mean(mean)
    scores = jnp.asarray(scores)
    scores = scores.astype(jnp.promote_types(scores.dtype, jnp.float32))
    weights = np.ones(scores.shape) if weights is None else weights
    weights = jnp.asarray(weights, scores.dtype)
    mean = jnp.asarray(mean, scores.dtype)
    inside = _shifted(scores, mean, weights / weights.sum())
    return jnp.where(mean <= 0.0, 0.0, jnp.where(mean >= 1.0, 1.0, inside))


@jax.custom_jvp
def _shifted(scores, mean, weights):
    """`of_scores` for weights of sum 1, by bisection."""
    low, high = 0.5 * scores.min(), 0.5 * scores.max()
    precision = jnp.finfo(scores.dtype).eps

    def halve(state):
        moved, reach = state
        below = (weights * jax.nn.sigmoid(moved)).sum() < mean
        # A little more than half of the reach is kept, for roundings of what moved.
        return moved + jnp.where(below, 0.5, -0.5) * reach, 0.55 * reach

    def goes_on(state):
        return (state[1] > precision) & jnp.isfinite(state[1])

    # The scores themselves are moved: next to a large score a small c would be lost.
    start = scores - (low + high) + _logit(mean), high - low
    return jax.nn.sigmoid(jax.lax.while_loop(goes_on, halve, start)[0])


@_shifted.defjvp
def _shifted_jvp(primals, tangents):
    (scores, mean, weights), (d_scores, d_mean, d_weights) = primals, tangents
    alphas = _shifted(scores, mean, weights)
    slopes = alphas * (1.0 - alphas)
    total = (weights * slopes).sum()
    moved = d_mean - (weights * slopes * d_scores + d_weights * alphas).sum()
    shift = moved / jnp.where(total > 0, total, 1.0)  # all at 0 or 1: no slope is left
    return alphas, slopes * (d_scores + shift)


def reach(K, *, mean, offset):
    """(least, greatest) ratio that `scaled` can give, as floats."""
    if K == 1:
        return float(mean), float(mean)
    least = offset / (offset + (K - 1) * (1.0 + offset))
    greatest = (1.0 + offset) / (1.0 + offset + (K - 1) * offset)
    return K * mean * least, K * mean * greatest


def scaled(scores, *, mean, offset=0.2):
    """α_k = K·ᾱ·a_k / Σ_j a_j with a_k = σ(s_k) + ε: Eq. 11 of the paper.

    With the factor K of the authors' code: as printed, the mean would be ᾱ/K. Nothing
    in it keeps a ratio below 1.

    Args: scores [K]; mean: ᾱ, a float; offset: ε ≥ 0, which bounds the spread. Raises
    ValueError if some scores would give a ratio beyond 1.
    """
    _check_mean(mean)
    (K,) = scores.shape
    greatest = reach(K, mean=mean, offset=offset)[1]
    if offset < 0 or greatest > 1.0:
        raise ValueError(
            f"{K} blocks of mean {mean} with offset {offset} reach {greatest:.2f}, and "
            "ratios end at 1: choose a larger offset, a smaller mean, or `of_scores`"
        )
    parts = jax.nn.sigmoid(scores) + offset
    return K * mean * parts / parts.sum()


def penalty(ratios, *, mean, weights, power=1):
    """Σ_k w_k |α_k − ᾱ|^p, p 1 or 2: the paper's regulariser, to be scaled by 1e-4.

    Args: ratios [K]; mean []; weights [K], as `middle_weights`. Returns []. The
    gradient at α_k = ᾱ is 0.
    """
    gaps = ratios - mean
    # The derivative that |x| has at 0 is 1 here, and ratios begin at their mean.
    gaps = jnp.where(gaps != 0, jnp.abs(gaps), 0.0) ** power
    return (jnp.asarray(weights, gaps.dtype) * gaps).sum()


def middle_weights(index, *, linear=7):
    """w_k = Σ (L − 1) / (|l − L/2| + 1) over the linear layers l of block k: [K].

    25 / (|l − 13| + 1) of 26 layers, in the authors' code: layers in the middle are
    held closest to the mean. index [L]: the block of each layer, as of
    `heterogeneous.split`; linear: how many linear layers each has.
    """
    L = len(index)
    each = linear * (L - 1) / (np.abs(np.arange(L) - L / 2) + 1)
    return np.bincount(index, weights=each)


def permutations(ratios):
    """Ratios in every order, [K!, K], the order given first: what is left of an HMA
    whose gain lies in the spread and not in which block has which ratio."""
    if len(ratios) > _MOST:
        raise ValueError(
            f"{len(ratios)} ratios have too many orders to list: at most {_MOST} blocks"
        )
    return np.array(list(itertools.permutations(np.asarray(ratios))))


def random(key, like, *, count, weights=None):
    """Random ratios with the mean and the standard deviation of others: [count, K].

    α = of_scores(τ·z), z ~ N(0, 1), with the τ at which the spread is that of `like`:
    it grows with τ, up to that of ratios of which all but one are 0 or 1.

    Args: key [] typed; like [K] in [0, 1]; weights [K], of both moments.
    """
    like = jnp.asarray(like)
    weights = jnp.ones(like.shape) if weights is None else jnp.asarray(weights)
    shares = (weights / weights.sum()).astype(like.dtype)
    mean = (shares * like).sum()
    target = _spread(like, shares)

    def at(log_scale, noise):
        return of_scores(jnp.exp(log_scale) * noise, mean=mean, weights=shares)

    def one(noise):
        def halve(_, bounds):
            low, high = bounds
            middle = 0.5 * (low + high)
            narrow = _spread(at(middle, noise), shares) < target
            return jnp.where(narrow, middle, low), jnp.where(narrow, high, middle)

        low, _ = jax.lax.fori_loop(0, 60, halve, (-12.0, 12.0))
        return at(low, noise)

    return jax.vmap(one)(jax.random.normal(key, (count, *like.shape)))


def _spread(alphas, shares):
    """The standard deviation of ratios of weights of sum 1."""
    gaps = alphas - (shares * alphas).sum()
    return jnp.sqrt((shares * jnp.square(gaps)).sum())


def _logit(mean):
    """log ᾱ/(1 − ᾱ), finite at 0 and 1 too."""
    info = jnp.finfo(jnp.asarray(mean).dtype)
    mean = jnp.clip(mean, info.tiny, 1.0 - info.epsneg)
    return jnp.log(mean) - jnp.log1p(-mean)


def _check_mean(mean):
    """Of a number on the host; an array may be traced."""
    if not isinstance(mean, jax.Array) and not 0.0 <= mean <= 1.0:
        raise ValueError(f"ratios of mean {mean}: choose it from 0 to 1")
