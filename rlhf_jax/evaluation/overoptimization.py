"""Over-optimisation: what the true reward does while a policy climbs a proxy of it.

Gao, Schulman & Hilton 2022, "Scaling Laws for Reward Model Overoptimization",
arXiv:2210.10760. *Gold* is the reward that counts, *proxy* the one optimised, and
d = √KL(π‖π₀) in √nats is how far a policy is from where it started. The forms describe
gold relative to the start, R(0) = 0; they do not fit the proxy. N looks at a run.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

BEST_OF_N, RL = "best_of_n", "rl"


class Fit(NamedTuple):
    """A fitted form. Without a decline (β ≤ 0) the last three are infinite."""

    form: str
    alpha: float
    beta: float
    r2: float  # 1 − Σ residual²/Σ (R − R̄)²; NaN where the reward is constant
    deviation: float  # of the residuals, N − 2 in the denominator; NaN for N = 2
    rounds: int
    peak: float  # d*, where the reward is largest
    reward_at_peak: float
    zero: float  # d > 0 at which all that was gained is lost again

    def predict(self, d):
        """The fitted reward at distances d [...]."""
        d = np.asarray(d, np.float64)
        if self.form == BEST_OF_N:
            return d * (self.alpha - self.beta * d)
        return self.alpha * d - self.beta * special.xlogy(d, d / self.rounds)


class Estimate(NamedTuple):
    """A value with its interval."""

    value: float
    low: float
    high: float


class Uncertainty(NamedTuple):
    """Intervals of a fit."""

    alpha: Estimate
    beta: Estimate
    peak: Estimate
    reward_at_peak: Estimate
    resampled: str  # "curves" or "residuals"
    without_peak: float  # the share of draws that do not decline


class Extrapolation(NamedTuple):
    """What a fit of the first half of a range says about the second."""

    fit: Fit
    error: float  # root mean squared, in units of reward
    relative: float  # to the deviation of the held-out rewards
    fitted: int  # looks
    held_out: int


def fit_best_of_n(d, reward):
    """R(d) = d·(α − β·d) by least squares, the form of best-of-n.

    d* = α/2β, R(d*) = α²/4β, zero at α/β; with α ≤ 0 the best place is the start.

    Args: d [N] ≥ 0; reward [N], gold minus gold at the start.
    Returns Fit. Raises ValueError below two distances that differ, 0 apart.
    """
    return _fit(*_looks(d, reward), BEST_OF_N, 1)


def fit_rl(d, reward, *, rounds=1):
    """R(d) = d·(α − β·log(d/k)) by least squares, the form of RL.

    d* = k·exp(α/β − 1), R(d*) = β·d*, zero at k·exp(α/β). With k > 1 it is the form for
    k rounds with a new reward model each, d summed over rounds. The slope at 0 is
    infinite, which no run has: leave out looks at very small d.

    Args and errors as in `fit_best_of_n`; rounds: k ≥ 1.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds}: needs to be at least 1")
    return _fit(*_looks(d, reward), RL, rounds)


def interval(d, reward, *, form, level=0.95, draws=2000, seed=0):
    """Percentile bootstrap intervals of α, β, d* and R(d*).

    Looks at one run share its policy, prompts and noise, so where there are several
    curves, whole curves are drawn: with 5 of them a 95% interval covers some 84%. Of a
    single curve the residuals are drawn, scaled by √(N/(N − 2)); such an interval is
    descriptive, and too narrow where neighbouring residuals are alike.

    Args:
      d, reward: [C, N], a curve per run or world; or [N]. form: "best_of_n" or "rl".
    Returns Uncertainty, its values those of all curves fitted together.
    """
    _known(form)
    d, reward = np.broadcast_arrays(*np.atleast_2d(d, reward))
    fit = _fit(*_looks(d.ravel(), reward.ravel()), form, 1)
    rng, columns = np.random.default_rng(seed), _columns(d, form, 1)  # [C, N, 2]
    if len(d) > 1:
        gram = np.einsum("cni,cnj->cij", columns, columns)
        moment = np.einsum("cni,cn->ci", columns, reward)
        times = rng.multinomial(len(d), np.full(len(d), 1 / len(d)), draws)
        sums = np.tensordot(times, gram, 1), np.tensordot(times, moment, 1)
        drawn = (np.linalg.pinv(sums[0]) @ sums[1][..., None])[..., 0]
    else:
        (columns,), (reward,), n = columns, reward, d.size
        if n < 3:
            raise ValueError(f"{n} looks at one run leave no residuals; give 3 or more")
        residuals = (reward - fit.predict(d[0])) * (n / (n - 2)) ** 0.5
        noisy = fit.predict(d[0]) + rng.choice(residuals, (draws, n))
        drawn = noisy @ np.linalg.pinv(columns).T
    peaks = [_shape(form, alpha, beta, 1)[:2] for alpha, beta in drawn]
    values = np.concatenate([drawn, peaks], axis=1)
    tail = (1 - level) / 2
    # An infinite peak has a rank and no average with its neighbours.
    low, high = np.quantile(values, [tail, 1 - tail], axis=0, method="inverted_cdf")
    points = fit.alpha, fit.beta, fit.peak, fit.reward_at_peak
    estimates = map(Estimate, points, map(float, low), map(float, high))
    kind = "curves" if len(d) > 1 else "residuals"
    return Uncertainty(*estimates, kind, float(np.mean(drawn[:, 1] <= 0)))


