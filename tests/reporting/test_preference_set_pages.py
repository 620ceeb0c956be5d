"""Preference sets in a report: tables, lines, the picture."""

import numpy as np
import pytest

from rlhf_jax.evaluation import preference_sets
from rlhf_jax.reporting import preference_sets as reports


@pytest.fixture
def found(rng):
    scores, lengths = rng.normal(size=(60, 2)), rng.integers(1, 90, (60, 2))
    made = {
        name: preference_sets.measure(scores[:n], lengths[:n], temperature=2.0)
        for name, n in (("held-out", 60), ("one pair", 1))
    }
    return {"temperature": 2.0, "sets": made}


def test_a_section_says_on_what_the_temperature_was_fitted(found):
    text = "\n\n".join(reports.section(found))
    assert "T = 2, which was fitted on held-out and on nothing else" in text
    own = found["sets"]["held-out"]
    assert f"| held-out | 60 | {own['accuracy']['mean']:.3g} [" in text
    assert f"{own['ece']:.3g} → {own['scaled']['ece']:.3g}" in text
    assert "– |" in text  # of one pair, most strata hold none


def test_without_a_temperature_nothing_is_behind_the_arrow(found):
    for one in found["sets"].values():
        one["scaled"] = None
    text = "\n\n".join(reports.section({**found, "temperature": 0.0}))
    assert " → – |" in text
    assert [line.split()[0] for line in reports.lines(found)] == ["held-out", "one"]


def test_a_panel_a_set_with_intervals_inside_of_it(found, tmp_path):
    path = reports.draw(found, tmp_path / "reliability.png", "title")
    assert path.stat().st_size > 20_000
    sheet, grid = reports.figure_style.sheet(1, 1, width=3, height=3)
    reports._panel(grid[0, 0], "held-out", found["sets"]["held-out"])
    _, points, *_ = (line.get_ydata() for line in grid[0, 0].lines)
    np.testing.assert_allclose(
        points, found["sets"]["held-out"]["reliability"]["accuracy"]
    )
    assert "ECE" in grid[0, 0].texts[0].get_text()
