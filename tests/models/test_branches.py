"""models.branches: attention in parts is that under the whole mask."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import branches, layers

B, P, N, T, H, K, D = 2, 5, 3, 4, 4, 2, 8
S = P + N * T
SEGMENTS = np.repeat(np.arange(N + 1), [P] + [T] * N)


def whole_mask(rng):
    """[B, S, S]: causal, of the beginning and one's own branch, and some padding."""
    causal = np.tril(np.ones((S, S), bool))
    related = (SEGMENTS == 0)[None] | (SEGMENTS[:, None] == SEGMENTS[None])
    shown = (rng.random((B, S)) < 0.8) | np.isin(np.arange(S), (0, P))
    return jnp.array((causal & related)[None] & shown[:, None])


def attention(q, k, v, mask):
    return layers.attend(q, k.swapaxes(1, 2), v.swapaxes(1, 2), mask)


def test_value_and_gradient_are_those_under_the_whole_mask(rng):
    """float32 sums of fewer terms: those left out were exactly 0."""
    mask = whole_mask(rng)
    shapes = (B, S, H, D), (B, S, K, D), (B, S, K, D)
    arrays = [jnp.array(rng.normal(size=shape), jnp.float32) for shape in shapes]
    weights = jnp.array(rng.normal(size=(B, S, H, D)), jnp.float32)
    parts = branches.split(mask, SEGMENTS)

    def apart(q, k, v):
        return (weights * branches.attend(attention, q, k, v, parts)).sum()

    def whole(q, k, v):
        return (weights * attention(q, k, v, mask)).sum()

    found, expected = (
        jax.jit(jax.value_and_grad(f, argnums=(0, 1, 2)))(*arrays)
        for f in (apart, whole)
    )
    jax.tree.map(lambda a, b: checks.close(a, b, 1e-5, 1e-5), found, expected)


def test_only_scores_that_can_count_are_computed(rng):
    parts = branches.split(whole_mask(rng), SEGMENTS)
    assert parts.common.shape == (B, P, P)
    assert parts.branches.shape == (B * N, T, P + T)


@pytest.mark.parametrize(
    "segments",
    [
        np.zeros(S, int),  # nothing continues
        np.repeat([0, 1, 2], [P, 4, 8]),  # branches of two lengths
        np.repeat([1, 2], [S - 4, 4]),  # nothing in common
        np.array([0] * P + [1, 2] * 6),  # branches that are interleaved
    ],
)
def test_a_mask_of_another_form_stays_whole(rng, segments):
    mask = whole_mask(rng)
    assert branches.split(mask, segments) is mask
