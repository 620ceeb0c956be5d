"""correlation: against scipy, against resampling by hand, and by coverage."""

import checks
import numpy as np
import pytest
from checks import close
from hypothesis import given
from scipy import stats

from rlhf_jax.evaluation import correlation

SCIPY = {
    "pearson": stats.pearsonr,
    "spearman": stats.spearmanr,
    "kendall": stats.kendalltau,
}


def of(name):
    return getattr(correlation, name)


@pytest.mark.parametrize("name", SCIPY)
def test_correlations_are_those_of_scipy_ties_included(rng, name):
    x, y = rng.integers(0, 6, (2, 40)).astype(float)
    found = of(name)(x, y)
    close(found.value, SCIPY[name](x, y).statistic, rtol=1e-12)
    assert found.n == 40
    changes = of(name)(x, y, differences=True)
    close(changes.value, SCIPY[name](np.diff(x), np.diff(y)).statistic, rtol=1e-9)
    assert changes.n == 39


def test_correlations_by_hand():
    """3 of 6 pairs agree more than disagree: τ = (4 − 2)/6; ranks 1 2 3 4, 2 1 4 3."""
    x, y = [1, 2, 3, 4], [2, 1, 4, 3]
    close(correlation.kendall(x, y).value, 2 / 6)
    close(correlation.spearman(x, y).value, 1 - 6 * 4 / (4 * 15))
    close(correlation.pearson(x, y).value, 0.6)


@checks.examples
@given(checks.floats((2, 8)))
def test_correlations_are_symmetric_bounded_and_odd(pair):
    x, y = pair.astype(np.float64)
    for name in SCIPY:
        with np.errstate(all="ignore"):
            value = of(name)(x, y).value
            turned, mirrored = of(name)(y, x).value, of(name)(-x, y).value
        if np.isnan(value):
            assert np.isnan(turned) and np.isnan(mirrored)
            continue
        assert -1 - 1e-12 <= value <= 1 + 1e-12
        close(turned, value, atol=1e-12)
        close(mirrored, -value, atol=1e-12)


@pytest.mark.parametrize("name", SCIPY)
def test_a_constant_series_has_no_correlation(name):
    rising = np.arange(6) * 0.1
    assert np.isnan(of(name)(np.ones(6), rising).value)
    # Equal steps: their differences differ by rounding alone.
    assert np.isnan(of(name)(rising, rising**2, differences=True).value)
    assert of(name)([1, 2], [1, 2]) == pytest.approx((np.nan, 2), nan_ok=True)
    assert of(name)([], []) == pytest.approx((np.nan, 0), nan_ok=True)


def test_looks_without_a_value_are_left_out(rng):
    x, y = rng.normal(size=(2, 12))
    dirty = np.append(x, [np.nan, 1.0, np.inf]), np.append(y, [1.0, np.nan, 0.0])
    for name in SCIPY:
        assert of(name)(*dirty) == of(name)(x, y)
    x[5] = np.nan  # takes two differences with it
    known = np.delete(np.diff(x), [4, 5]), np.delete(np.diff(y), [4, 5])
    found = correlation.pearson(x, y, differences=True)
    close(found.value, stats.pearsonr(*known).statistic)
    assert found.n == 9


@pytest.mark.parametrize("name", SCIPY)
def test_resampled_correlations_are_those_of_the_resampled_series(rng, name):
    """Blocks of the whole series are the series; of ℓ, the quantiles of the loop."""
    x, y = rng.integers(0, 9, (2, 11)).astype(float)
    whole = correlation.block_interval(x, y, statistic=name, block=11, draws=3)
    close(whole[:3], [of(name)(x, y).value] * 3, rtol=1e-12)
    found = correlation.block_interval(x, y, statistic=name, block=4, draws=50, seed=1)
    starts = np.random.default_rng(1).integers(0, 8, (50, 3))
    drawn = []
    for row in starts:
        index = np.concatenate([np.arange(s, s + 4) for s in row])[:11]
        drawn.append(SCIPY[name](x[index], y[index]).statistic)
    close(found[1:3], np.quantile(drawn, [0.025, 0.975]), rtol=1e-9)


def test_the_length_of_a_block_is_the_cube_root(rng):
    for n, expected in ((8, 2), (9, 3), (27, 3), (28, 4), (64, 4)):
        x, y = rng.normal(size=(2, n))
        found = correlation.block_interval(x, y, draws=10)
        assert (found.n, found.block) == (n, expected)
    assert correlation.block_interval(x, y, differences=True, draws=10).n == 63
    nothing = correlation.block_interval(x, np.ones(64))
    assert np.isnan(nothing[:3]).all() and nothing.n == 64


def test_a_draw_without_a_correlation_says_nothing():
    """Looks 0, 1 and 0 or 1 again have a constant x; 1, 2, 0 are the whole series."""
    x, y = [0, 0, 1], [1, 0, 0]
    found = {
        correlation.block_interval(x, y, statistic="pearson", draws=1, seed=seed)[1:3]
        for seed in range(20)
    }
    assert (-1.0, 1.0) in found and len(found) > 1
    many = correlation.block_interval(x, y, statistic="pearson")
    assert -1 <= many.low <= many.high <= 1


