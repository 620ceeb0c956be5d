"""Penalties on the distance of the weights from where they started.

Both trees have the same structure; no gradient flows to the anchor. Sums, not means, so
that the pull on a weight does not depend on the size of the network.
"""

import jax
import jax.numpy as jnp

from rlhf_jax import trees


def l2(params, anchor):
    """½ Σ (θ − θ₀)²: the gradient is θ − θ₀.

    Li et al. 2018, "Explicit Inductive Bias for Transfer Learning", arXiv:1802.01483
    (L²-SP). params, anchor: pytrees. Returns [] float32.
    """
    gap = trees.subtract(params, jax.lax.stop_gradient(anchor))
    return 0.5 * trees.dot(gap, gap)


def l1(params, anchor):
    """Σ |θ − θ₀|: the gradient is sign(θ − θ₀), 0 at θ₀.

    params, anchor: pytrees. Returns [] float32.
    """
    gap = trees.subtract(params, jax.lax.stop_gradient(anchor))
    return sum(map(_l1_leaf, jax.tree.leaves(gap)), jnp.zeros((), jnp.float32))


def _l1_leaf(gap):
    gap = gap.astype(jnp.float32)
    # The derivative that |x| has at 0 is 1 here, and weights begin at their anchor.
    return jnp.where(gap != 0, jnp.abs(gap), 0.0).sum()
