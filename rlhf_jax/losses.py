"""Losses over tokens: likelihood, policy gradients, values.

B rows, T tokens, C classes. Each returns (loss [], metrics), to be minimised, and takes

- mask [B, T]: 1 valid, 0 ignored. Values at ignored positions, even inf and NaN, affect
  neither the loss nor its gradient.
- count []: the denominator, if known: for a micro-batch, the valid tokens of the whole
  minibatch. Losses and metrics are then shares that add up to those of the minibatch,
  except `*_max`, which is a maximum.
- axis_name: the mapped axis that rows are sharded over. Sums and counts are summed over
  it before dividing, so every device holds the global loss, and the `pmean` of the
  devices' gradients is its gradient.

No gradient flows through old log-probs, old values, advantages and returns.
"""

import functools

import chex
import jax
import jax.numpy as jnp

from rlhf_jax import logprobs, masking, surrogates


def _data(x, mask):
    return jax.lax.stop_gradient(masking.zero(x, mask))


def nll(logps, mask, *, count=None, axis_name=None):
    """L = −mean log π: maximum likelihood.

    Args: logps [B, T] of the targets, nats; mask [B, T]. Metrics: `nll`, which is L.
    """
    chex.assert_equal_shape([logps, mask])
    loss = -masking.mean(logps, mask, count=count, axis_name=axis_name)
    return loss, {"nll": loss}


def ppo_clip(
    logps, old_logps, advantages, mask, *,
    clip, clip_high=None, delta=None, count=None, axis_name=None,
):  # fmt: skip
    """L = mean max(−A·ρ, −A·clip(ρ, 1 − ε, 1 + ε)), ρ = exp(log π − log π_old).

    Schulman et al. 2017, "Proximal Policy Optimization", arXiv:1707.06347, eq. 7. The
    gradient is −A·ρ·∇log π where unclipped, 0 where clipped. ε may be traced; inf never
    clips.

    Args: logps, old_logps [B, T] at the sampling temperature; advantages, mask [B, T];
    clip_high: ε upwards, where it differs, and delta: see `surrogates.clipped`.
    Metrics: `approxkl` mean (log ρ)²/2; `clipfrac` share of clipped tokens; `ratio`
    mean ρ; `ratio_max` max ρ.
    """
    chex.assert_equal_shape([logps, old_logps, advantages, mask])
    mean = functools.partial(masking.mean, mask=mask, count=count, axis_name=axis_name)
    log_ratio = surrogates.log_ratio(logps, old_logps, mask)
    ratio = jnp.exp(log_ratio)
    loss, clipped = surrogates.clipped(
        log_ratio, _data(advantages, mask), clip=clip, clip_high=clip_high, delta=delta
    )
    ratio_max = masking.zero(ratio, mask).max()
    if axis_name is not None:
        ratio_max = jax.lax.pmax(jax.lax.stop_gradient(ratio_max), axis_name)
    return mean(loss), {
        "approxkl": mean(0.5 * jnp.square(log_ratio)),
        "clipfrac": mean(clipped.astype(jnp.float32)),
        "ratio": mean(ratio),
        "ratio_max": ratio_max,
    }


def reinforce(logps, advantages, mask, *, count=None, axis_name=None):
    """L = −mean A·log π: the score-function gradient, −mean A·∇log π.

    Williams 1992, "Simple Statistical Gradient-Following Algorithms". The samples must
    come from π. Args [B, T]. Metrics: `logps`, the mean log-prob.
    """
    chex.assert_equal_shape([logps, advantages, mask])
    logps, advantages = masking.zero(logps, mask), _data(advantages, mask)
    loss = masking.mean(-advantages * logps, mask, count=count, axis_name=axis_name)
    mean_logps = masking.mean(logps, mask, count=count, axis_name=axis_name)
    return loss, {"logps": mean_logps}


def entropy_bonus(entropies, mask, *, count=None, axis_name=None):
    """L = −mean H; with a positive weight it keeps the policy from collapsing.

    Args: entropies [B, T] from `logprobs.entropy`, nats; mask [B, T].
    Metrics: `entropy`, the mean H.
    """
    chex.assert_equal_shape([entropies, mask])
    entropy = masking.mean(entropies, mask, count=count, axis_name=axis_name)
    return -entropy, {"entropy": entropy}


