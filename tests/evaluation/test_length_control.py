"""Win rates at equal length: known truths, alpaca_eval's numbers, published entries."""

import math
import pathlib

import numpy as np
import pytest
from golden import make_alpaca_eval
from scipy import optimize, special

from rlhf_jax.evaluation import length_control

GOLDEN = np.load(
    pathlib.Path(__file__).resolve().parent.parent / "golden" / "alpaca_eval.npz"
)
NAN = math.nan
CASES = [
    (case, formula)
    for case in make_alpaca_eval.CASES
    for formula in make_alpaca_eval.FORMULAS
]


def case_of(case, formula):
    """Arguments of `by_difference` for a case of the golden file."""
    given = {name: GOLDEN[f"{case}/{name}"] for name in make_alpaca_eval.inputs(case)}
    anchors = length_control.Anchors(
        given.pop("anchor_probabilities"),
        given.pop("anchor_differences"),
        np.tile(given["difficulty"], 2),
    )
    if formula == "minimal":
        del given["difficulty"]
    return given | ({"anchors": anchors} if formula == "v1" else {})


def lengths(rng, n, *, longer=1.3):
    """Characters of A, on average `longer` times those of B, and of B."""
    return longer * rng.uniform(200, 1800, n), rng.uniform(200, 1800, n)


def pull(control, own, other):
    """What the length alone adds to a judge's logit, as a control models it."""
    gaps = own - other
    return (
        own / other - 1 if control == "by_ratio" else np.tanh(gaps / gaps.std(ddof=1))
    )


def test_by_ratio_by_hand():
    # Half as long: 1 of 4 wins. One and a half times as long: 3 of 4. At 1, halfway.
    found = length_control.by_ratio([1, 0, 0, 0, 1, 1, 1, 0], [5] * 4 + [15] * 4, 10)
    assert found.value == pytest.approx(0.5, abs=1e-6)
    np.testing.assert_allclose(found.coefficients, [2 * math.log(3), 0], atol=1e-5)
    tilted = length_control.by_ratio([0.2, 0.6], [5, 15], 10)
    middle = (special.logit(0.2) + special.logit(0.6)) / 2
    assert tilted.value == pytest.approx(special.expit(middle), abs=1e-6)


def test_by_difference_by_hand():
    # Two gaps that are opposite: the logit at equal length is the mean of the two.
    p, own, other = [0.2] * 3 + [0.6] * 3, [5] * 3 + [15] * 3, [15] * 3 + [5] * 3
    found = length_control.by_difference(p, own, other, strength=np.inf)
    middle = (special.logit(0.2) + special.logit(0.6)) / 2
    assert found.value == pytest.approx(special.expit(middle), abs=1e-6)
    step = np.tanh(10 / np.std([10] * 3 + [-10] * 3, ddof=1))
    slope = (special.logit(0.2) - special.logit(0.6)) / (2 * step)
    np.testing.assert_allclose(found.coefficients, [slope, middle], atol=1e-5)
    assert found.predictions_se < 1e-12 and found.strength == np.inf
    assert found.overlap == 0.5 and found.failures == 0


def test_predicted_by_hand():
    found = length_control.predicted([-1.5, 2.0, 1.0], [-0.5, 0.0])
    np.testing.assert_allclose(found, [0.5, 1 / (1 + math.exp(-1))])


def test_without_a_penalty_exact_is_newtons_maximum(rng):
    x, p = rng.normal(size=(50, 3)), rng.random(50)
    weights = rng.uniform(0.1, 2.0, 50)
    beta = np.zeros(3)
    for _ in range(30):
        fitted = 1 / (1 + np.exp(-x @ beta))
        hessian = (x.T * (weights * fitted * (1 - fitted))) @ x
        beta += np.linalg.solve(hessian, x.T @ (weights * (p - fitted)))
    (found,) = length_control.exact(x, p, weights, [np.inf])
    np.testing.assert_allclose(found, beta, atol=1e-6)


