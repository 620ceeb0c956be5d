"""Statements: a difference a unit, judged within a family, and as they are printed."""

import math

import numpy as np
import pytest

from rlhf_jax.evaluation import statistics
from rlhf_jax.evaluation.units import Unit
from rlhf_jax.reporting import statements
from rlhf_jax.reporting.statements import Statement


def made(gap, *, worlds=10, seeds=1, text="it falls", family="Curves", **fields):
    """A statement whose differences scatter around `gap`."""
    noise = np.random.default_rng(0).normal(0, 0.01, (worlds, seeds))
    differences = {
        Unit(w, s): gap + float(noise[w, s])
        for w in range(worlds)
        for s in range(seeds)
    }
    return Statement(family, text, differences, 0.1, **fields)


def test_a_row_is_the_verdict_on_its_differences():
    one = made(0.3)
    (row,) = statements.judge([one])
    expected = statistics.verdict(list(one.differences.values()), 0.1)
    assert {k: row[k] for k in expected._fields} == expected._asdict()
    assert row["word"] == "reproduced"
    assert row["per_unit"]["3/0"] == one.differences[Unit(3, 0)]


def test_seeds_are_averaged_within_worlds_before_the_test():
    (row,) = statements.judge([made(0.3, seeds=3)])
    means = np.reshape(list(row["per_unit"].values()), (10, 3)).mean(1)
    assert row["worlds"] == 10
    assert (row["mean"], row["p"]) == pytest.approx((means.mean(), 2 / 2**10))


def test_holm_is_within_a_family():
    rows = statements.judge(
        [made(0.3), made(0.0, text="it rises"), made(0.3, family="Lengths")]
    )
    first, second, alone = rows
    expected = statistics.holm([first["p"], second["p"]])
    assert [first["p_holm"], second["p_holm"]] == pytest.approx(list(expected))
    assert alone["p_holm"] == alone["p"] < first["p_holm"]


def test_a_unit_without_a_number_is_left_out_and_counted():
    one = made(0.3)
    holes = {Unit(0, 0): math.nan, Unit(1, 0): math.inf}
    (row,) = statements.judge([one._replace(differences=one.differences | holes)])
    assert (row["missing"], row["worlds"]) == (2, 8)
    assert math.isnan(row["per_unit"]["0/0"])
    rest = [x for unit, x in one.differences.items() if unit.world > 1]
    assert row["mean"] == pytest.approx(np.mean(rest))
    assert "2 units without" in statements.line(row)[2]


def test_a_statement_without_any_number_is_not_judged():
    nothing = made(0.3)._replace(differences={Unit(0, 0): math.nan})
    assert statements.judge([nothing, made(0.3)._replace(differences={})]) == []


def test_no_difference_can_be_what_is_stated():
    close, apart = made(0.0, kind="equal"), made(0.3, kind="equal")
    rows = statements.judge([close, apart])
    assert [row["word"] for row in rows] == ["≈", "contradicted"]


def test_below_eight_worlds_nothing_is_tested():
    (row,) = statements.judge([made(0.3, worlds=7)])
    assert row["word"] == "no test" and "p_holm" not in row
    text, smallest, difference, p, p_holm, word = statements.line(row)
    assert (p, p_holm, word) == ("", "", "no test") and "[" not in difference


def test_an_untested_statement_does_not_enter_the_family():
    few, many = statements.judge([made(0.3, worlds=7), made(0.3, text="it rises")])
    assert many["p_holm"] == many["p"] and few["word"] == "no test"


def test_a_line_has_printed_units_and_says_what_would_decide():
    wide = {Unit(w, 0): 0.05 + 0.3 * (-1) ** w for w in range(8)}
    one = Statement("Lengths", "longer", wide, 0.1, scale=100.0, unit="points")
    (row,) = statements.judge([one])
    text, smallest, difference, p, p_holm, word = statements.line(row)
    assert (text, smallest) == ("longer", "10 points")
    # s = 0.3 √(8/7), so the half width is 2.3646 s/√8 = 26.8 points.
    assert difference.startswith("5 [-21.8, 31.8]")
    needed = statistics.worlds_needed(np.std(list(wide.values()), ddof=1), 0.1)
    assert word == f"**undecided** (about {needed} worlds would decide)"


def test_a_table_a_family_in_the_order_of_the_statements():
    rows = statements.judge([made(0.3), made(0.3, family="Lengths"), made(0.1)])
    parts = list(statements.render(rows))
    assert parts[::2] == ["### Curves", "### Lengths"]
    assert [len(part.splitlines()) for part in parts[1::2]] == [4, 3]
    assert "**reproduced**" in parts[1]
