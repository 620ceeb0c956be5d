"""Several rewards as one: weighted sums, and each reward normalised before the sum.

N completions, R rewards, K completions of a prompt, side by side. NaN stands where a
reward does not apply to a completion. On the host, in float64.
"""

import numpy as np

_EPSILON = 1e-4  # beside a standard deviation, as in TRL


def weighted_sum(values, weights):
    """s_i = Σ_r w_r v_ir over the rewards that apply to completion i.

    TRL's sum_then_normalize, before any normalisation. Args: values [N, R]; weights
    [R]. Returns [N], NaN where no reward applies.
    """
    values = np.asarray(values, np.float64)
    total = np.nansum(values * np.asarray(weights, np.float64), axis=-1)
    return np.where(np.isnan(values).all(-1), np.nan, total)


def normalize_then_sum(values, weights, *, candidates):
    """z_ir = (v_ir − mean) / (std + 1e-4) over a prompt's K completions, then
    (s − mean) / (std + 1e-4) over the batch, with s_i = Σ_r w_r z_ir.

    Liu et al. 2026, "GDPO: Group reward-Decoupled Normalization Policy Optimization for
    Multi-reward RL Optimization", arXiv:2601.05242, with TRL's constants and the
    standard deviation of a sample (N − 1). No reward drowns another by its scale, and
    advantages keep their size however many rewards there are. A reward of which fewer
    than two completions of a prompt have a value counts as 0 there.

    Args: values [N, R], N a multiple of `candidates`; weights [R]. Returns [N], NaN
    where no reward applies.
    """
    values = np.asarray(values, np.float64)
    groups = values.reshape(-1, candidates, values.shape[-1])
    normal = _standardized(groups, axis=1).reshape(values.shape)
    return _standardized(weighted_sum(normal, weights), axis=0)


def moments(values):
    """(mean [R], std [R]) of each reward over the completions it applies to.

    The standard deviation is of a sample (N − 1), as TRL logs it; NaN of none.
    """
    values = np.asarray(values, np.float64)
    return tuple(np.squeeze(x, 0) for x in _moments(values, axis=0))


def _standardized(x, axis):
    mean, std = _moments(x, axis)
    return (x - mean) / (std + _EPSILON)


def _moments(x, axis):
    """Mean and standard deviation of what is not NaN; the deviation of one is 0."""
    known = ~np.isnan(x)
    count = known.sum(axis, keepdims=True)
    some = np.where(count > 0, count, np.nan)
    mean = np.where(known, x, 0).sum(axis, keepdims=True) / some
    squares = np.where(known, np.square(x - mean), 0).sum(axis, keepdims=True)
    std = np.sqrt(squares / np.maximum(count - 1, 1))
    return mean, np.where(count > 0, std, np.nan)
