"""Recorded runs redraw as they were: fronts.jsonl still says what fronts.json says."""

import json
import pathlib

import pytest

from experiments import sentiment
from experiments.sentiment import ablations
from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import contrasts, recoveries, results
from rlhf_jax.runtime import metrics_log

FOLDER = pathlib.Path(__file__).resolve().parents[2] / "experiments/results"
# Records and results were both kept to five digits; in a difference of two areas of
# about 50 these are three decimals.
CLOSE = {"rel": 2e-4, "abs": 5e-5}
CLOSE_DIFFERENCE = {"rel": 2e-4, "abs": 1e-3}


@pytest.fixture(scope="module")
def recorded():
    return json.loads((FOLDER / "fronts.json").read_text())


@pytest.fixture(scope="module")
def records():
    return metrics_log.read(FOLDER / "fronts.jsonl")


@pytest.fixture(scope="module")
def summary(records, recorded):
    return results.summarize(
        records,
        axes=sentiment.AXES,
        corners=axes.corners(sentiment.AXES, records),
        among=recorded["matched"]["drift/text_nll"]["methods"],
    )


def assert_same(found, expected, close=CLOSE):
    """Every number of `expected` stands in `found`; what else is there may be new."""
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert_same(found[key], value, close)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for pair in zip(found, expected, strict=True):
            assert_same(*pair, close)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, **close)
    else:
        assert found == expected


def test_fronts_and_final_policies_are_those_that_were_recorded(summary, recorded):
    for name in ("methods", "matched", "seeds"):
        assert_same(summary[name], recorded[name])


def test_ablations_are_those_that_were_recorded(summary, recorded):
    table = contrasts.table(summary, ablations.CONTRASTS, sentiment.AXES)
    assert_same(table, recorded["contrasts"], CLOSE_DIFFERENCE)


def test_recovery_is_the_one_that_was_recorded(records, recorded):
    found = recoveries.compare(records, "elastic_reset", "reset_to_initial")
    del recorded["recovery"]["verdict"]["p"]  # JSON has null for NaN
    assert_same(found, recorded["recovery"])
