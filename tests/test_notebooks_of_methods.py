"""Notebooks of losses, toys and recorded runs: they run, and say what is committed."""

import notebook_checks
import pytest
import test_notebooks_of_models

# Notebook → (pictures, what it must have printed).
EXPECTED = {
    "losses": (
        2,
        (
            r"slope -?\d",
            r"tempted nan",
            r"mean of means +gradient off by \d+%",
            r"count = all tokens +gradient off by \de-0[6-9]",
            r"loss at the reference 0\.69314\d",
            r"NaN-proof",
        ),
    ),
    "elastic_reset": (
        4,
        (
            r"none of 14,000 measured policies lies above the bound",
            r"proxy after 39 iterations of cycle",
            r"Elastic Reset, w = 0\.3 +\d",
            r"gold that plain RL lost since its best",
        ),
    ),
    "fronts": (
        2,
        (
            r"elastic_reset +3 seeds, 14 looks each",
            r"resets after iterations 15 29 43",
            r"by hand (\d\.\d{6}), in the table \1",
            r"ppo +same half \d\.\d+ +other half",
            r"seed 0 regained 3 of 3",
        ),
    ),
    "objective_mismatch": (
        2,
        (
            r"gold=rewards/gold/mean kl=kl",
            r"proxy and gold part near step 3\d .*: since then proxy 2\.\d+ → 25",
            r"up to gold's peak: correlation with the proxy +(1\.00|0\.9\d)",
            r"from  gold's peak: correlation with the proxy -(1\.00|0\.9\d)",
            r"best gold 1\.\d+ near step 26",
            r"without gold mismatch itself cannot be seen",
            r"length +alarm at step 25, lead \+5\.5 steps",
            r"exit status 3",
        ),
    ),
}
names = pytest.mark.parametrize("name", EXPECTED)


@names
def test_notebook_runs_and_its_assertions_hold(name, tmp_path, monkeypatch):
    notebook = notebook_checks.run(name, tmp_path, monkeypatch)
    notebook_checks.check_results(notebook, *EXPECTED[name])


@names
def test_committed_outputs_are_those_of_one_clean_run(name):
    notebook = notebook_checks.load(name)
    notebook_checks.check_results(notebook, *EXPECTED[name])
    notebook_checks.check_clean(notebook)


@names
def test_committed_notebook_names_no_machine(name):
    notebook_checks.check_names_no_machine(name)


@names
def test_notebook_stays_readable(name):
    notebook_checks.check_readable(notebook_checks.load(name))


def test_every_notebook_is_tested_and_all_are_light():
    found = sorted(notebook_checks.FOLDER.glob("*.ipynb"))
    tested = {*EXPECTED, *test_notebooks_of_models.EXPECTED}
    assert {path.stem for path in found} == tested
    size = sum(path.stat().st_size for path in found)
    assert size < 1_000_000, f"{size} bytes: save the pictures with fewer colours"
