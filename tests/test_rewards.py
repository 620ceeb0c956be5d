"""rewards: scores on tokens, their terms and their scales."""

import checks
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checks import close, examples
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlhf_jax import masking, rewards

SHAPE = (4, 6)
scores_ = checks.floats(SHAPE[0])
masks = checks.masks(SHAPE)
SHAPED = {"kl_regularized": rewards.kl_regularized, "lee": rewards.lee}
SHAPED |= {"chi2_regularized": rewards.chi2_regularized}
KL = ("kl_regularized", "lee")


@pytest.fixture
def scores(rng):
    return rng.normal(size=SHAPE[0]).astype(np.float32)


@pytest.fixture
def policy(rng):
    return -rng.exponential(size=SHAPE).astype(np.float32)


@pytest.fixture
def reference(policy):
    return policy[::-1].copy()


def shaped_loop(scores, policy, reference, mask, beta, scale=1.0):
    """The definition, one token at a time, in float64."""
    out = np.zeros(mask.shape)
    for b, row in enumerate(mask):
        valid = [t for t in range(len(row)) if row[t]]
        for t in valid:
            out[b, t] = -beta * (float(policy[b, t]) - float(reference[b, t]))
        if valid:
            out[b, valid[-1]] += scale * scores[b]
    return out


def test_at_last_by_hand():
    mask = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 0]])
    out = rewards.at_last(np.array([0.5, -2.0, 7.0]), mask)
    np.testing.assert_array_equal(out, [[0, 0.5, 0], [0, 0, -2.0], [0, 0, 0]])


def test_at_last_keeps_the_fractions_of_integer_masks_and_scores():
    out = rewards.at_last(np.array([0.25]), np.array([[1, 1]], np.int8))
    assert out.dtype == jnp.float32 and out[0, 1] == 0.25
    assert rewards.at_last(np.array([3]), np.array([[1, 1]])).dtype == jnp.float32


@examples
@given(scores_, masks)
def test_at_last_is_the_loop_and_sums_to_the_score(scores, mask):
    out = rewards.at_last(scores, mask)
    zeros = np.zeros(SHAPE)
    np.testing.assert_array_equal(out, shaped_loop(scores, zeros, zeros, mask, 0.0))
    np.testing.assert_array_equal(out.sum(1), np.where(mask.any(1), scores, 0))


def test_at_last_ignores_the_score_of_an_empty_row():
    out = rewards.at_last(np.array([np.nan, 1.0]), np.array([[0, 0], [1, 0]]))
    np.testing.assert_array_equal(out, [[0, 0], [1, 0]])


def test_kl_regularized_by_hand():
    p, r = np.log([[0.5, 0.5, 0.5]]), np.log([[0.25, 0.5, 0.125]])
    out = rewards.kl_regularized(np.array([1.0]), p, r, np.array([[1, 1, 0]]), beta=0.5)
    close(out, [[-0.5 * np.log(2), 1.0, 0.0]])


def test_lee_by_hand():
    p, r = np.log([[0.5, 0.5, 0.5]]), np.log([[0.25, 0.5, 0.125]])
    out = rewards.lee(np.array([1.0]), p, r, np.array([[1, 1, 0]]), beta=0.25)
    close(out, [[-0.25 * np.log(2), 0.75, 0.0]])


@pytest.mark.parametrize("beta", [0.0, 0.05, 1.0])
def test_shaped_rewards_are_the_loop(beta, scores, policy, reference):
    mask = checks.ragged()
    args = (scores, policy, reference, mask)
    expected = shaped_loop(*args, beta)
    close(rewards.kl_regularized(*args, beta=beta), expected, 1e-5, 1e-6)
    expected = shaped_loop(*args, beta, scale=1 - beta)
    close(rewards.lee(*args, beta=beta), expected, 1e-5, 1e-6)


@examples
@given(scores_, masks, st.floats(0, 0.5))
def test_without_drift_only_the_score_is_left(scores, mask, beta):
    logps = np.full(SHAPE, -1.0, np.float32)
    out = rewards.kl_regularized(scores, logps, logps, mask, beta=beta)
    np.testing.assert_array_equal(out, rewards.at_last(scores, mask))
    out = rewards.lee(scores, logps, logps, mask, beta=beta)
    close(out, (1 - beta) * rewards.at_last(scores, mask), 1e-6, 1e-6)


