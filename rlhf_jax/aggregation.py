"""How the losses of tokens become one number. B rows, T tokens."""

import jax.numpy as jnp

from rlhf_jax import masking

AVERAGES = ("tokens", "responses", "length", "sums")


def weights(mask, over, *, tokens=None, axis_name=None):
    """w [B, T] such that Σ w·x is the average of x over a minibatch.

    - "tokens": 1/(valid tokens), or 1/`tokens` where that is given: Yu et al. 2025,
      "DAPO", arXiv:2503.14476, 3.3.
    - "responses": 1/(B·length of the response): the mean over a response, then over
      responses: Shao et al. 2024, "DeepSeekMath" (GRPO), arXiv:2402.03300. A token of
      a long response counts for less.
    - "length": 1/(B·T): Liu et al. 2025, "Understanding R1-Zero-Like Training"
      (Dr. GRPO), arXiv:2503.20783; T is the longest that a response may become.
    - "sums": 1/B: a response counts in proportion to its length: "LUSPO",
      arXiv:2602.05261.

    Args: mask [B, T] of 0 and 1; empty rows count in B. With `axis_name` the rows are
    those of one device, and counts are summed over all.
    Returns float32, 0 where ignored. Raises ValueError for another average.
    """
    mask = jnp.asarray(mask, jnp.float32)
    rows = masking.total(jnp.ones_like(mask[:, 0]), 1.0, axis_name=axis_name)
    if over == "tokens":
        if tokens is None:
            tokens = masking.total(mask, 1.0, axis_name=axis_name)
        return mask / jnp.maximum(tokens, 1.0)
    if over == "responses":
        return mask / (rows * jnp.maximum(mask.sum(-1, keepdims=True), 1.0))
    if over == "length":
        return mask / (rows * mask.shape[1])
    if over == "sums":
        return mask / rows
    raise ValueError(f"over is one of {', '.join(AVERAGES)}, not {over!r}")
