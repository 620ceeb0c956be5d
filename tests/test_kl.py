"""kl: estimators, the exact divergence, and the controllers of its coefficient."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax import kl, logprobs

SHAPE = (4, 6)
logps_ = checks.floats(SHAPE, -5, 0)
ESTIMATORS = {"k1": kl.k1, "k2": kl.k2, "k3": kl.k3, "chi2": kl.chi2}


@pytest.fixture
def policy(rng):
    return -rng.exponential(size=SHAPE).astype(np.float32)


@pytest.fixture
def reference(rng):
    return -rng.exponential(size=SHAPE).astype(np.float32)[::-1].copy()


def oracle(policy, reference):
    p, r = np.asarray(policy, np.float64), np.asarray(reference, np.float64)
    gap = p - r
    return {
        "k1": gap,
        "k2": gap**2 / 2,
        "k3": np.exp(-gap) - 1 + gap,
        "chi2": np.exp(gap) - 1,
    }


def test_estimators_by_hand():
    p, r = np.log([[0.5]]), np.log([[0.25]])
    close(kl.k1(p, r), [[np.log(2)]])
    close(kl.k2(p, r), [[np.log(2) ** 2 / 2]])
    close(kl.k3(p, r), [[np.log(2) - 0.5]])
    close(kl.chi2(p, r), [[1.0]])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimators_match_float64(name, policy, reference):
    expected = oracle(policy, reference)[name]
    close(ESTIMATORS[name](policy, reference), expected, 1e-5, 1e-6)


@examples
@given(logps_, logps_)
def test_k1_is_antisymmetric_and_k2_and_k3_are_not_negative(p, r):
    np.testing.assert_array_equal(kl.k1(p, r), -kl.k1(r, p))
    assert (np.asarray(kl.k2(p, r)) >= 0).all()
    assert (np.asarray(kl.k3(p, r)) >= 0).all()
    for estimator in ESTIMATORS.values():
        np.testing.assert_array_equal(estimator(p, p), np.zeros(SHAPE))


def test_k3_keeps_the_digits_of_a_small_gap():
    gap = 2.0**-10
    close(kl.k3(np.float32(gap), np.float32(0.0)), np.expm1(-gap) + gap, 1e-3)


def test_estimators_are_unbiased_under_the_policy():
    """Σ_v π_v k(v) is the exact KL for k1 and k3, summed instead of sampled."""
    logits, other = np.array([[[0.3, -1.0, 2.0]]]), np.array([[[0.0, 1.0, 0.5]]])
    p, q = logprobs.normalize(logits), logprobs.normalize(other)
    exact = kl.exact(logits, other)
    for estimator in (kl.k1, kl.k3):
        close((np.exp(p) * estimator(p, q)).sum(-1), exact, 1e-6, 1e-6)


def test_chi2_is_unbiased_and_its_score_gradient_is_that_of_half_of_it():
    """Σ_v π_v (π_v/ρ_v − 1) = Σ_v π_v²/ρ_v − 1, and ∇½χ² = E_π[(z − 1)·∇log π]."""
    logits = jnp.array([[[0.3, -1.0, 2.0]]])
    q = logprobs.normalize(jnp.array([[[0.0, 1.0, 0.5]]]))

    def chi_square(x):
        return (jnp.exp(2 * logprobs.normalize(x) - q)).sum() - 1

    p = logprobs.normalize(logits)
    estimate = kl.chi2(p, q)
    close((np.exp(p) * estimate).sum(), chi_square(logits), 1e-5)
    weights = jnp.exp(p) * estimate
    score = jax.grad(lambda x: (weights * logprobs.normalize(x)).sum())(logits)
    close(score, jax.grad(lambda x: 0.5 * chi_square(x))(logits), 1e-5, 1e-6)


def test_chi2_stays_finite_where_the_reference_hardly_draws_at_all():
    gap = np.array([[9.0, 10.0, 500.0]], np.float32)
    result = kl.chi2(np.zeros_like(gap), -gap)
    close(result, np.expm1([[9.0, 10.0, 10.0]]), 1e-5)
    close(kl.chi2(np.zeros_like(gap), -gap, most=2.0), np.expm1([[2.0] * 3]), 1e-5)


def test_the_gradient_of_k2_is_that_of_the_divergence():
    logits = jnp.array([[[0.3, -1.0, 2.0]]])
    other = jnp.array([[[0.0, 1.0, 0.5]]])
    weights = jax.lax.stop_gradient(jnp.exp(logprobs.normalize(logits)))

    def expected_k2(x):
        estimate = kl.k2(logprobs.normalize(x), logprobs.normalize(other))
        return (weights * estimate).sum()

    exact = jax.grad(lambda x: kl.exact(x, other).sum())(logits)
    close(jax.grad(expected_k2)(logits), exact, 1e-5, 1e-6)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_junk_reaches_neither_value_nor_gradient(name, policy, reference):
    mask = checks.ragged()
    checks.assert_ignores(
        lambda p, r: ESTIMATORS[name](p, r, mask=mask), [policy, reference], mask
    )


@pytest.mark.parametrize("name", ESTIMATORS)
def test_gradients_are_the_numerical_ones(name, policy, reference):
    checks.assert_gradients(lambda p: ESTIMATORS[name](p, reference), policy)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_reference_carries_no_gradient(name, policy, reference):
    grad = jax.grad(lambda r: ESTIMATORS[name](policy, r).sum())(reference)
    np.testing.assert_array_equal(grad, np.zeros(SHAPE))


def test_exact_of_two_coins():
    half, quarter = np.log([[[0.5, 0.5]]]), np.log([[[0.25, 0.75]]])
    close(kl.exact(half, quarter), [[0.5 * np.log(2) + 0.5 * np.log(2 / 3)]])


def test_exact_is_the_float64_sum_at_the_temperature(rng):
    p, q = rng.normal(size=(2, 2, 3, 5))
    a, b = (x / 0.7 - np.log(np.exp(x / 0.7).sum(-1, keepdims=True)) for x in (p, q))
    close(kl.exact(p, q, temperature=0.7), (np.exp(a) * (a - b)).sum(-1), 1e-5, 1e-6)


def test_exact_is_not_negative_and_zero_only_at_home(rng):
    p, q = rng.normal(size=(2, 2, 3, 5)).astype(np.float32)
    assert (np.asarray(kl.exact(p, q)) > 0).all()
    close(kl.exact(p, p + 1), np.zeros((2, 3)), atol=1e-6)


def test_exact_gradient_flows_to_the_policy_only(rng):
    p, q = rng.normal(size=(2, 1, 2, 4))
    checks.assert_gradients(lambda p: kl.exact(p, q.astype(np.float64)), p)
    grad = jax.grad(lambda q: kl.exact(p, q).sum())(q)
    np.testing.assert_array_equal(grad, np.zeros(q.shape))


def test_init_holds_a_float32_scalar():
    controller = kl.init(0.15)
    assert controller.coef.dtype == jnp.float32 and controller.coef.shape == ()
    assert controller.coef == np.float32(0.15)


ZIEGLER = {"target": 6.0, "horizon": 10_000}


def test_update_at_the_target_is_a_fixed_point():
    controller = kl.init(0.15)
    checks.same(kl.update(controller, 6.0, 256, **ZIEGLER), controller)


def test_update_by_hand():
    out = kl.update(kl.init(0.15), 6.6, 256, **ZIEGLER).coef
    close(out, 0.15 * (1 + 0.1 * 256 / 10_000), 1e-6)


@pytest.mark.parametrize(("observed", "error"), [(1e3, 0.2), (0.0, -0.2), (-5.0, -0.2)])
def test_update_clips_the_error(observed, error):
    out = kl.update(kl.init(0.15), observed, 256, **ZIEGLER).coef
    close(out, 0.15 * (1 + error * 256 / 10_000))


@examples
@given(st.floats(0, 50), st.floats(0.5, 20), st.integers(1, 512))
def test_update_matches_the_formula_and_moves_towards_the_target(observed, target, n):
    out = float(kl.update(kl.init(0.1), observed, n, target=target, horizon=1e4).coef)
    error = np.clip(observed / target - 1, -0.2, 0.2)
    close(out, 0.1 * (1 + error * n / 1e4), 1e-5)
    assert (out - np.float32(0.1)) * (observed - target) >= 0


@pytest.mark.parametrize("observed", [0.0, 3.0, 1e9, np.nan])
def test_an_infinite_horizon_is_the_fixed_controller_bit_for_bit(observed):
    controller = kl.init(0.15)
    out = kl.update(controller, observed, 256, target=6.0, horizon=jnp.inf)
    checks.same(out, controller)


def test_a_nan_observation_changes_nothing():
    checks.same(kl.update(kl.init(0.15), jnp.nan, 256, **ZIEGLER), kl.init(0.15))


def test_update_is_traced_once_over_targets_and_horizons():
    traces = []

    @jax.jit
    def compiled(controller, observed, target, horizon):
        traces.append(1)
        return kl.update(controller, observed, 8, target=target, horizon=horizon)

    for target, horizon in ((6.0, 1e4), (1.0, 1e3), (6.0, np.inf)):
        eager = kl.update(kl.init(0.1), 2.0, 8, target=target, horizon=horizon)
        close(compiled(kl.init(0.1), 2.0, target, horizon).coef, eager.coef)
    assert len(traces) == 1


def test_proportional_by_hand():
    """RL4LMs: 0.1 of the error, clipped at ±0.2, so 2% an iteration at most."""
    close(kl.proportional(kl.init(0.5), 0.55, target=0.5).coef, 0.5 * 1.01)
    close(kl.proportional(kl.init(0.5), 9.0, target=0.5).coef, 0.5 * 1.02)
    close(kl.proportional(kl.init(0.5), 0.0, target=0.5).coef, 0.5 * 0.98)


@examples
@given(st.floats(-1, 5), st.floats(0.1, 5))
def test_proportional_matches_the_formula_within_two_percent(observed, target):
    out = float(kl.proportional(kl.init(0.1), observed, target=target).coef)
    close(out, 0.1 * (1 + 0.1 * np.clip((observed - target) / target, -0.2, 0.2)), 1e-5)
    assert 0.0979 < out < 0.1021