def value_clip(values, old_values, returns, mask, *, clip, count=None, axis_name=None):
    """L = ½ mean max((V − R)², (clip(V, V_old ± ε) − R)²).

    "The N Implementation Details of RLHF with PPO", detail 19: moving a value by more
    than ε gains nothing. ε may be traced; inf is the plain squared error.

    Args: values, old_values, returns, mask [B, T].
    Metrics: `clipfrac` share of clipped tokens; `error` mean (V − R)²; `values` and
    `returns`, their means.
    """
    chex.assert_equal_shape([values, old_values, returns, mask])
    mean = functools.partial(masking.mean, mask=mask, count=count, axis_name=axis_name)
    values = masking.zero(values, mask)
    old_values, returns = _data(old_values, mask), _data(returns, mask)
    bounded = jnp.clip(values, old_values - clip, old_values + clip)
    plain, clipped = jnp.square(values - returns), jnp.square(bounded - returns)
    return mean(0.5 * jnp.maximum(plain, clipped)), {
        "clipfrac": mean((clipped > plain).astype(jnp.float32)),
        "error": mean(plain),
        "values": mean(values),
        "returns": mean(returns),
    }


def classification(logits, labels, *, mask=None, count=None, axis_name=None):
    """L = −mean log softmax(logits)[label]: cross entropy, one label per row.

    Args: logits [B, C]; labels [B] int; mask [B], by default all rows.
    Metrics: `accuracy`.
    """
    chex.assert_shape(labels, logits.shape[:1])
    mask = jnp.ones(labels.shape, jnp.float32) if mask is None else mask
    logits = masking.zero(logits, jnp.expand_dims(mask, -1))
    labels = masking.zero(labels, mask)
    logps = logprobs.of_tokens(logits, labels)
    right = (logits.argmax(-1) == labels).astype(jnp.float32)
    loss = -masking.mean(logps, mask, count=count, axis_name=axis_name)
    accuracy = masking.mean(right, mask, count=count, axis_name=axis_name)
    return loss, {"accuracy": accuracy}


