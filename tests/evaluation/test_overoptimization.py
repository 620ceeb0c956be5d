"""overoptimization: fits against closed forms and numpy, onsets on drawn curves."""

import checks
import numpy as np
import pytest
from checks import close
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize

from rlhf_jax.evaluation import overoptimization as gao

D = np.linspace(0.3, 4.0, 24)
FORMS = {gao.BEST_OF_N: gao.fit_best_of_n, gao.RL: gao.fit_rl}


def best_of_n(d, alpha, beta):
    return d * (alpha - beta * d)


def rl(d, alpha, beta):
    return d * (alpha - beta * np.log(d))


def test_best_of_n_with_the_coefficients_of_the_smallest_proxy():
    """Gao et al.'s 3M reward model: α 0.49, β 0.12 peak at d = 2.04 with R = 0.50."""
    fit = gao.fit_best_of_n(D, best_of_n(D, 0.49, 0.12))
    close((fit.alpha, fit.beta, fit.r2), (0.49, 0.12, 1.0), rtol=1e-10)
    close((fit.peak, fit.zero), (0.49 / 0.24, 0.49 / 0.12), rtol=1e-10)
    close(fit.reward_at_peak, 0.49**2 / 0.48, rtol=1e-10)
    close(fit.deviation, 0.0, atol=1e-12)
    close(fit.predict([0.0, 1.0, fit.peak]), [0.0, 0.37, fit.reward_at_peak])


def test_rl_with_a_peak_at_one():
    """α = β puts the peak at d = 1, where R = β, and the zero at e."""
    fit = gao.fit_rl(D, rl(D, 0.2, 0.2))
    close((fit.alpha, fit.beta, fit.peak, fit.reward_at_peak), (0.2, 0.2, 1.0, 0.2))
    close(fit.zero, np.e)
    close(fit.predict([0.0, np.e]), [0.0, 0.0], atol=1e-12)


@pytest.mark.parametrize("rounds", [2, 5])
def test_iterated_rounds_are_one_round_repeated(rounds):
    """R_k(d) = k·R(d/k): the peak is k times as far and as high."""
    once = gao.fit_rl(D, rl(D, 0.4, 0.3))
    paper = D * (0.4 - 0.3 * np.log(D) + 0.3 * np.log(rounds))
    fit = gao.fit_rl(D, paper, rounds=rounds)
    close((fit.alpha, fit.beta), (0.4, 0.3))
    close(fit.predict(D), paper)
    close(fit.predict(rounds * D), rounds * once.predict(D))
    close(fit.peak, rounds * once.peak)
    close(fit.reward_at_peak, rounds * once.reward_at_peak)
    close(fit.zero, rounds * once.zero)


@pytest.mark.parametrize("form", FORMS)
def test_a_fit_is_the_least_squares_of_scipy(rng, form):
    function = {gao.BEST_OF_N: best_of_n, gao.RL: rl}[form]
    reward = function(D, 0.5, 0.2) + 0.05 * rng.normal(size=len(D))
    fit = FORMS[form](D, reward)
    expected, _ = optimize.curve_fit(function, D, reward, (0.1, 0.1))
    close((fit.alpha, fit.beta), expected, rtol=1e-5)
    residuals = reward - function(D, fit.alpha, fit.beta)
    close(fit.deviation, (residuals @ residuals / (len(D) - 2)) ** 0.5)
    close(fit.r2, 1 - residuals.var() / reward.var() - residuals.mean() ** 2
          / reward.var())  # fmt: skip
    fine = np.linspace(0.01, 20, 200_001)
    close(fit.peak, fine[fit.predict(fine).argmax()], rtol=0, atol=1e-3)
    close(fit.predict(fit.zero), 0.0, atol=1e-9)


