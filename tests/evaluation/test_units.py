"""Units: worlds and seeds, and how alike the seeds of a world are."""

import math

import numpy as np
import pytest

from rlhf_jax.evaluation import units
from rlhf_jax.evaluation.units import Unit


def test_a_record_without_a_world_is_of_the_first():
    assert units.of({"seed": 3}) == Unit(0, 3)
    assert units.of({"world": 2, "seed": 3}) == Unit(2, 3)


def test_a_unit_is_written_and_read():
    assert str(Unit(12, 1)) == "12/1"
    assert units.parse(str(Unit(12, 1))) == Unit(12, 1)


def test_seeds_are_averaged_within_their_world():
    values = {Unit(1, 0): 4.0, Unit(0, 0): 1.0, Unit(0, 1): 2.0}
    assert units.worlds(values) == {0: 1.5, 1: 4.0}


def test_intraclass_correlation_worked_by_hand():
    # MSB = 2·(1² + 1²)/1 = 4 about the grand mean 2, MSW = (0.5 + 0.5)/2 = 0.5
    values = {Unit(0, 0): 0.5, Unit(0, 1): 1.5, Unit(1, 0): 2.5, Unit(1, 1): 3.5}
    assert units.intraclass(values) == pytest.approx((4 - 0.5) / (4 + 0.5))
    same = {Unit(w, s): float(w) for w in range(3) for s in range(2)}
    assert units.intraclass(same) == 1.0


def test_intraclass_correlation_is_recovered(rng):
    worlds = rng.normal(0, 0.4**0.5, (3000, 1))
    values = worlds + rng.normal(0, 0.6**0.5, (3000, 2))
    table = {Unit(w, s): values[w, s] for w in range(3000) for s in range(2)}
    # The standard error of an intraclass correlation of pairs: (1 − ρ²)/√worlds.
    assert abs(units.intraclass(table) - 0.4) < 4 * (1 - 0.4**2) / 3000**0.5


def test_unequal_numbers_of_seeds_are_allowed(rng):
    table = {Unit(w, s): float(w) for w in range(4) for s in range(1 + w % 2)}
    assert units.intraclass(table) == 1.0


@pytest.mark.parametrize(
    "values",
    [
        {Unit(0, s): float(s) for s in range(3)},  # one world
        {Unit(w, 0): float(w) for w in range(3)},  # one seed in each
        {Unit(w, s): 1.0 for w in range(3) for s in range(2)},  # no variance at all
    ],
)
def test_where_nothing_can_be_said_it_is_nan(values):
    assert math.isnan(units.intraclass(values))
    assert np.isfinite(list(units.worlds(values).values())).all()