def test_lee_is_the_other_objective_at_another_beta(scores, policy, reference):
    mask, beta = checks.ragged(), 0.2
    ours = rewards.kl_regularized(
        scores, policy, reference, mask, beta=beta / (1 - beta)
    )
    lee = rewards.lee(scores, policy, reference, mask, beta=beta)
    close(lee, (1 - beta) * ours, 1e-5, 1e-6)


@pytest.mark.parametrize("name", SHAPED)
def test_junk_reaches_neither_value_nor_gradient(name, scores, policy, reference):
    mask = checks.ragged()
    checks.assert_ignores(
        lambda p, r: SHAPED[name](scores, p, r, mask, beta=0.1),
        [policy, reference],
        mask,
    )


def test_chi2_regularized_by_hand():
    """z = 2, 1, 4 against log z = log 2, 0, log 4."""
    p, r = np.log([[0.5, 0.5, 0.5]]), np.log([[0.25, 0.5, 0.125]])
    args = (np.array([1.0]), p, r, np.array([[1, 1, 0]]))
    out = rewards.chi2_regularized(*args, beta=0.5)
    close(out, [[-0.5, 1.0, 0.0]])
    out = rewards.chi2_regularized(*args, beta=0.5, weight=0.5)
    close(out, [[-0.25 * (np.log(2) + 1), 1.0, 0.0]])


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_chi2_regularized_is_the_loop(weight, scores, policy, reference):
    mask = checks.ragged()
    expected = np.zeros(mask.shape)
    for b, row in enumerate(mask):
        for t in np.flatnonzero(row):
            gap = float(policy[b, t]) - float(reference[b, t])
            expected[b, t] = -0.2 * ((1 - weight) * gap + weight * (np.exp(gap) - 1))
        if row.any():
            expected[b, np.flatnonzero(row)[-1]] += scores[b]
    args = (scores, policy, reference, mask)
    out = rewards.chi2_regularized(*args, beta=0.2, weight=weight)
    close(out, expected, 1e-5, 1e-6)


def test_without_weight_chi2_is_kl_bit_for_bit(scores, policy, reference):
    args = (scores, policy, reference, checks.ragged())
    traced = jax.jit(lambda w: rewards.chi2_regularized(*args, beta=0.1, weight=w))
    checks.same(traced(0.0), jax.jit(rewards.kl_regularized)(*args, beta=0.1))


def test_chi2_punishes_what_the_reference_hardly_draws_and_hands_on_its_slope(
    scores, policy, reference
):
    """To first order it is KL's; its slope β·z grows with the ratio."""
    mask = checks.ragged()

    def total(p, r):
        return rewards.chi2_regularized(scores, p, r, mask, beta=0.1).sum()

    to_policy, to_reference = jax.grad(total, argnums=(0, 1))(policy, reference)
    close(to_policy, -0.1 * mask * np.exp(policy - reference), 1e-5, 1e-6)
    np.testing.assert_array_equal(to_reference, np.zeros(SHAPE))


def test_bounded_by_hand():
    """At a bound of 2 it is 4·(σ(s) − ½); far out it is the bound."""
    scores = np.array([0.0, 1.0, -3.0])
    sigmoid = 1 / (1 + np.exp(-scores))
    close(rewards.bounded(scores, bound=2.0), 4 * (sigmoid - 0.5))
    close(rewards.bounded(np.array([1e4, -1e4]), bound=0.5), [0.5, -0.5])
    close(jax.grad(lambda s: rewards.bounded(s, bound=3.0))(0.0), 1.0)


@examples
@given(scores_, st.floats(0.125, 8, width=32))
def test_bounded_scores_keep_their_order_and_never_pass_the_bound(scores, bound):
    out = np.asarray(rewards.bounded(scores, bound=bound))
    close(out, bound * np.tanh(scores.astype(np.float64) / bound), 1e-5, 1e-6)
    assert (np.abs(out) <= bound).all()
    assert (np.diff(out[np.argsort(scores, kind="stable")]) >= 0).all()