@checks.examples
@given(st.floats(0.1, 10), st.floats(0.1, 10), st.sampled_from([*FORMS]))
def test_fits_scale_with_reward_and_do_not_care_for_order(stretch, rise, form):
    rng = np.random.default_rng(0)
    reward = best_of_n(D, 0.5, 0.1) + 0.02 * rng.normal(size=len(D))
    order = rng.permutation(len(D))
    one, fit = FORMS[form](D, reward), FORMS[form]
    more = fit(D[order], rise * reward[order])
    close((more.alpha, more.beta), (rise * one.alpha, rise * one.beta), rtol=1e-9)
    close((more.peak, more.r2), (one.peak, one.r2), rtol=1e-9)
    wide = fit(stretch * D, reward)
    close(wide.peak, stretch * one.peak, rtol=1e-7)
    close(wide.reward_at_peak, one.reward_at_peak, rtol=1e-7)


def test_the_right_form_fits_better_and_extrapolates_better():
    for truth, form, wrong in (
        (best_of_n, gao.BEST_OF_N, gao.RL),
        (rl, gao.RL, gao.BEST_OF_N),
    ):
        reward = truth(D, 0.6, 0.2)
        assert FORMS[form](D, reward).r2 > FORMS[wrong](D, reward).r2
        right = gao.extrapolation(D, reward, form=form)
        other = gao.extrapolation(D, reward, form=wrong)
        close(right.error, 0.0, atol=1e-9)
        assert other.relative > 0.1
        assert right.fitted == right.held_out == 12


def test_extrapolation_by_hand():
    """Fitted at 1 and 2 to d, it misses 0 at 3 and 2 at 4 by 3 and 2."""
    found = gao.extrapolation([4.0, 1.0, 2.0, 3.0], [2.0, 1.0, 2.0, 0.0], form="rl")
    close((found.fit.alpha, found.fit.beta), (1.0, 0.0), atol=1e-12)
    close(found.error, (13 / 2) ** 0.5)
    close(found.relative, (13 / 2) ** 0.5 / 1.0)


def test_a_curve_that_does_not_decline_has_no_peak():
    for form, fit in FORMS.items():
        found = fit(D, best_of_n(D, 0.1, -0.2))
        assert found.form == form and found.beta < 0
        assert found[-3:] == (np.inf,) * 3
    falling = gao.fit_best_of_n(D, best_of_n(D, -0.1, 0.2))
    assert falling[-3:] == (0.0, pytest.approx(0.0, abs=0.02), 0.0)
    assert np.isnan(gao.fit_rl(D, np.zeros(len(D))).r2)
    assert np.isnan(gao.fit_rl([1.0, 2.0], [1.0, 2.0]).deviation)


def test_intervals_over_curves_and_over_residuals(rng):
    curves = best_of_n(D, 0.5, 0.12) + 0.1 * rng.normal(size=(10, 1)) * D
    found = gao.interval(D, curves, form=gao.BEST_OF_N)
    assert (found.resampled, found.without_peak) == ("curves", 0.0)
    fit = gao.fit_best_of_n(np.tile(D, 10), curves.ravel())
    for name in ("alpha", "beta", "peak", "reward_at_peak"):
        value, low, high = getattr(found, name)
        close(value, getattr(fit, name))
        assert low <= value + 1e-9 and high >= value - 1e-9
    # All noise is in the slope of a curve, of which α is the mean over 10.
    expected = np.std([gao.fit_best_of_n(D, c).alpha for c in curves]) / 10**0.5
    assert found.alpha.high - found.alpha.low == pytest.approx(3.92 * expected, rel=0.1)
    one = gao.interval(D, curves[0] + 0.01 * rng.normal(size=len(D)), form="best_of_n")
    assert one.resampled == "residuals"
    assert one.alpha.low < one.alpha.value < one.alpha.high


def test_the_interval_of_residuals_is_as_wide_as_theory_says(rng):
    """√diag((XᵀX)⁻¹)·s, times 1.96 on both sides."""
    reward = rl(D, 0.5, 0.2) + 0.05 * rng.normal(size=len(D))
    found = gao.interval(D, reward, form=gao.RL, draws=4000)
    columns = np.stack([D, -D * np.log(D)], axis=1)
    error = np.sqrt(np.diag(np.linalg.inv(columns.T @ columns)))
    error *= gao.fit_rl(D, reward).deviation
    for name, expected in zip(("alpha", "beta"), error, strict=True):
        value, low, high = getattr(found, name)
        assert (high - low) / 3.92 == pytest.approx(expected, rel=0.1)
        assert low < value < high