def test_exact_meets_the_conditions_of_an_l1_minimum(rng):
    """A slope of ∓1/C where β ≠ 0, and one within ±1/C where β = 0."""
    x = rng.normal(size=(80, 4))
    p = special.expit(x @ [2.0, 0.0, -0.5, 0.02])
    strengths = [0.01, 0.05, 0.3, 20.0]
    for beta, strength in zip(
        length_control.exact(x, p, np.ones(80), strengths), strengths, strict=True
    ):
        slope = x.T @ (special.expit(x @ beta) - p)
        moved = beta != 0
        np.testing.assert_allclose(
            slope[moved], -np.sign(beta[moved]) / strength, atol=1e-4
        )
        assert (np.abs(slope[~moved]) <= 1 / strength + 1e-4).all()
    assert not length_control.exact(x, p, np.ones(80), [0.001]).any()


@pytest.mark.parametrize("control", ["by_ratio", "by_difference"])
def test_a_judge_of_length_alone_says_one_half(control, rng):
    own, other = lengths(rng, 4000, longer=1.6)
    p = (rng.logistic(size=4000) < 1.5 * pull(control, own, other)).astype(float)
    found = getattr(length_control, control)(p, own, other)
    assert p.mean() > 0.6
    assert found.low <= 0.5 <= found.high and found.high - found.low < 0.1


@pytest.mark.parametrize("quality", [-2.0, 0.7])
def test_quality_is_what_remains(quality, rng):
    """Soft judgments without noise, so the truth is met, the penalty apart."""
    own, other = lengths(rng, 500)
    gaps = (other - own) / (other - own).std(ddof=1)
    p = special.expit(quality - 1.4 * np.tanh(gaps))
    found = length_control.by_difference(p, own, other)
    assert found.value == pytest.approx(special.expit(quality), abs=2e-3)
    difficulty = rng.normal(size=500)
    p = special.expit(quality - 1.4 * np.tanh(gaps) + 0.8 * difficulty)
    found = length_control.by_difference(p, own, other, difficulty=difficulty)
    truth = special.expit(quality + 0.8 * difficulty).mean()
    assert found.value == pytest.approx(truth, abs=2e-3)
    ratio = special.expit(quality + 0.9 * (own / other - 1))
    found = length_control.by_ratio(ratio, own, other)
    assert found.value == pytest.approx(special.expit(quality), abs=1e-6)


def test_a_harmless_rate_is_read_at_the_mean_length_of_the_reference(rng):
    own = rng.uniform(100, 400, 300)
    harmless = special.expit(1.0 + 2.0 * (own / 200 - 1))
    found = length_control.by_ratio(harmless, own, 200.0)
    assert found.value == pytest.approx(special.expit(1.0), abs=1e-6)


def test_swapping_the_policies_turns_the_controlled_rate_around(rng):
    own, other = lengths(rng, 200)
    difficulty = rng.normal(size=200)
    p = special.expit(0.5 + difficulty + rng.normal(size=200) - np.tanh(other - own))
    for options in ({}, {"difficulty": difficulty}):
        found = length_control.by_difference(p, own, other, **options)
        swapped = length_control.by_difference(1 - p, other, own, **options)
        np.testing.assert_allclose(
            swapped[:3], 1 - np.array(found[:3])[[0, 2, 1]], atol=1e-6
        )


@pytest.mark.parametrize("control", ["by_ratio", "by_difference"])
def test_the_unit_of_length_and_the_order_of_pairs_do_not_matter(control, rng):
    control = getattr(length_control, control)
    options = {} if control is length_control.by_ratio else {"strength": 3.0}
    own, other = lengths(rng, 100)
    p, order = rng.random(100), rng.permutation(100)
    found = control(p, own, other, **options)
    words = control(p[order], own[order] / 5, other[order] / 5, **options)
    np.testing.assert_allclose(words[:3], found[:3], atol=1e-6)


def test_at_equal_lengths_there_is_nothing_to_control(rng):
    p = rng.random(30)
    for control, options in (
        (length_control.by_ratio, {}),
        (length_control.by_difference, {"strength": np.inf}),
    ):
        found = control(p, 120, 120, **options)
        assert found.value == pytest.approx(p.mean(), abs=1e-6)
        # The delta method on the logit, and Student's t on the rate: to second order.
        half = 2.045 * p.std(ddof=1) / 30**0.5
        assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)


