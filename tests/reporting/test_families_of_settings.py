"""Families of settings are read as runs: fronts, claims and reports take them."""

import numpy as np
import pytest

from rlhf_jax.evaluation.axes import SKILLS
from rlhf_jax.reporting import claims, evaluations, families
from rlhf_jax.reporting.families import Family

FAMILIES = {
    "average": Family("Averaging", ("ma25", "ma50", "aligned")),
    "penalty": Family("L2", ("l2_strong", "l2_weak", "aligned")),
}
# (reward, skills) of every method, about which units scatter
POINTS = {
    "ma25": (0.6, 0.88),
    "ma50": (1.2, 0.84),
    "l2_strong": (0.6, 0.82),
    "l2_weak": (1.2, 0.75),
    "aligned": (2.0, 0.6),
}


def record(method, world, step, phase, reward, skills, noise):
    both = {"eval/reward": reward, "tax/skills": skills}
    halves = {
        key + half: value + noise[i]
        for i, half in enumerate(("_a", "_b"))
        for key, value in both.items()
    }
    row = {"method": method, "world": world, "seed": 0, "step": step}
    return row | {"eval/phase": phase} | both | halves


@pytest.fixture(scope="module")
def records():
    rng, rows = np.random.default_rng(0), []
    for world in range(10):
        rows.append(record("aligned", world, 0, "start", 0.0, 0.9, (0, 0)))
        for method, point in POINTS.items():
            noise = 0.005 * rng.normal(size=2)
            rows.append(record(method, world, 50, "final", *point, noise))
    return rows


def test_a_family_is_a_run_from_the_initial_policy_to_the_aligned_one(records):
    runs = evaluations.runs(families.records(records, FAMILIES))
    assert [(run.method, run.looks) for run in runs[::10]] == [
        ("average", 3),
        ("penalty", 3),
    ]
    for run in runs:
        assert run.values(SKILLS)[0] == 0 and len(set(run.cycle)) == 1
        members = FAMILIES[run.method].members
        lost = [0.9 - POINTS[member][1] for member in members]
        np.testing.assert_allclose(run.values(SKILLS)[1:], lost, atol=1e-9)


def test_the_family_that_loses_less_is_found_better(records):
    runs = evaluations.runs(families.records(records, FAMILIES))
    claim = claims.Claim("average", ("penalty",), f"hypervolume/{SKILLS.key}")
    (found,) = claims.judge([claim], runs, axes=(SKILLS,))
    assert found.verdict.word == "reproduced" and len(found.pairs) == 10
    mirror = claims.Claim("penalty", ("average",), f"hypervolume/{SKILLS.key}")
    (found,) = claims.judge([mirror], runs, axes=(SKILLS,))
    assert found.verdict.word == "contradicted"


def test_a_unit_that_lacks_a_member_is_left_out(records):
    fewer = [r for r in records if (r["method"], r["world"]) != ("l2_weak", 3)]
    found = evaluations.by_method(evaluations.runs(families.records(fewer, FAMILIES)))
    assert len(found["average"]) == 10
    assert [run.unit.world for run in found["penalty"]] == [0, 1, 2, 4, 5, 6, 7, 8, 9]


def test_a_family_of_one_is_its_run_at_every_look(records):
    half = record("aligned", 0, 25, "train", 1.0, 0.8, (0, 0))
    rows = [*records, half]
    stop = {"stop": Family("early stop", ("aligned",))}
    found = [r for r in families.records(rows, stop) if r["world"] == 0]
    (run,) = evaluations.runs(found)
    assert run.method == "stop" and run.looks == 2
    assert [row["step"] for row in run.rows] == [0, 25, 50]