def test_no_bound_changes_nothing_bit_for_bit(scores):
    traced = jax.jit(lambda s, b: rewards.bounded(s, bound=b))
    scores[0] = np.inf  # a score that broke is shown as what it is
    checks.same(traced(scores, np.inf), jnp.asarray(scores))
    assert np.isfinite(jax.grad(lambda s: rewards.bounded(s, bound=np.inf))(0.5))


@pytest.mark.parametrize("name", KL)
def test_gradient_is_beta_at_valid_tokens_and_none_for_the_reference(
    name, scores, policy, reference
):
    mask = checks.ragged()

    def total(p, r):
        return SHAPED[name](scores, p, r, mask, beta=0.1).sum()

    to_policy, to_reference = jax.grad(total, argnums=(0, 1))(policy, reference)
    close(to_policy, -0.1 * mask)
    np.testing.assert_array_equal(to_reference, np.zeros(SHAPE))


def test_at_last_hands_its_gradient_to_the_score(scores):
    grad = jax.grad(lambda s: rewards.at_last(s, checks.ragged()).sum())(scores)
    np.testing.assert_array_equal(grad, [1, 1, 0, 1])


def test_more_padding_changes_nothing(scores, policy, reference):
    mask = checks.ragged()
    wide = [np.pad(x, ((0, 0), (0, 2))) for x in (policy, reference, mask)]
    for fn in SHAPED.values():
        short = fn(scores, policy, reference, mask, beta=0.1)
        np.testing.assert_array_equal(fn(scores, *wide, beta=0.1)[:, :6], short)


def test_missing_eos_replaces_or_subtracts():
    scores, ended = np.array([0.7, 0.7, -3.0]), np.array([True, False, False])
    replaced = rewards.missing_eos(scores, ended, penalty=1.0)
    close(replaced, [0.7, -1.0, -1.0])
    subtracted = rewards.missing_eos(scores, ended, penalty=1.0, mode="subtract")
    close(subtracted, [0.7, -0.3, -4.0])


@pytest.mark.parametrize("mode", ["replace", "subtract"])
def test_missing_eos_reads_the_size_of_the_penalty_only(mode, scores):
    ended = np.array([True, False, False, True])
    plus = rewards.missing_eos(scores, ended, penalty=1.0, mode=mode)
    minus = rewards.missing_eos(scores, ended, penalty=-1.0, mode=mode)
    checks.same(plus, minus)


@examples
@given(scores_, hnp.arrays(bool, SHAPE[0]), st.floats(0, 5))
def test_missing_eos_never_pays(scores, ended, penalty):
    kept = np.where(ended, scores, scores - np.float32(penalty))
    out = rewards.missing_eos(scores, ended, penalty=penalty, mode="subtract")
    close(out, kept, 1e-6, 1e-6)
    assert (np.asarray(out) <= scores).all()
    floor = np.abs(scores).max() + penalty
    out = rewards.missing_eos(scores, ended, penalty=floor)
    assert (np.asarray(out)[~ended] <= scores.min()).all()


def test_missing_eos_names_an_unknown_mode(scores):
    with pytest.raises(ValueError, match="'add'"):
        rewards.missing_eos(scores, scores > 0, penalty=1.0, mode="add")


def test_length_penalty_counts_tokens_beyond_the_free_ones():
    mask = np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]])
    out = rewards.length_penalty(np.ones(3), mask, weight=0.25, free=1)
    np.testing.assert_array_equal(out, [0.5, 1.0, 1.0])


@examples
@given(scores_, masks, st.floats(0, 2), st.integers(0, 6))
def test_length_penalty_is_the_loop_and_never_pays(scores, mask, weight, free):
    lengths = [sum(int(m) for m in row) for row in mask]
    expected = [
        s - weight * max(n - free, 0) for s, n in zip(scores, lengths, strict=True)
    ]
    out = rewards.length_penalty(scores, mask, weight=weight, free=free)
    close(out, expected, 1e-5, 1e-5)
    assert (np.asarray(out) <= scores).all()


