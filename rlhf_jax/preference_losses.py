"""Preference losses beside DPO and IPO: the family that TRL knows by `loss_type`.

B rows. π and ρ are log-probs of whole answers in nats, of the policy and the reference;
c is the chosen answer, r the rejected one. Each loss returns (loss [], metrics), to be
minimised, and takes `mask` [B], `count` and `axis_name` as those of `losses` do. With
a reference the arguments and metrics are those of `losses.dpo`; without one the rewards
in the metrics are β·π. Where `preference` is taken, labels may be soft. No gradient
flows through what the reference said.
"""

import functools
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp

from rlhf_jax import losses, masking


class Shift(NamedTuple):
    """δ of `bco_pair` as the paper has it: the mean of all rewards so far."""

    mean: jax.Array  # [] float32
    count: jax.Array  # [] float32, rewards seen


def hinge(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, *,
    beta, preference=1.0, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """L = mean max(0, 1 − β h), h = (π_c − ρ_c) − (π_r − ρ_r).

    Zhao et al. 2023, "SLiC-HF: Sequence Likelihood Calibration with Human Feedback",
    arXiv:2305.10425, on the log-ratios (Liu et al. 2023, arXiv:2309.06657).
    """
    sides = policy_chosen, policy_rejected, reference_chosen, reference_rejected
    rows = mask, count, axis_name
    return _pairwise(
        lambda c, r: jax.nn.relu(1.0 - beta * (c - r)), sides, rows, beta, preference
    )


def robust(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, *,
    beta, label_smoothing=0.0, preference=1.0, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """L = mean [−(1 − ε) log σ(β h) + ε log σ(−β h)] / (1 − 2ε), h as in `hinge`.

    Chowdhury et al. 2024, "Provably Robust DPO", arXiv:2403.00409: where labels are
    wrong with probability ε = `label_smoothing` < ½, its mean is DPO's on right ones.
    """
    sides = policy_chosen, policy_rejected, reference_chosen, reference_rejected
    rows = mask, count, axis_name

    def term(chosen, rejected):
        gap = beta * (chosen - rejected)
        right = (1.0 - label_smoothing) * jax.nn.log_sigmoid(gap)
        wrong = label_smoothing * jax.nn.log_sigmoid(-gap)
        return (wrong - right) / (1.0 - 2.0 * label_smoothing)

    return _pairwise(term, sides, rows, beta, preference)


def exo_pair(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, *,
    beta, label_smoothing, preference=1.0, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """L = mean KL((q, 1 − q) ‖ (p, 1 − p)), q = σ(β h), h as in `hinge`.

    Ji et al. 2024, "Towards Efficient Exact Optimization of Language Model Alignment",
    arXiv:2402.00856, eq. 16. The label p is smoothed by ε = `label_smoothing` as in
    `losses.dpo`; ε > 0 (the paper has 0.001), or a hard label costs infinity.
    """
    sides = policy_chosen, policy_rejected, reference_chosen, reference_rejected
    rows = mask, count, axis_name

    def term(chosen, rejected):
        label = jnp.broadcast_to(jnp.asarray(preference, jnp.float32), chosen.shape)
        wanted = label * (1.0 - label_smoothing) + (1.0 - label) * label_smoothing
        gap = beta * (chosen - rejected)
        better = jax.nn.log_sigmoid(gap) - jnp.log(wanted)
        worse = jax.nn.log_sigmoid(-gap) - jnp.log1p(-wanted)
        return jax.nn.sigmoid(gap) * better + jax.nn.sigmoid(-gap) * worse

    return _per_row(term, sides, rows, beta, preference)


def nca_pair(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, *,
    beta, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """L = mean −log σ(c) − ½ log σ(−c) − ½ log σ(−r); c, r = β(π − ρ) of each answer.

    Chen et al. 2024, "Noise Contrastive Alignment of Language Models with Explicit
    Rewards", arXiv:2402.05369, for K = 2 with hard labels: keeps the chosen likely.
    """
    sides = policy_chosen, policy_rejected, reference_chosen, reference_rejected
    rows = mask, count, axis_name

    def term(chosen, rejected):
        chosen, rejected = beta * chosen, beta * rejected
        noise = jax.nn.log_sigmoid(-chosen) + jax.nn.log_sigmoid(-rejected)
        return -jax.nn.log_sigmoid(chosen) - 0.5 * noise

    return _per_row(term, sides, rows, beta)


def bco_pair(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, *,
    beta, shift=0.0, preference=1.0, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """L = mean −log σ(c − δ) − log σ(δ − r); c, r = β(π − ρ) of each answer.

    Jung et al. 2024, "Binary Classifier Optimization for Large Language Model
    Alignment", arXiv:2404.04656. δ = `shift` [] is data: in the paper a running mean
    of both rewards (`update_shift`), in TRL 1.16 the constant 0.
    """
    sides = policy_chosen, policy_rejected, reference_chosen, reference_rejected
    rows = mask, count, axis_name
    shift = jax.lax.stop_gradient(shift)

    def term(chosen, rejected):
        up, down = beta * chosen - shift, beta * rejected - shift
        return -jax.nn.log_sigmoid(up) - jax.nn.log_sigmoid(-down)

    return _pairwise(term, sides, rows, beta, preference)


def init_shift():
    """The `Shift` before the first update: 0, of no rewards."""
    return Shift(jnp.zeros(()), jnp.zeros(()))


def update_shift(state, chosen, rejected, *, mask=None, axis_name=None):
    """The `Shift` with the rewards β(π − ρ) [B] of one more batch of pairs in it."""
    mask = jnp.ones(chosen.shape, jnp.float32) if mask is None else mask
    total = functools.partial(masking.total, mask=mask, axis_name=axis_name)
    count = state.count + 2.0 * total(jnp.ones_like(chosen))
    new = total(chosen) + total(rejected) + state.mean * state.count
    mean = new / jnp.where(count > 0, count, 1.0)
    return Shift(*jax.lax.stop_gradient((mean, count)))


def sppo_hard(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, *,
    beta, preference=1.0, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """L = mean [c − (p − ½)/β]² + [r + (p − ½)/β]²; c, r = π − ρ of each answer.

    Wu et al. 2024, "Self-Play Preference Optimization for Language Model Alignment",
    arXiv:2405.00675, eq. 4.7; "hard" is p = 1, a soft p is the paper's own.
    """
    sides = policy_chosen, policy_rejected, reference_chosen, reference_rejected
    rows = mask, count, axis_name
    goal = (preference - 0.5) / beta
    return _per_row(
        lambda c, r: jnp.square(c - goal) + jnp.square(r + goal), sides, rows, beta
    )


def apo_zero(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, *,
    beta, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """L = mean 1 − σ(c) + σ(r); c, r = β(π − ρ) of each answer.

    D'Oosterlinck et al. 2024, "Anchored Preference Optimization", arXiv:2408.06266,
    eq. 7: for chosen answers that are better than the model's own.
    """
    sides = policy_chosen, policy_rejected, reference_chosen, reference_rejected
    rows = mask, count, axis_name
    sigma = jax.nn.sigmoid
    return _per_row(lambda c, r: sigma(-beta * c) + sigma(beta * r), sides, rows, beta)


def apo_down(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, *,
    beta, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """L = mean σ(c) + 1 − σ(c − r); c, r = β(π − ρ) of each answer.

    Eq. 8 of the same paper: for chosen answers that are worse than the model's own.
    Both become less likely, the rejected one more so.
    """
    sides = policy_chosen, policy_rejected, reference_chosen, reference_rejected
    rows = mask, count, axis_name
    sigma = jax.nn.sigmoid
    return _per_row(
        lambda c, r: sigma(beta * c) + sigma(beta * (r - c)), sides, rows, beta
    )


def discopop(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, *,
    beta, tau=0.05, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """L = mean −(1 − w) log σ(β h) + w exp(−β h), w = σ(β h/τ), h as in `hinge`.

    Lu et al. 2024, "Discovering Preference Optimization Algorithms with and for Large
    Language Models", arXiv:2406.08414, eq. 5: logistic for pairs in the wrong order,
    exponential for those in the right one.
    """
    sides = policy_chosen, policy_rejected, reference_chosen, reference_rejected
    rows = mask, count, axis_name

    def term(chosen, rejected):
        gap = beta * (chosen - rejected)
        share = jax.nn.sigmoid(gap / tau)
        return share * jnp.exp(-gap) - (1.0 - share) * jax.nn.log_sigmoid(gap)

    return _per_row(term, sides, rows, beta)


def aot(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, *,
    beta, label_smoothing=0.0, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """L = mean_i −(1 − ε) log σ(β d_i) − ε log σ(−β d_i), d_i the difference of the
    i-th smallest π_c − π_r and the i-th smallest ρ_c − ρ_r.

    Melnyk et al. 2024, "Distributional Preference Alignment of LLMs via Optimal
    Transport", arXiv:2406.05882. Rows are sorted among those given, over `axis_name`
    too: a micro-batch is sorted by itself, so micro-batches do not add up to the whole.
    """
    sides = policy_chosen, policy_rejected, reference_chosen, reference_rejected
    policy, reference, mask = _sides(sides, mask)
    gaps = policy[0] - policy[1], reference[0] - reference[1]
    loss = _transport(gaps, beta, label_smoothing, mask, count, axis_name)
    return loss, _metrics(sides, beta, 1.0, (mask, count, axis_name))


def aot_unpaired(
    policy_chosen, policy_rejected, reference_chosen, reference_rejected, *,
    beta, label_smoothing=0.0, mask=None, count=None, axis_name=None,
):  # fmt: skip
    """`aot` with d_i the difference of the i-th smallest π_c − ρ_c and π_r − ρ_r.

    The same paper: which chosen answer belongs to which rejected one does not matter.
    """
    sides = policy_chosen, policy_rejected, reference_chosen, reference_rejected
    policy, reference, mask = _sides(sides, mask)
    gaps = policy[0] - reference[0], policy[1] - reference[1]
    loss = _transport(gaps, beta, label_smoothing, mask, count, axis_name)
    return loss, _metrics(sides, beta, 1.0, (mask, count, axis_name))


def wpo_weights(logps, collisions, mask):
    """w = exp(mean_t log π(y_t) − log Σ_v π(v)²): how much an answer is the policy's.

    Zhou et al. 2024, "WPO: Enhancing RLHF with Weighted Preference Optimization",
    arXiv:2406.11827, eq. 2, with its alignment of each token by what sampling would
    give on average. A pair weighs the product of both its answers.

    Args: logps [B, T] of the tokens; collisions [B, T], log Σ_v π(v)²; mask [B, T].
    Returns [B] data.
    """
    chex.assert_equal_shape([logps, collisions, mask])
    aligned = (masking.zero(logps, mask) - masking.zero(collisions, mask)) * mask
    lengths = jnp.maximum(mask.sum(-1), 1)
    return jax.lax.stop_gradient(jnp.exp(aligned.sum(-1) / lengths))


def _transport(gaps, beta, label_smoothing, mask, count, axis_name):
    """The logistic loss of sorted differences; the valid rows come first."""
    if axis_name is not None:
        gather = functools.partial(jax.lax.all_gather, axis_name=axis_name, tiled=True)
        gaps, mask = tuple(map(gather, gaps)), gather(mask)
    high, low = (jnp.sort(jnp.where(mask != 0, gap, jnp.inf)) for gap in gaps)
    valid = jnp.sort(mask, descending=True)
    gap = beta * (masking.zero(high, valid) - masking.zero(low, valid))
    right, wrong = jax.nn.log_sigmoid(gap), jax.nn.log_sigmoid(-gap)
    terms = -(1.0 - label_smoothing) * right - label_smoothing * wrong
    return masking.mean(terms, valid, count=count)


def _sides(sides, mask):
    """(policy's two log-probs, the reference's two, mask), 0 in ignored rows."""
    chex.assert_equal_shape(sides)
    mask = jnp.ones(sides[0].shape, jnp.float32) if mask is None else mask
    sides = [masking.zero(side, mask) for side in sides]
    return sides[:2], jax.lax.stop_gradient(sides[2:]), mask


def _per_row(term, sides, rows, beta, preference=1.0):
    """(mean of term(π_c − ρ_c, π_r − ρ_r) [B], metrics of `losses.dpo`)."""
    mask, count, axis_name = rows
    policy, reference, mask = _sides(sides, mask)
    ratios = [p - r for p, r in zip(policy, reference, strict=True)]
    loss = masking.mean(term(*ratios), mask, count=count, axis_name=axis_name)
    return loss, _metrics(sides, beta, preference, (mask, count, axis_name))


def _pairwise(term, sides, rows, beta, preference):
    """`_per_row` of a term that soft labels mix with that of the swapped pair."""

    def mixed(chosen, rejected):
        swapped = (1.0 - preference) * term(rejected, chosen)
        return preference * term(chosen, rejected) + swapped

    return _per_row(mixed, sides, rows, beta, preference)


def _metrics(sides, beta, preference, rows):
    mask, count, axis_name = rows
    given = {"mask": mask, "count": count, "axis_name": axis_name}
    return losses.dpo(*sides, beta=beta, preference=preference, **given)[1]
