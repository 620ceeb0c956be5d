"""Reward variance: does a reward tell apart the answers that a policy would give?

An accurate reward model that scores all answers to a prompt nearly alike leaves the
objective flat, and policy gradient slow (Razin et al. 2025, "What Makes a Reward Model
a Good Teacher?", arXiv:2503.15477). M prompts, K answers each.
"""

import numpy as np


def within_prompts(rewards, *, scale=None):
    """mean_m var_k(r_mk / s): reward variance under the policy that gave the answers.

    s is the standard deviation of all M·K rewards, which makes reward models of any
    unit comparable; adding a constant changes nothing. It is 0 where rewards differ
    between prompts only, and about 1 where prompts do not differ. Variances have K − 1
    in the denominator, so that K does not matter. Equal rewards have variance 0.

    Args:
      rewards: [M, K], K ≥ 2; the paper has K = 10 samples at temperature 1 from the
        initial policy.
      scale: s instead, to compare policies by one reward: that of the initial policy.
    Returns a float. Raises ValueError for rewards that are not finite.
    """
    rewards = np.asarray(rewards, np.float64)
    if rewards.ndim != 2 or rewards.shape[1] < 2 or not len(rewards):
        raise ValueError(
            "rewards must be [prompts, answers], with 2 answers or more; got shape "
            f"{rewards.shape}"
        )
    if not np.isfinite(rewards).all():
        prompt, answer = np.argwhere(~np.isfinite(rewards))[0]
        raise ValueError(
            f"the reward of prompt {prompt}, answer {answer} is "
            f"{rewards[prompt, answer]}; leave the prompt out"
        )
    if scale is not None and not scale > 0:
        raise ValueError(f"scale={scale}: a standard deviation above 0")
    if (rewards == rewards[0, 0]).all():
        return 0.0
    scale = rewards.std() if scale is None else scale
    return float((rewards / scale).var(axis=1, ddof=1).mean())