def extrapolation(d, reward, *, form):
    """Fits the looks up to the middle of the range of d, and predicts the others.

    Gao et al. fitted n ≤ 1000 and confirmed it at n = 60,000: a form that describes the
    rise and misses the decline is no law. Args as in `fit_best_of_n`; form:
    "best_of_n" or "rl". Returns Extrapolation. Raises ValueError where a half is too
    small to be fitted or to vary.
    """
    _known(form)
    d, reward = _looks(d, reward)
    lower = d <= (d.min() + d.max()) / 2
    fit = _fit(d[lower], reward[lower], form, 1)
    error = np.sqrt(np.mean((fit.predict(d[~lower]) - reward[~lower]) ** 2))
    deviation, held_out = reward[~lower].std(), int((~lower).sum())
    if deviation == 0:
        raise ValueError(
            f"the upper half of the range of d holds {held_out} look(s) of equal "
            "reward, which have no deviation to compare an error with; add looks there"
        )
    return Extrapolation(
        fit, float(error), float(error / deviation), int(lower.sum()), held_out
    )


def onset(d, proxy, gold, *, errors=0.0, peak_by=None, drop=2.0, looks=2, window=3):
    """Goodhart onset: the first d with dgold/dd < 0 < dproxy/dd, if gold then falls.

    Slopes are least-squares slopes over `window` looks around each, fewer at the ends.
    A decline counts if `looks` successive looks are below gold's peak so far by more
    than `drop` of their standard errors; the onset is the first such d from that peak
    to the end of these looks. Where the proxy does not rise there, the run has
    collapsed, and the search goes on.

    The highest of noisy looks is a lucky one: of 20 looks at a constant gold, 72% have
    an onset by these rules, and 15% if the peak is found on other prompts (`peak_by`).

    Args:
      d: [N], distances or steps, in any order; proxy, gold: [N].
      errors: [N] or a number, of gold's evaluations; 0 takes every decline as real.
      peak_by: [N], gold on the other half of the prompts; gold itself by default.
      window: odd, at least 3; looks: at least 1.
    Returns a float, or None if there is no onset.
    """
    if looks < 1 or window < 3 or window % 2 == 0:
        raise ValueError(f"looks={looks}, window={window}: at least 1, and odd from 3")
    d, proxy, gold, errors, by = _ordered(
        d, proxy=proxy, gold=gold, errors=errors,
        peak_by=gold if peak_by is None else peak_by,
    )  # fmt: skip
    goodhart = (_slopes(d, gold, window) < 0) & (_slopes(d, proxy, window) > 0)
    peak = np.array([by[: i + 1].argmax() for i in range(len(d))])
    low = gold < gold[peak] - drop * errors
    for first in range(len(d) - looks + 1):
        span = slice(peak[first], first + looks)
        if low[first : first + looks].all() and goodhart[span].any():
            return float(d[span][goodhart[span].argmax()])
    return None


def peak_lag(steps, proxy, gold):
    """step(argmax gold) − step(argmax proxy): negative where gold is the first to peak.

    Of equal maxima the first counts. A run that is still rising has its peak at its
    end. Args: [N] each. Returns a float, in steps.
    """
    steps, proxy, gold = _ordered(steps, proxy=proxy, gold=gold)
    return float(steps[gold.argmax()] - steps[proxy.argmax()])


def selection_regret(select_by, outcome):
    """max outcome − outcome[argmax select_by] ≥ 0: what is lost by choosing so.

    Select by proxy, by proxy − β·KL, by an ensemble's lower bound; the outcome is gold
    or any evaluation of which more is better. On noisy evaluations the maximum is the
    luckiest, and the regret too large: see `split_half_regret`. Of equals the first is
    chosen. Args: [N] each, one a checkpoint. Returns a float.
    """
    _, select_by, outcome = _ordered(
        np.arange(len(outcome)), select_by=select_by, outcome=outcome
    )
    return float(outcome.max() - outcome[select_by.argmax()])


def split_half_regret(select_by, outcome):
    """`selection_regret`, every choice made on one half of the prompts and valued on
    the other; both ways, averaged. Negative where the outcome chooses worse by luck.

    Args: select_by, outcome: [2, N], on half A and on half B. Returns a float.
    """
    regrets = []
    for chosen, valued in ((0, 1), (1, 0)):
        _, by, own, other = _ordered(
            np.arange(len(outcome[0])), select_by=select_by[chosen],
            outcome=outcome[chosen], other_outcome=outcome[valued],
        )  # fmt: skip
        regrets.append(other[own.argmax()] - other[by.argmax()])
    return float(np.mean(regrets))


