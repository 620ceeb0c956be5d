"""Notebooks that train models: they run, and what is committed is what they say."""

import notebook_checks
import pytest

# Notebook → (pictures, what it must have printed).
EXPECTED = {
    "alignment_tax": (
        1,
        (
            r"before +reward +-?0\.\d+ +capitals (9\d|100)%",
            r"after +reward +[45]\.\d+ +capitals [1-6]\d%",
            r"lost \d\d, gained \d, p = \de-\d+",
            r"HMA 0\.6 = mean of 0\.\d\d, 0\.\d\d, 0\.\d\d",
            r"MA +0\.6: returned +(\d\d|100)% of the tax for +-?\d+% of the reward",
        ),
    ),
    "rlaif": (
        1,
        (
            r"shipped: harmless_base, .*summarization_rating",
            r"<bos> compare\s+\w+ , \w+ (by|with) \w+ .* A : .* B : .*\s+better \?",
            r"asked again: still 20 calls in the ledger",
            r"swapping the candidates gives exactly 1 − p",
            r"same slot in both orders \d\d%, of these the first [5-9]\d%",
            r"learned from labeler  right on people's other pairs: [5-7]\d%",
        ),
    ),
    "library": (
        1,
        (
            r"nll of held-out answers 6\.\d\d",
            r"in the run's folder: .*model report\.md",
            r"pairs in the right order: (9\d|100)%",
            r"eval/reward +-?\d\.\d+ → +\d\.\d+",
            r"KL at a reset: \d\.\d+ → \d\.\d+",
            r"aligned +\d+\.\d+  The film was",
            r"modle: there is no such flag",
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
