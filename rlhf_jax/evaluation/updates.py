"""How far training moved a model, and in how many directions.

Distance and rank of the update are what work on forgetting compares with the KL on the
new task's prompts, each as a predictor of what is lost (Shenfeld et al. 2025, "RL's
Razor", arXiv:2509.04259).
"""

import jax
import numpy as np

from rlhf_jax import trees


def distance(initial, params):
    """‖θ − θ₀‖₂ / ‖θ₀‖₂ over all weights: [] float. initial, params: alike pytrees."""
    moved = trees.norm(trees.subtract(params, initial))
    return float(moved / trees.norm(initial))


def effective_rank(initial, params):
    """Mean over weight matrices of the effective rank of their update: [] float.

        exp(−Σ_i p_i log p_i),  p_i = σ_i / Σ_j σ_j,

    σ the singular values of W − W₀ (Roy and Vetterli 2007): from 1 for an update of one
    direction to the smaller side of the matrix; 0 where nothing moved. Matrices are the
    leaves called "kernel", the last two axes of each; embeddings are left out.
    """
    ranks = []
    update = trees.subtract(params, initial)
    for path, leaf in zip(trees.paths(update), jax.tree.leaves(update), strict=True):
        if path.rpartition("/")[2] == "kernel":
            values = np.linalg.svd(np.asarray(leaf, np.float64), compute_uv=False)
            ranks += [_spread(each) for each in values.reshape(-1, values.shape[-1])]
    return float(np.mean(ranks)) if ranks else 0.0


def _spread(values):
    """exp of the entropy of non-negative values as shares; 0 where all are 0."""
    total = values.sum()
    if total == 0:
        return 0.0
    shares = values[values > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))