def proxy_gap(gold, proxy, kl):
    """γ = ∫|gold − proxy| dKL / ∫gold dKL by trapezoids over the looks.

    Kim et al. 2025, arXiv:2505.12763. Both rewards on one scale, such as 0 at the start
    and unit variance there. Args: [N] each, in any order. Returns a float.
    Raises ValueError unless ∫gold is positive: γ is then no share of anything.
    """
    kl, gold, proxy = _ordered(kl, gold=gold, proxy=proxy)
    area = np.trapezoid(gold, kl)
    if not area > 0:
        raise ValueError(
            f"the integral of gold over KL {kl.min():g} to {kl.max():g} is {area:g}; "
            "it must be positive: measure gold from the start, over a range where the "
            "policy gains"
        )
    return float(np.trapezoid(np.abs(gold - proxy), kl) / area)


def gap_slope(d, proxy, gold):
    """The least-squares slope in d of proxy − gold, in units of reward per √nat.

    Args: [N] each, both rewards on one scale. Returns a float, NaN where d is constant.
    """
    d, proxy, gold = _ordered(d, proxy=proxy, gold=gold)
    return float(_slopes(d, proxy - gold, 2 * len(d))[0])


def _fit(d, reward, form, rounds):
    if len(np.unique(d[d > 0])) < 2:
        raise ValueError(
            f"two coefficients need two distances above 0 that differ; got d={d}"
        )
    columns = _columns(d, form, rounds)
    # Columns of one size keep digits where d is 1e-3 or 30.
    size = np.linalg.norm(columns, axis=0)
    size = np.where(size > 0, size, 1.0)
    found, *_ = np.linalg.lstsq(columns / size, reward, rcond=None)
    alpha, beta = map(float, found / size)
    residual = np.square(reward - columns @ (alpha, beta)).sum()
    total, n = np.square(reward - reward.mean()).sum(), len(reward)
    return Fit(
        form, alpha, beta,
        float(1 - residual / total) if total > 0 else float("nan"),
        float((residual / (n - 2)) ** 0.5) if n > 2 else float("nan"),
        rounds, *_shape(form, alpha, beta, rounds),
    )  # fmt: skip


def _columns(d, form, rounds):
    """[..., 2]: what α and β are multiplied with."""
    second = d**2 if form == BEST_OF_N else special.xlogy(d, d / rounds)
    return np.stack([d, -second], axis=-1)


def _shape(form, alpha, beta, rounds):
    """(d*, R(d*), zero) as floats."""
    if beta <= 0:
        return (float("inf"),) * 3
    if form == BEST_OF_N:
        alpha = max(alpha, 0.0)
        return alpha / (2 * beta), alpha**2 / (4 * beta), alpha / beta
    with np.errstate(over="ignore"):
        zero = float(rounds * np.exp(np.float64(alpha) / beta))
    return zero / np.e, beta * zero / np.e, zero


def _known(form):
    if form not in (BEST_OF_N, RL):
        raise ValueError(f'form must be "{BEST_OF_N}" or "{RL}", got {form!r}')


def _looks(d, reward):
    d, reward = np.asarray(d, np.float64), np.asarray(reward, np.float64)
    if d.ndim != 1 or d.shape != reward.shape:
        raise ValueError(
            f"d and reward must be [N] of the same looks, got {d.shape} and "
            f"{reward.shape}"
        )
    bad = ~(np.isfinite(d) & np.isfinite(reward) & (d >= 0))
    if bad.any():
        i = int(bad.argmax())
        raise ValueError(
            f"look {i} has d={d[i]:g}, reward={reward[i]:g}: both must be finite and d "
            "at least 0; leave it out, or the run if it diverged"
        )
    return d, reward


def _slopes(x, y, window):
    """[N]: the least-squares slope of y over the `window` looks around each."""
    result, half = np.full(len(x), np.nan), window // 2
    for i in range(len(x)):
        near = slice(max(i - half, 0), i + half + 1)
        centered = x[near] - x[near].mean()
        if centered.any():
            result[i] = centered @ y[near] / (centered @ centered)
    return result


def _ordered(along, **series):
    """The looks in ascending order of the first argument, float64 [N] each."""
    along = np.asarray(along, np.float64)
    if along.ndim != 1 or not len(along):
        raise ValueError(f"give [N] looks, at least one; got shape {along.shape}")
    order, found = np.argsort(along, kind="stable"), [along]
    for name, values in series.items():
        values = np.asarray(values, np.float64)
        if values.shape not in ((), along.shape):
            raise ValueError(f"{name} of shape {values.shape} for {len(along)} looks")
        found.append(np.broadcast_to(values, along.shape))
    for name, values in zip(("the position", *series), found, strict=True):
        if not np.isfinite(values).all():
            i = int((~np.isfinite(values)).argmax())
            raise ValueError(
                f"{name} of look {i} is {values[i]:g}; leave it out, or the run if it "
                "diverged"
            )
    return [values[order] for values in found]