def test_draws_without_a_decline_are_counted(rng):
    noisy = 0.3 * D + rng.normal(size=(6, 1)) * D**2
    found = gao.interval(D, noisy, form=gao.BEST_OF_N)
    assert 0.025 < found.without_peak < 1
    assert found.peak.high == found.reward_at_peak.high == np.inf
    expected = [gao.fit_best_of_n(D, curve).beta for curve in noisy]
    means = np.random.default_rng(1).choice(expected, (2000, 6)).mean(1)
    assert abs(np.mean(means <= 0) - found.without_peak) < 0.06


def test_onset_is_where_gold_turns():
    d = np.arange(12.0)
    gold = np.minimum(d, 10 - d)  # up to d = 5
    assert gao.onset(d, d, gold) == 6.0
    order = np.random.default_rng(0).permutation(12)
    assert gao.onset(d[order], d[order], gold[order]) == 6.0
    assert gao.onset(10 * d, d, gold) == 60.0
    assert gao.onset(d, d, gold, window=7) == 6.0


def test_no_onset_without_a_decline_or_without_a_rising_proxy():
    d = np.arange(12.0)
    gold = np.minimum(d, 10 - d)
    assert gao.onset(d, d, d) is None
    assert gao.onset(d, gold, gold) is None  # the policy collapsed: no Goodhart
    assert gao.onset(d, d, d - (d == 6) * 3, looks=2) is None  # one low look
    # First a collapse and a recovery, then hacking.
    gold = np.array([0, 2, 4, 2, 0, 2, 4, 6, 8, 6, 4, 2.0])
    proxy = np.where(d <= 8, gold, gold[8] + (d - 8))
    assert gao.onset(d, proxy, gold) == 9.0


def test_a_decline_within_the_errors_is_none():
    d = np.arange(12.0)
    gold = np.minimum(d, 5.0) - 0.1 * np.maximum(d - 5, 0)  # falls by 0.6 to the end
    assert gao.onset(d, d, gold, errors=0.1) == 6.0
    assert gao.onset(d, d, gold, errors=0.2) == 6.0
    assert gao.onset(d, d, gold, errors=0.26) is None  # 0.5 and 0.6, but 2 SE are 0.52
    assert gao.onset(d, d, gold, errors=0.26, looks=1) == 6.0
    assert gao.onset(d, d, gold, errors=np.full(12, 0.26), drop=1.0) == 6.0


def test_a_plateau_of_noise_has_the_onsets_that_are_documented(rng):
    """72% of runs where the luckiest look is the peak, 15% where others find it."""
    runs, d = 200, np.arange(20.0)
    for share, other in ((0.72, False), (0.15, True)):
        found = 0
        for gold, half in rng.normal(size=(runs, 2, 20)):
            by = half if other else None
            found += gao.onset(d, d, gold, errors=1.0, peak_by=by) is not None
        assert abs(found / runs - share) < 4 * (share * (1 - share) / runs) ** 0.5


def test_lag_and_regret_by_hand():
    steps, proxy, gold = [0, 10, 20, 30], [0, 1, 2, 3], [0, 4, 5, 1]
    assert gao.peak_lag(steps, proxy, gold) == -10.0
    assert gao.peak_lag(steps[::-1], proxy[::-1], gold[::-1]) == -10.0
    assert gao.peak_lag(steps, [0, 3, 3, 3], gold) == 10.0
    assert gao.selection_regret(proxy, gold) == 4.0
    assert gao.selection_regret(gold, gold) == 0.0
    assert gao.selection_regret([1, 1, 1, 1], gold) == 5.0


def test_split_half_regret_by_hand():
    """A: proxy takes 2, gold 1, valued on B at 3 and 7; B: proxy 0, gold 1, on A."""
    select_by = [[0, 1, 2], [5, 1, 2]]
    outcome = [[2, 6, 1], [1, 7, 3]]
    assert gao.split_half_regret(select_by, outcome) == ((7 - 3) + (6 - 2)) / 2
    assert gao.split_half_regret(outcome, outcome) == 0.0


