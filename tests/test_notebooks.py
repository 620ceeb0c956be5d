"""The notebooks run, what they assert holds, and what is committed is what they say."""

import os
import pathlib
import re
import shutil

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need nbclient, ipykernel")

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
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
    "alignment_tax": (
        1,
        (
            r"before +reward +-?0\.\d+ +capitals (9\d|100)%",
            r"after +reward +[45]\.\d+ +capitals [1-6]\d%",
            r"lost \d\d, gained \d, p = \de-\d+",
            r"HMA 0\.6 = mean of 0\.\d\d, 0\.\d\d, 0\.\d\d",
            r"MA +0\.6: returned +\d\d% of the tax for +-?\d+% of the reward",
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
MACHINE = re.compile(
    r"(?<![\w.:/])/(?:home|root|tmp|opt|usr|var|work|mnt|Users|private)/|[A-Z]:\\\\"
    r"|site-packages|ipykernel_\d|file://"
)
names = pytest.mark.parametrize("name", EXPECTED)


def load(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell.outputs]


def printed(notebook):
    return "".join(o.text for o in outputs(notebook) if o.output_type == "stream")


def pictures(notebook):
    return [o.data["image/png"] for o in outputs(notebook) if "image/png" in _data(o)]


def _data(output):
    return output.get("data", {})


def check_results(notebook, name):
    count, patterns = EXPECTED[name]
    assert len(pictures(notebook)) == count
    for pattern in patterns:
        assert re.search(pattern, printed(notebook)), f"{pattern!r} was not printed"


@pytest.fixture
def kernel_settings(tmp_path, monkeypatch):
    """The settings of a reader: pictures inline, one device, no traces at home."""
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))


@names
def test_notebook_runs_and_its_assertions_hold(name, tmp_path, kernel_settings):
    nbclient = pytest.importorskip("nbclient", reason="nbclient runs notebooks")
    pytest.importorskip("ipykernel", reason="ipykernel runs the cells of notebooks")
    copy = shutil.copy(FOLDER / f"{name}.ipynb", tmp_path)
    notebook = nbformat.read(copy, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": str(tmp_path)}}
    # A cell that raises makes `execute` raise, with its traceback.
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    check_results(notebook, name)


@names
def test_committed_outputs_are_those_of_one_clean_run(name):
    notebook = load(name)
    check_results(notebook, name)
    order = [cell.execution_count for cell in code_cells(notebook)]
    assert order == list(range(1, len(order) + 1))
    for output in outputs(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text


@names
def test_committed_notebook_names_no_machine(name):
    text = (FOLDER / f"{name}.ipynb").read_text("utf-8")
    for picture in pictures(load(name)):
        text = text.replace(picture.strip(), "")
    assert not MACHINE.search(text), MACHINE.search(text)
    metadata = load(name).metadata
    assert metadata.kernelspec.name == "python3"
    assert set(metadata) == {"kernelspec", "language_info"}
    assert all(not cell.metadata for cell in load(name).cells)


@names
def test_notebook_stays_readable(name):
    """Logic belongs to the package: cells are short, and each notebook asserts."""
    sources = [cell.source for cell in code_cells(load(name))]
    for source in sources:
        lines = source.splitlines()
        assert len(lines) <= 25 and max(map(len, lines)) <= 88, source
    assert sum(len(re.findall(r"\bassert", source)) for source in sources) >= 5


def test_every_notebook_is_tested_and_all_are_light():
    found = sorted(FOLDER.glob("*.ipynb"))
    assert {path.stem for path in found} == set(EXPECTED)
    size = sum(path.stat().st_size for path in found)
    assert size < 1_000_000, f"{size} bytes: save the pictures with fewer colours"
