"""Advantages from rewards and values, or from groups of responses.

B rows, T tokens, N prompts, K responses per prompt.
"""

import functools

import chex
import jax
import jax.numpy as jnp

from rlhf_jax import masking


def gae(rewards, values, mask, *, gamma, lam, bootstrap=None):
    """A_t = Σ_k (γλ)^k δ_{t+k}, with δ_t = r_t + γ V_{t+1} − V_t; returns A + V.

    Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized
    Advantage Estimation", eq. 16. Ignored positions are skipped: t + 1 is the next
    valid token.

    Args: rewards, values, mask [B, T]; gamma and lam in [0, 1]; bootstrap [B] is the
    value after the last valid token, 0 unless given.
    Returns (advantages, returns), both [B, T], 0 at ignored positions.
    """
    chex.assert_equal_shape([rewards, values, mask])
    rewards, values = masking.zero(rewards, mask), masking.zero(values, mask)
    last = jnp.zeros_like(values[:, 0])
    last = last if bootstrap is None else jnp.broadcast_to(bootstrap, last.shape)
    _, advantages = jax.lax.scan(
        functools.partial(_step_back, gamma=gamma, lam=lam),
        (jnp.zeros_like(last), last.astype(values.dtype)),
        (rewards.T, values.T, mask.T),
        reverse=True,
    )
    advantages = masking.zero(advantages.T, mask)
    return advantages, advantages + values


def _step_back(carry, step, *, gamma, lam):
    """One step backwards in time; an ignored token leaves the carry unchanged."""
    advantage, next_value = carry
    reward, value, valid = step
    delta = reward + gamma * next_value - value
    advantage = jnp.where(valid != 0, delta + gamma * lam * advantage, advantage)
    return (advantage, jnp.where(valid != 0, value, next_value)), advantage


def returns(rewards, mask, *, gamma, bootstrap=None):
    """G_t = Σ_k γ^k r_{t+k}: the discounted sum of future rewards.

    This is `gae` with V = 0 and λ = 1; same arguments. Returns [B, T].
    """
    values = jnp.zeros_like(rewards)
    return gae(rewards, values, mask, gamma=gamma, lam=1.0, bootstrap=bootstrap)[0]


def leave_one_out(scores):
    """A_i = s_i − mean_{j ≠ i} s_j among the K responses to one prompt.

    Ahmadian et al. 2024, "Back to Basics" (RLOO), arXiv:2402.14740. [N, K] → [N, K].
    Computed as K/(K − 1) · (s_i − mean), which loses less precision.
    """
    size = _group_size(scores)
    return (size / (size - 1)) * baseline(scores)


def group_normalized(scores, *, ddof=0, epsilon=1e-6):
    """A_i = (s_i − mean) / (std + ε) among the K responses to one prompt.

    Shao et al. 2024, "DeepSeekMath" (GRPO), arXiv:2402.03300, with the population
    standard deviation; TRL has the sample's (`ddof=1`) and ε = 1e-4. [N, K] → [N, K].
    """
    centered = baseline(scores)
    squares = jnp.square(centered).sum(-1, keepdims=True)
    return centered / (jnp.sqrt(squares / (scores.shape[1] - ddof)) + epsilon)


def batch_normalized(scores, *, ddof=0, epsilon=1e-6):
    """A_i = (s_i − mean of the prompt's K scores) / (std of all N·K scores + ε).

    The mean of a group with the scale of the batch, so that prompts on which scores
    hardly differ count for little: "Tricks or Traps? A Deep Dive into RL for LLM
    Reasoning", arXiv:2508.08221. [N, K] → [N, K].
    """
    squares = jnp.square(scores - scores.mean()).sum() / (scores.size - ddof)
    return baseline(scores) / (jnp.sqrt(squares) + epsilon)


def informative(scores, *, tolerance=1e-8):
    """Whether a prompt's K scores differ, so that a group baseline leaves something.

    Yu et al. 2025, "DAPO", arXiv:2503.14476, 3.2, samples until every group does.
    [N, K] → [N] bool.
    """
    _group_size(scores)
    return scores.max(-1) - scores.min(-1) > tolerance


def best(scores):
    """A_i = K for the best of a prompt's K responses (the first of ties), 0 for others.

    Rejection sampling: with it, REINFORCE maximises the likelihood of the best response
    only, and the factor K makes up for the zeros. Dong et al. 2023, "RAFT",
    arXiv:2304.06767. [N, K] → [N, K].
    """
    size = _group_size(scores)
    return size * jax.nn.one_hot(scores.argmax(-1), size, dtype=jnp.float32)


def wins(scores):
    """The share of a prompt's other responses that each one beats, a tie counting ½.

    Of a pair 1, ½ or 0: the label of online DPO, Guo et al. 2024, arXiv:2402.04792, for
    which they are no advantages but preferences. [N, K] → [N, K].
    """
    size = _group_size(scores)
    ahead = jnp.sign(scores[:, :, None] - scores[:, None])
    return (ahead.sum(-1) / (size - 1) + 1) / 2


def baseline(scores):
    """A_i = s_i − mean of the prompt's K scores. [N, K] → [N, K].

    Liu et al. 2025, "Understanding R1-Zero-Like Training" (Dr. GRPO), arXiv:2503.20783:
    GRPO without dividing by the std, which favours prompts whose scores hardly differ.
    """
    _group_size(scores)
    return scores - scores.mean(-1, keepdims=True)


def _group_size(scores):
    chex.assert_rank(scores, 2)
    if scores.shape[1] < 2:
        raise ValueError(
            f"scores {scores.shape}: a group baseline needs 2 responses or more per "
            "prompt; K = 1 has nothing to compare with"
        )
    return scores.shape[1]