def test_regret_on_noise_is_flattered_and_split_halves_are_not(rng):
    """Checkpoints that are all alike: nothing is lost by any choice."""
    naive, split = [], []
    for _ in range(300):
        select_by, outcome = rng.normal(size=(2, 2, 20))
        naive.append(gao.selection_regret(select_by[0], outcome[0]))
        split.append(gao.split_half_regret(select_by, outcome))
    assert np.mean(naive) > 1.5
    assert abs(np.mean(split)) < 4 * np.std(split) / 300**0.5


def test_the_proxy_gap_by_hand():
    """Gold 1 throughout, proxy 1 + KL from 0 to 2: ∫KL = 2 over ∫1 = 2."""
    kl = np.array([2.0, 0.0, 1.0])
    assert gao.proxy_gap(np.ones(3), 1 + kl, kl) == pytest.approx(1.0)
    assert gao.proxy_gap([0, 1.0], [0, 1.0], [0, 3.0]) == 0.0


def test_the_proxy_gap_is_the_integral_of_scipy(rng):
    from scipy import integrate

    kl, gold, proxy = np.sort(rng.random(9)), rng.random(9), rng.random(9)
    expected = integrate.trapezoid(abs(gold - proxy), kl) / integrate.trapezoid(
        gold, kl
    )
    assert gao.proxy_gap(gold, proxy, kl) == pytest.approx(expected, rel=1e-12)
    scaled = gao.proxy_gap(3 * gold, 3 * proxy, 7 * kl)
    assert scaled == pytest.approx(expected, rel=1e-12)


def test_the_slope_of_the_gap_is_that_of_polyfit(rng):
    d, proxy, gold = rng.random((3, 9))
    expected = np.polyfit(d, proxy - gold, 1)[0]
    assert gao.gap_slope(d, proxy, gold) == pytest.approx(expected, rel=1e-9)
    assert gao.gap_slope([0, 1, 2], [0, 3, 6], [0, 1, 2]) == pytest.approx(2.0)
    assert np.isnan(gao.gap_slope([1, 1], [0, 3], [0, 1]))


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match="two distances above 0"):
        gao.fit_best_of_n([0.0, 1.0, 1.0], [0, 1, 2])
    with pytest.raises(ValueError, match="look 1 has d=-1"):
        gao.fit_rl([1.0, -1.0, 2.0], [0, 1, 2])
    with pytest.raises(ValueError, match="look 2 has d=2, reward=nan"):
        gao.fit_rl([1.0, 1.0, 2.0], [0, 1, np.nan])
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        gao.fit_rl([1.0, 1.0, 2.0], [0, 1])
    with pytest.raises(ValueError, match="rounds=0"):
        gao.fit_rl(D, D, rounds=0)
    with pytest.raises(ValueError, match="got 'ppo'"):
        gao.extrapolation(D, D, form="ppo")
    with pytest.raises(ValueError, match="holds 1 look"):
        gao.extrapolation([1.0, 2.0, 10.0], [1, 2, 3], form="rl")
    with pytest.raises(ValueError, match="2 looks at one run"):
        gao.interval([1.0, 2.0], [1.0, 2.0], form="rl")


def test_what_is_no_series_is_refused():
    with pytest.raises(ValueError, match="gold of look 1 is nan"):
        gao.onset([0, 1], [0, 1], [0, np.nan])
    with pytest.raises(ValueError, match=r"proxy of shape \(3,\) for 2 looks"):
        gao.peak_lag([0, 1], [0, 1, 2], [0, 1])
    with pytest.raises(ValueError, match="at least one; got shape"):
        gao.selection_regret([], [])
    with pytest.raises(ValueError, match="looks=2, window=4"):
        gao.onset(D, D, D, window=4)
    with pytest.raises(ValueError, match="integral of gold over KL 0 to 1 is -0.5"):
        gao.proxy_gap([0, -1], [0, 1], [0, 1])
