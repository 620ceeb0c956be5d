"""The instrument on simulated studies, whose truth is known.

Equal methods may end at other drifts, have cycles, reach a plateau: a verdict may come
out in 5% of the studies and no more. Unequal ones must be told apart, and intervals
must hold the truth as often as they say although seeds of a world are alike.
"""

import numpy as np
import pytest
import simulated_studies as simulated

from rlhf_jax.evaluation import axes, statistics, units
from rlhf_jax.reporting import claims, evaluations

AXES = (axes.TEXT_NLL,)
KEY = axes.TEXT_NLL.key
SILENT = ("undecided", "not reproduced", "≈")
ALIKE = simulated.Method()
PAIRS = {
    "alike": (ALIKE, ALIKE),
    "other drifts": (simulated.Method(end=0.5), ALIKE),
    "cycles": (simulated.Method(end=0.8, cycles=3), ALIKE),
}
QUICK, THOROUGH = 30, 500  # studies
slow = pytest.mark.slow


def _words(pair, curve, endpoints, rng, studies, **options):
    """[studies, endpoints] the words, one study after another."""
    named = dict(zip(("one", "other"), pair, strict=True))
    declared = [claims.Claim("one", ("other",), name) for name in endpoints]
    result = []
    for _ in range(studies):
        rows = simulated.records(named, curve, rng, **options)
        found = claims.judge(declared, evaluations.runs(rows), axes=AXES)
        result.append([finding.verdict.word for finding in found])
    return np.array(result)


def _endpoints(pair, curve):
    """What is equal in truth. A curve that still rises gives more to whichever method
    goes further, at its end and up to a corner: no fault of the reading."""
    names = [f"reward_at/{KEY}"]
    if curve == "plateau" or pair != "other drifts":
        names.append(f"hypervolume/{KEY}")
    if pair == "alike" or (curve, pair) == ("plateau", "other drifts"):
        names.append("reward")
    return names


@pytest.mark.parametrize("studies", [QUICK, pytest.param(THOROUGH, marks=slow)])
@pytest.mark.parametrize("curve", simulated.CURVES)
@pytest.mark.parametrize("pair", PAIRS)
def test_equal_methods_bring_a_verdict_in_five_percent_of_studies(
    pair, curve, studies, rng
):
    names, drawn = _endpoints(pair, curve), simulated.CURVES[curve]
    words = _words(PAIRS[pair], drawn, names, rng, studies)
    rate = np.mean(~np.isin(words, SILENT), axis=0)
    print(pair, curve, dict(zip(names, rate, strict=True)))
    # Four standard errors of a share, from so many studies.
    assert (rate <= 0.05 + 4 * (0.05 * 0.95 / studies) ** 0.5).all(), rate


def test_staircases_would_have_called_equal_methods_different(rng):
    """What this reading replaces: the best look at drift ≤ d, not interpolated."""
    named = {"one": simulated.Method(end=0.5), "other": ALIKE}
    wrong = 0
    quiet = simulated.Noise(measured=0.02, seed=0.05)
    for _ in range(QUICK):
        rows = simulated.records(named, simulated.rising, rng, noise=quiet, looks=6)
        gaps = {}
        for run in evaluations.runs(rows):
            near = run.values(axes.TEXT_NLL) - run.rows[0][KEY] <= 0.5
            best = (run.values(axes.REWARD) - run.values(axes.REWARD)[0])[near].max()
            sign = 1 if run.method == "one" else -1
            gaps[run.unit] = gaps.get(run.unit, 0) + sign * best
        values = list(units.worlds(gaps).values())
        wrong += statistics.verdict(values, 0.1).word not in SILENT
    assert wrong > 0.5 * QUICK


@pytest.mark.parametrize("studies", [QUICK, pytest.param(THOROUGH, marks=slow)])
def test_one_and_a_half_smallest_effects_are_seen_in_four_of_five_studies(studies, rng):
    """With 15 worlds × 2 seeds, and a deviation between units of 8%."""
    better = simulated.Method(factor=1 + 1.5 * 0.05)
    words = _words(
        (better, ALIKE),
        simulated.plateau,
        [f"hypervolume/{KEY}"],
        rng,
        studies,
        noise=simulated.Noise(measured=0.05, seed=0.08),
    )
    power = np.mean(words == "reproduced")
    print("power", power)
    assert power >= 0.8 - 4 * (0.8 * 0.2 / studies) ** 0.5


def test_a_worse_method_is_contradicted(rng):
    worse = simulated.Method(factor=0.7)
    names = [f"hypervolume/{KEY}", f"reward_at/{KEY}", "reward"]
    words = _words((worse, ALIKE), simulated.plateau, names, rng, 5)
    assert (words == "contradicted").all()


def test_intervals_over_worlds_cover_the_truth_although_seeds_are_alike(rng):
    draws, worlds, seeds, correlation = 4000, 15, 2, 0.4
    covered = {"worlds": 0, "as if independent": 0}
    for _ in range(draws):
        of_world = rng.normal(0, correlation**0.5, (worlds, 1))
        values = of_world + rng.normal(0, (1 - correlation) ** 0.5, (worlds, seeds))
        table = {units.Unit(w, s): values[w, s] for w in range(worlds) for s in (0, 1)}
        over = statistics.t_interval(list(units.worlds(table).values()))
        naive = statistics.t_interval(values)
        covered["worlds"] += over.low <= 0 <= over.high
        covered["as if independent"] += naive.low <= 0 <= naive.high
    assert 0.93 <= covered["worlds"] / draws <= 0.97
    assert covered["as if independent"] / draws < 0.93
