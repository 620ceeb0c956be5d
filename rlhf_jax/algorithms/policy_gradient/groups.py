"""The candidates of a prompt: which groups are learned from, and what they say.

b rows of this device, N of all devices, K candidates of a prompt, side by side.
"""

import jax
import jax.numpy as jnp

from rlhf_jax import advantages, masking
from rlhf_jax.algorithms.policy_gradient import collect
from rlhf_jax.algorithms.policy_gradient.config import GROUPED


def select(rollout, scores, hyper, *, config, axis_name=None):
    """The rows that are learned from, of `config.oversampling` times as many drawn.

    "DAPO", arXiv:2503.14476, 3.2, in one round of fixed size: groups whose scores
    differ go first, in the order drawn; where they are too few, others fill up.

    Args: rollout and scores [b] of this device. Returns (rollout, scores, metrics): its
    share of the rows kept, and `reward/zero_std_drawn`, the share of all groups drawn
    whose scores are equal.
    """
    if config.oversampling == 1:
        return rollout, scores, {}
    every = rollout, scores
    if axis_name is not None:
        every = jax.tree.map(
            lambda x: jax.lax.all_gather(x, axis_name, axis=0, tiled=True), every
        )
    paid = collect.paid(every[1], every[0], hyper, config)
    useful = advantages.informative(paid.reshape(-1, config.candidates))
    kept = useful.shape[0] // config.oversampling
    first = jnp.argsort(~useful, stable=True)[:kept, None] * config.candidates
    rows = (first + jnp.arange(config.candidates)[None]).reshape(-1)
    if axis_name is not None:
        size = rows.shape[0] // jax.lax.axis_size(axis_name)
        start = jax.lax.axis_index(axis_name) * size
        rows = jax.lax.dynamic_slice_in_dim(rows, start, size)
    rollout, scores = jax.tree.map(lambda x: jnp.take(x, rows, axis=0), every)
    return rollout, scores, {"reward/zero_std_drawn": _share(~useful)}


def describe(data, config):
    """`reward/zero_std`: the share of groups whose scores are equal, of those learned
    from; TRL's `frac_reward_zero_std`. Nothing for methods without groups."""
    if config.algorithm not in GROUPED:
        return {}
    scores = data.scores.reshape(-1, config.candidates)
    return {"reward/zero_std": _share(~advantages.informative(scores))}


def without_truncated(sample, config):
    """A sample whose responses without an end carry no loss, where config asks for it.

    "DAPO", 3.4, overlong filtering. Their scores still count in the group's mean.
    """
    if not config.mask_truncated_completions:
        return sample
    data = sample.data
    ended = data.ended.astype(data.response_mask.dtype)
    return sample._replace(
        data=data._replace(response_mask=data.response_mask * ended[:, None])
    )


def _share(hits):
    return masking.mean(hits.astype(jnp.float32), jnp.ones(hits.shape))