def coverage(n, persistence, runs, draws, **options):
    """The share of 95% intervals that hold the correlation of two AR(1) series."""
    hits, truth = 0, 0.6
    for seed in range(runs):
        noise = np.random.default_rng(seed).normal(size=(2, n + 30))
        noise[1] = truth * noise[0] + (1 - truth**2) ** 0.5 * noise[1]
        series = np.zeros_like(noise)
        for t in range(1, n + 30):
            series[:, t] = persistence * series[:, t - 1] + noise[:, t]
        found = correlation.block_interval(
            *series[:, 30:], statistic="pearson", draws=draws, **options
        )
        hits += found.low <= truth <= found.high
    return hits / runs


def test_intervals_cover_about_what_is_documented():
    """87% of 95%; at the 4 standard errors of 100 runs."""
    assert coverage(40, 0.5, 100, 200) > 0.87 - 4 * (0.87 * 0.13 / 100) ** 0.5


@pytest.mark.slow
def test_blocks_cover_what_single_looks_do_not():
    by_blocks = coverage(200, 0.6, 400, 400)
    one_by_one = coverage(200, 0.6, 400, 400, block=1)
    assert by_blocks > 0.89 > 0.87 > one_by_one


def test_the_mean_of_runs_by_hand():
    """atanh ½ = ½ log 3; two equal runs and a third that has no correlation."""
    found = correlation.fisher_mean([0.5, 0.5, np.nan])
    close(found[:3], (0.5, 0.5, 0.5))
    assert (found.runs, found.missing) == (2, 1)
    assert correlation.fisher_mean([0.3])[1:3] == (-1.0, 1.0)
    certain = correlation.fisher_mean([1.0, -1.0])
    close(certain.mean, 0.0, atol=1e-12)
    close(correlation.fisher_mean([1.0, 1.0]).mean, 0.999)
    nothing = correlation.fisher_mean([np.nan])
    assert np.isnan(nothing.mean) and (nothing.runs, nothing.missing) == (0, 1)


def test_the_interval_of_the_mean_is_the_t_interval_of_scipy(rng):
    r = rng.uniform(-0.9, 0.9, 7)
    z = np.arctanh(r)
    expected = stats.t.interval(0.95, 6, z.mean(), z.std(ddof=1) / 7**0.5)
    found = correlation.fisher_mean(r)
    close((found.low, found.high), np.tanh(expected), rtol=1e-9)
    turned = correlation.fisher_mean(-r)
    close((turned.mean, turned.high), (-found.mean, -found.low), rtol=1e-9)


def test_breakdown_is_the_first_look_below_the_reference():
    assert correlation.breakdown([0.8, 0.7, np.nan, 0.4, 0.9], 0.5) == 3
    assert correlation.breakdown([0.8, 0.5], 0.5) is None
    assert correlation.breakdown([], 0.5) is None


def test_a_partial_correlation_is_the_formula(rng):
    x, y, z = rng.normal(size=(3, 50))
    x, y = x + z, y - 2 * z
    for name in ("pearson", "spearman"):
        xy, xz, yz = (of(name)(a, b).value for a, b in ((x, y), (x, z), (y, z)))
        expected = (xy - xz * yz) / ((1 - xz**2) * (1 - yz**2)) ** 0.5
        found = correlation.partial(x, y, z, statistic=name)
        close(found.value, expected, rtol=1e-9)
        assert found.n == 50


def test_a_partial_correlation_of_what_only_the_control_shares_is_none(rng):
    z = rng.normal(size=(5000, 2))
    x, y = rng.normal(size=(2, 5000)) + z @ [1.0, -1.0]
    assert correlation.pearson(x, y).value > 0.5
    assert abs(correlation.partial(x, y, z).value) < 4 / 5000**0.5
    x[7], z[9, 1] = np.nan, np.nan
    assert correlation.partial(x, y, z).n == 4998


def test_a_control_that_explains_everything_leaves_no_correlation(rng):
    x, y = rng.normal(size=(2, 20))
    assert np.isnan(correlation.partial(x, y, 3 * x + 2).value)
    assert np.isnan(correlation.partial(x, y, np.exp(y), statistic="spearman").value)
    assert np.isnan(correlation.partial(np.ones(20), y, x).value)
    assert np.isnan(correlation.partial(x[:3], y[:3], y[:3] ** 2).value)


def test_what_is_no_series_is_refused():
    with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
        correlation.kendall([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="got 'tau'"):
        correlation.block_interval([1, 2, 3], [1, 3, 2], statistic="tau")
    with pytest.raises(ValueError, match="block=4: choose 1 to 3"):
        correlation.block_interval([1, 2, 3], [1, 3, 2], block=4)
    with pytest.raises(ValueError, match=r"lie in \[−1, 1\]"):
        correlation.fisher_mean([1.5])
    with pytest.raises(ValueError, match="'kendall'"):
        correlation.partial([1, 2], [1, 2], [1, 2], statistic="kendall")