def test_fit_by_hand():
    affine = rewards.fit(np.array([1.0, 3.0]))
    close(affine.gain, 1.0)
    close(affine.bias, -2.0)
    affine = rewards.fit(np.array([2.0, 6.0]))
    close(rewards.apply(affine, np.array([2.0, 6.0, 8.0])), [-1.0, 1.0, 2.0])


def test_fit_of_the_bias_alone_keeps_the_gain():
    affine = rewards.fit(np.array([2.0, 6.0]), unit_std=False)
    assert affine.gain == 1.0 and affine.bias == -4.0


@examples
@given(scores_)
def test_fitted_scores_have_mean_0_and_std_1(scores):
    scores = scores + np.arange(4, dtype=np.float32)  # never all equal
    if scores.std() < 1e-2:
        return
    out = np.asarray(rewards.apply(rewards.fit(scores), scores), np.float64)
    close(out, (scores - scores.mean()) / scores.std(), 1e-3, 1e-3)
    close(out.mean(), 0.0, atol=1e-4)
    close(out.std(), 1.0, 1e-4)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_equal_scores_keep_their_gain(value):
    affine = rewards.fit(np.full(10, value, np.float32))
    assert affine.gain == 1.0
    close(affine.bias, -value, 1e-6)


def test_fit_ignores_masked_scores(scores):
    mask = np.array([1, 0, 1, 1])
    for junk in checks.JUNK:
        dirty = np.where(mask, scores, junk)
        checks.same(rewards.fit(dirty, mask), rewards.fit(scores, mask))
    close(rewards.fit(scores, mask).bias, rewards.fit(scores[mask == 1]).bias, 1e-5)


def test_fit_over_devices_is_fit_on_one(scores):
    split = jax.vmap(
        lambda s: rewards.fit(s[None], axis_name=checks.AXIS), axis_name=checks.AXIS
    )(scores)
    whole = rewards.fit(scores)
    close(split.gain, np.full(4, whole.gain), 1e-5)
    close(split.bias, np.full(4, whole.bias), 1e-5)


def test_an_ensemble_has_a_scale_a_member(rng):
    scores = rng.normal(size=(3, 8)) * [[1], [10], [100]] + [[0], [5], [-7]]
    affine = rewards.fit(scores)
    for e in range(3):
        alone = rewards.fit(scores[e])
        close(affine.gain[e], alone.gain, 1e-5)
        close(affine.bias[e], alone.bias, 1e-5)
    out = np.asarray(rewards.apply(affine, scores))
    close(out.mean(1), np.zeros(3), atol=1e-5)
    close(out.std(1), np.ones(3), 1e-5)


def test_apply_gradient_is_the_gain(scores):
    affine = rewards.Affine(jnp.float32(3.0), jnp.float32(1.0))
    grad = jax.grad(lambda s: rewards.apply(affine, s).sum())(scores)
    np.testing.assert_array_equal(grad, np.full(4, 3.0))


def test_whiten_keeps_the_mean(policy):
    mask = checks.ragged()
    out = rewards.whiten(policy, mask)
    close(masking.mean(out, mask), masking.mean(policy, mask), 1e-5)
    close(masking.var(out, mask), 1.0, 1e-5)


def test_whiten_is_the_float64_formula_and_zero_where_ignored(policy):
    mask = checks.ragged()
    valid = policy[mask == 1].astype(np.float64)
    scaled = (policy - valid.mean()) / np.sqrt(valid.var() + 1e-8) + valid.mean()
    close(rewards.whiten(policy, mask), np.where(mask, scaled, 0), 1e-5, 1e-6)
    checks.assert_ignores(lambda x: rewards.whiten(x, mask), [policy], mask)
    checks.assert_gradients(lambda x: rewards.whiten(x, mask), policy)


def test_jit_is_eager(scores, policy, reference):
    mask = checks.ragged()
    for fn in SHAPED.values():
        eager = fn(scores, policy, reference, mask, beta=0.1)
        close(jax.jit(fn)(scores, policy, reference, mask, beta=0.1), eager)
    close(jax.jit(rewards.fit)(scores).gain, rewards.fit(scores).gain)