def test_failures_are_left_out_and_counted(rng):
    own, other = lengths(rng, 60)
    p = rng.random(60)
    p[[3, 50]] = NAN
    known = ~np.isnan(p)
    found = length_control.by_ratio(p, own, other)
    without = length_control.by_ratio(p[known], own[known], other[known])
    assert found.value == pytest.approx(without.value, rel=1e-12)
    assert found.overlap == without.overlap
    assert found.failures == 2 and without.failures == 0
    # Junk in place of a judgment is nothing, and the prompts still count.
    difficulty = rng.normal(size=60)
    found = length_control.by_difference(p, own, other, difficulty=difficulty)
    expected = length_control.predicted(found.coefficients, difficulty)
    assert found.value == expected.mean() and found.failures == 2


@pytest.mark.parametrize(
    ("p", "own"),
    [
        ([0, 0, 1, 1], [5, 8, 12, 20]),  # a ratio of 1 parts them
        ([1, 1, 0, 0], [5, 8, 12, 20]),
        ([1, 1, 1, 1], [5, 8, 12, 20]),  # no losses
        ([0, 1, 0, 1], [12, 12, 12, 12]),  # one ratio says nothing of another
    ],
)
def test_without_a_maximum_there_is_no_number(p, own):
    found = length_control.by_ratio(p + [NAN], own + [3], 10)
    assert np.isnan([*found[:4], *found.coefficients]).all()
    assert found.failures == 1


@pytest.mark.parametrize(("case", "formula"), CASES)
def test_exact_is_alpaca_eval_to_four_decimals(case, formula):
    value, se, strength, *coefficients = GOLDEN[f"{case}/{formula}"]
    found = length_control.by_difference(**case_of(case, formula))
    assert abs(found.value - value) < 5e-5
    assert abs(found.predictions_se - se) < 5e-5
    assert found.failures == make_alpaca_eval.CASES[case][3]
    # Its solver stops at a tolerance of 1e-4, which among equals decides about C.
    if found.strength == pytest.approx(strength):
        np.testing.assert_allclose(found.coefficients, coefficients, 2e-2, 1e-4)


@pytest.mark.parametrize(("case", "formula"), CASES)
def test_liblinear_is_alpaca_eval_to_the_last_digits(case, formula):
    pytest.importorskip("sklearn", reason="needs the extra liblinear")
    value, se, strength, *coefficients = GOLDEN[f"{case}/{formula}"]
    found = length_control.by_difference(
        **case_of(case, formula), solve=length_control.liblinear
    )
    assert found.strength == pytest.approx(strength)
    np.testing.assert_allclose(found.coefficients, coefficients, 1e-7, 1e-9)
    np.testing.assert_allclose(
        (found.value, found.predictions_se), (value, se), 1e-7, 1e-9
    )


def test_both_solvers_have_the_same_minimum(rng):
    pytest.importorskip("sklearn", reason="needs the extra liblinear")
    x, p = rng.normal(size=(60, 3)), rng.random(60)
    problem = x, p, rng.uniform(0.1, 1.0, 60), [0.05, 1.0, 100.0]
    np.testing.assert_allclose(
        length_control.liblinear(*problem, tolerance=1e-10),
        length_control.exact(*problem),
        atol=1e-6,
    )


def test_liblinear_without_scikit_learn_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"rlhf_jax\[liblinear\]"):
        length_control.liblinear(np.ones((2, 1)), np.ones(2), np.ones(2), [1.0])


@pytest.mark.data
@pytest.mark.parametrize("model", make_alpaca_eval.MODELS)
def test_exact_is_alpaca_eval_on_real_answers(data_folder, model):
    path = data_folder / "alpaca_eval_prefs" / "train.jsonl.gz"
    value, *_ = GOLDEN[f"real/{model}"]
    rows = make_alpaca_eval.real(path, model)
    found = length_control.by_difference(**rows)
    assert abs(found.value - value) < 5e-5
    assert len(rows["lengths"]) > 500 and found.coefficients[0] < -1


