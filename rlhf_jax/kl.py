"""KL divergence from the reference, and controllers of the KL coefficient.

B rows, T tokens, V vocabulary; everything is in nats. Estimators return one number per
token; their mean over tokens sampled *from the policy* estimates KL(π‖ρ).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax import logprobs, masking


def _log_ratio(policy_logps, reference_logps, mask):
    """log π − log ρ [B, T], 0 where ignored; the reference carries no gradient."""
    reference_logps = jax.lax.stop_gradient(reference_logps)
    if mask is None:
        return policy_logps - reference_logps
    # Zero each side before subtracting: the gradient of inf − inf is NaN.
    return masking.zero(policy_logps, mask) - masking.zero(reference_logps, mask)


def k1(policy_logps, reference_logps, *, mask=None):
    """k₁ = log π − log ρ: unbiased, of either sign.

    Schulman 2020, "Approximating KL Divergence". Arrays [B, T]; `mask` zeroes ignored
    tokens. Returns [B, T]. The gradient flows to the policy only.
    """
    return _log_ratio(policy_logps, reference_logps, mask)


def k2(policy_logps, reference_logps, *, mask=None):
    """k₂ = (log π − log ρ)² / 2 ≥ 0: biased, low variance.

    On samples of π its gradient is an unbiased estimate of the gradient of KL(π‖ρ).
    Arrays as in `k1`. Returns [B, T].
    """
    return 0.5 * jnp.square(_log_ratio(policy_logps, reference_logps, mask))


def k3(policy_logps, reference_logps, *, mask=None):
    """k₃ = exp(log ρ − log π) − 1 − (log ρ − log π) ≥ 0: unbiased, low variance.

    Arrays as in `k1`. Returns [B, T].
    """
    gap = -_log_ratio(policy_logps, reference_logps, mask)
    # expm1: exp(x) − 1 loses all precision for small x.
    return jnp.expm1(gap) - gap


def chi2(policy_logps, reference_logps, *, mask=None, most=10.0):
    """π/ρ − 1: its mean over tokens of π is χ²(π‖ρ) = Σ_v π_v²/ρ_v − 1.

    To first order in log π − log ρ this is k₁; it grows exponentially where π samples
    tokens that ρ hardly ever would. Huang et al. 2024, arXiv:2407.13399; Laidlaw et al.
    2024, arXiv:2403.03185.

    Arrays as in `k1`; log π − log ρ is clipped at `most`, so that the exponential stays
    finite and one token does not dominate a batch. Returns [B, T].
    """
    return jnp.expm1(jnp.minimum(_log_ratio(policy_logps, reference_logps, mask), most))


def exact(policy_logits, reference_logits, *, temperature=1.0):
    """KL(π‖ρ) = Σ_v π_v (log π_v − log ρ_v) over the whole vocabulary.

    Args: logits [B, T, V] each; both are divided by the sampling temperature.
    Returns [B, T] float32. The gradient flows to the policy only; for a gradient to
    both sides, as in distillation, use `logprobs.divergence`.
    """
    reference_logits = jax.lax.stop_gradient(reference_logits)
    return logprobs.divergence(policy_logits, reference_logits, temperature=temperature)


class Controller(NamedTuple):
    """The coefficient of the KL penalty."""

    coef: jax.Array  # [] float32, nats⁻¹


def init(coef):
    """A controller that starts at `coef`."""
    return Controller(jnp.asarray(coef, jnp.float32))


def update(controller, observed, n, *, target, horizon):
    """β ← β · (1 + clip(observed/target − 1, ±0.2) · n/horizon).

    Ziegler et al. 2019, "Fine-Tuning Language Models from Human Preferences", eq. 3.
    `observed` [] is the KL in the unit of `target` (in the paper, nats per sample) and
    `n` the number of samples it was measured on. Every argument may be traced;
    `horizon=inf` keeps β constant in the same program. A NaN observation is ignored.
    """
    error = jnp.clip(jnp.asarray(observed) / target - 1.0, -0.2, 0.2)
    factor = 1.0 + jnp.where(jnp.isnan(error), 0.0, error) * n / horizon
    return Controller(controller.coef * factor.astype(jnp.float32))


def proportional(controller, observed, *, target, rate=0.1):
    """β ← β · (1 + rate · clip((observed − target)/target, ±0.2)), once per iteration.

    The controller of RL4LMs (Ramamurthy et al. 2023, arXiv:2210.01241), where
    `observed` is in nats per token. It is `update` with n/horizon = rate, so β changes
    by at most 2% per iteration.
    """
    return update(controller, observed, rate, target=target, horizon=1.0)