def bradley_terry(
    chosen, rejected, *,
    preference=1.0, margin=0.0, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """L = −mean [p log σ(d) + (1 − p) log σ(−d)], d = r_chosen − r_rejected − m.

    Bradley & Terry 1952, with soft labels p (Lee et al. 2023, arXiv:2309.00267) and a
    margin m (Touvron et al. 2023, arXiv:2307.09288). ∂L/∂d = (σ(d) − p)/B.

    Args: chosen, rejected [B] scores; preference [] or [B] in [0, 1], the probability
    that `chosen` is better; margin [] or [B]; mask [B], by default all rows.
    Metrics: `accuracy`, the share of rows whose scores agree with the label, ties
    counting half; `margin`, the mean of r_chosen − r_rejected.
    """
    chex.assert_equal_shape([chosen, rejected])
    mask = jnp.ones(chosen.shape, jnp.float32) if mask is None else mask
    mean = functools.partial(masking.mean, mask=mask, count=count, axis_name=axis_name)
    chosen, rejected = masking.zero(chosen, mask), masking.zero(rejected, mask)
    preference, margin = (_row(x, mask) for x in (preference, margin))
    gap = chosen - rejected
    loss = -preference * jax.nn.log_sigmoid(gap - margin)
    loss = loss - (1.0 - preference) * jax.nn.log_sigmoid(margin - gap)
    return mean(loss), {
        "accuracy": mean(_agreement(gap, preference)),
        "margin": mean(gap),
    }


def odin(
    chosen, rejected, chosen_lengths, rejected_lengths, directions, *,
    weight=1.0, preference=1.0, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """L = BT + w·(1 − ρ(l, r_L) + |ρ(l, r_Q)| + |ρ(l, r_Q + r_L)| + |cos(w_Q, w_L)|).

    Chen et al. 2024, "ODIN: Disentangled Reward Mitigates Hacking in RLHF",
    arXiv:2402.07319: two heads on one trunk explain preferences together; r_L is to
    take what is due to length l, and r_Q alone is the reward. BT is of r_Q + r_L, ρ is
    Pearson's correlation over all responses of the rows given, 0 where either is
    constant: of a micro-batch it is that of the micro-batch. The paper's w is 1; the
    noise of ρ over few rows wants less.

    Args: chosen, rejected [B, 2]: r_Q and r_L; lengths [B] of the responses, in tokens;
    directions [D, 2]: w_Q and w_L; weight w []; preference, mask as in `bradley_terry`.
    Metrics: `accuracy` and `margin` of r_Q + r_L; `quality_length` and `length_length`,
    the correlations of r_Q and r_L with length; `cosine`, of the directions.
    """
    chex.assert_equal_shape([chosen, rejected])
    mask = jnp.ones(chosen.shape[:1], jnp.float32) if mask is None else mask
    shared = {"count": count, "axis_name": axis_name}
    loss, metrics = bradley_terry(
        chosen.sum(-1), rejected.sum(-1), preference=preference, mask=mask, **shared
    )
    valid = jnp.concatenate([mask, mask])
    lengths = jnp.concatenate([chosen_lengths, rejected_lengths]).astype(jnp.float32)
    quality, length = jnp.concatenate([chosen, rejected]).T
    correlation = functools.partial(
        _correlation, _data(lengths, valid), mask=valid, axis_name=axis_name
    )
    of_quality, of_length = correlation(quality), correlation(length)
    cosine = _cosine(*directions.T)
    apart = 1.0 - of_length + jnp.abs(of_quality) + jnp.abs(cosine)
    apart = apart + jnp.abs(correlation(quality + length))
    share = masking.mean(jnp.ones_like(mask), mask, **shared)  # 1 without a count
    named = {
        "quality_length": of_quality, "length_length": of_length, "cosine": cosine
    }  # fmt: skip
    return loss + weight * share * apart, metrics | {
        k: share * x for k, x in named.items()
    }


def _correlation(x, y, *, mask, axis_name):
    """Pearson's ρ of x and y [N] over valid rows, 0 where one is constant; with a
    gradient there too."""
    mean = functools.partial(masking.mean, mask=mask, axis_name=axis_name)
    x, y = (masking.zero(v, mask) for v in (x, y))
    x, y = (masking.zero(v - mean(v), mask) for v in (x, y))
    scale = mean(jnp.square(x)) * mean(jnp.square(y))
    return mean(x * y) * jax.lax.rsqrt(scale + 1e-12)


def _cosine(a, b):
    return (a * b).sum() * jax.lax.rsqrt((a * a).sum() * (b * b).sum() + 1e-12)


def _row(x, mask):
    """A number or an array [B] as data [B], 0 in ignored rows."""
    return _data(jnp.broadcast_to(jnp.asarray(x, jnp.float32), mask.shape), mask)


def _agreement(gap, preference):
    """1 if the sign of the gap agrees with the label, 0 if not, ½ for ties."""
    return 0.5 + 0.5 * jnp.sign(gap) * jnp.sign(preference - 0.5)


def dpo(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, *,
    beta, label_smoothing=0.0, preference=1.0, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """L = −mean log σ(β [(π_c − ρ_c) − (π_r − ρ_r)]), π and ρ summed log-probs.

    Rafailov et al. 2023, "Direct Preference Optimization", arXiv:2305.18290, eq. 7:
    `bradley_terry` on the implicit rewards β(π − ρ). Label smoothing ε (cDPO) turns the
    label p into p(1 − ε) + (1 − p)ε.

    Args: summed log-probs [B], nats; beta [] may be traced; preference [] or [B];
    mask [B], by default all rows.
    Metrics: implicit rewards `chosen` and `rejected`, their `margins`, `accuracies`.
    """
    chosen, rejected, mask = _implicit_rewards(
        policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, mask
    )
    label = _row(preference, mask)
    smooth = label * (1.0 - label_smoothing) + (1.0 - label) * label_smoothing
    loss, _ = bradley_terry(
        chosen, rejected, preference=smooth, mask=mask, count=count, axis_name=axis_name
    )
    return loss, _reward_metrics(chosen, rejected, label, mask, count, axis_name)


def ipo(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, *,
    beta, preference=1.0, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """L = mean (h − 1/(2β))², h = (π_c − ρ_c) − (π_r − ρ_r), per-token mean log-probs.

    Azar et al. 2023, "A General Theoretical Paradigm to Understand Learning from Human
    Preferences", arXiv:2310.12036, eq. 17: pulls the margin to 1/(2β) instead of
    growing it forever. Soft labels mix this with the loss of the swapped pair.

    Args: mean log-probs [B]; other arguments and metrics as in `dpo`.
    """
    chosen, rejected, mask = _implicit_rewards(
        policy_chosen, policy_rejected, reference_chosen, reference_rejected, 1.0, mask
    )
    label, gap, goal = _row(preference, mask), chosen - rejected, 0.5 / beta
    error = label * jnp.square(gap - goal) + (1.0 - label) * jnp.square(gap + goal)
    loss = masking.mean(error, mask, count=count, axis_name=axis_name)
    return loss, _reward_metrics(
        beta * chosen, beta * rejected, label, mask, count, axis_name
    )


def _implicit_rewards(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta, mask
):
    """β(π − ρ) of both responses [B] and the row mask [B]."""
    chex.assert_equal_shape(
        [policy_chosen, policy_rejected, reference_chosen, reference_rejected]
    )
    mask = jnp.ones(policy_chosen.shape, jnp.float32) if mask is None else mask
    chosen = masking.zero(policy_chosen, mask) - _data(reference_chosen, mask)
    rejected = masking.zero(policy_rejected, mask) - _data(reference_rejected, mask)
    return beta * chosen, beta * rejected, mask


def _reward_metrics(chosen, rejected, preference, mask, count, axis_name):
    mean = functools.partial(masking.mean, mask=mask, count=count, axis_name=axis_name)
    return {
        "chosen": mean(chosen),
        "rejected": mean(rejected),
        "margins": mean(chosen - rejected),
        "accuracies": mean(_agreement(chosen - rejected, preference)),
    }