def test_published_win_rates_follow_from_the_published_coefficients():
    """171 of 173 entries with all 805 judgments, half of which fix the difficulties.

    The difficulties γ_x are not in the package, but a win rate at equal length is
    E σ(ψ·γ + b), linear in their distribution: the one that explains every second
    entry must predict the others, whose ψ and b differ, and the published errors.
    """
    complete = GOLDEN["soft/counts"].sum(1) == 805
    complete &= ~np.isnan(GOLDEN["soft/coefficients"]).any(1)
    names, coefficients, published, errors = (
        GOLDEN[f"soft/{x}"][complete]
        for x in ("names", "coefficients", "controlled", "controlled_se")
    )
    assert len(names) == 173
    # Their coefficients are of another date than the leaderboard.
    dated = np.isin(names, ["dbrx-instruct", "Shopee-SlimMoA-v1"])
    known = (np.arange(173) % 2 == 0) & ~dated
    difficulties = np.linspace(-8, 8, 129)
    expected = np.stack(
        [length_control.predicted(row, difficulties) for row in coefficients]
    )
    shares, _ = optimize.nnls(
        np.vstack([expected[known], np.ones(129)]), np.append(published[known] / 100, 1)
    )
    values = expected @ shares
    apart = np.abs(100 * values - published)
    assert (apart[~known & ~dated] < 5e-5).sum() == 85  # in per cent: 4 decimals
    assert (apart[dated] > 0.1).all()
    variances = np.square(expected) @ shares - np.square(values)
    with_errors = ~np.isnan(errors) & ~dated
    found = 100 * np.sqrt(variances[with_errors] / 804)
    np.testing.assert_allclose(found, errors[with_errors], atol=5e-5)
    assert with_errors.sum() == 21


@pytest.mark.parametrize("control", ["by_ratio", "by_difference"])
def test_the_intervals_cover_the_truth(control, rng):
    """Of 200 comparisons of 40 units, 5 rows in each, that share some luck."""
    covered, units = 0, np.repeat(np.arange(40), 5)
    for _ in range(200):
        own, other = lengths(rng, 200)
        luck = np.repeat(rng.choice([-0.15, 0.15], 40), 5)
        truth = special.expit(0.4)
        logits = 0.4 + 0.5 * pull(control, own, other)
        p = rng.random(200) < special.expit(logits) + luck
        options = {} if control == "by_ratio" else {"strength": 100.0}
        found = getattr(length_control, control)(
            p.astype(float), own, other, units=units, **options
        )
        covered += found.low <= truth <= found.high
    # 95% but for 4 standard errors, and 1% that a delta method may cost.
    assert covered / 200 >= 0.94 - 4 * (0.95 * 0.05 / 200) ** 0.5


def test_one_sided_lengths_are_said_to_be_extrapolated(rng):
    """No judgment at equal length: the penalty decides, and the overlap tells."""
    own, other = rng.uniform(10, 20, 40), rng.uniform(200, 210, 40)
    found = length_control.by_difference(np.full(40, 0.1), own, other)
    assert found.overlap == 0 and found.value > 0.2
    assert found[1:3] == (0.0, 1.0)
    own[:10] = other[:10] + 1
    found = length_control.by_difference(np.full(40, 0.1), own, other)
    assert found.overlap == 0.25 and found.value == pytest.approx(0.1, abs=0.02)


def test_one_unit_tells_nothing(rng):
    own, other = lengths(rng, 20)
    found = length_control.by_ratio(rng.random(20), own, other, units=[0] * 20)
    assert found[1:3] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: length_control.by_ratio([0.1, 2.0], 5, 5), "probabilities, or NaN"),
        (lambda: length_control.by_ratio([NAN, NAN], 5, 5), "none of 2 judgments"),
        (lambda: length_control.by_ratio([0.1, 0.2], [5, 5, 5], 5), "lengths of A"),
        (lambda: length_control.by_ratio([0.1, 0.2], 5, [5, -5]), "lengths of B"),
        (lambda: length_control.by_ratio([0.1, 0.2], 5, [5, 0]), "row 1: B's length"),
        (lambda: length_control.by_difference([0.1] * 4, 5, 5), "4 judgments, of 5"),
        (
            lambda: length_control.by_difference([0.1] * 5, 5, 5, difficulty=[1.0]),
            "one for each of 5 rows",
        ),
        (
            lambda: length_control.by_difference([0.1] * 5, 5, 5, difficulty=[NAN] * 5),
            "difficulties are finite",
        ),
        (lambda: length_control.by_difference([0.1] * 5, [5] * 4 + [NAN], 5), "of A"),
        (
            lambda: length_control.by_difference([0.1] * 5, 5, 5, units=[1]),
            "units of shape",
        ),
    ],
)
def test_misuse_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
