"""What is asked of a notebook: a clean run, committed outputs, cells that are short.

Its tests stand in several files, for a file is what one worker runs.
"""

import os
import pathlib
import re
import shutil

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need nbclient, ipykernel")

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "notebooks"
MACHINE = re.compile(
    r"(?<![\w.:/])/(?:home|root|tmp|opt|usr|var|work|mnt|Users|private)/|[A-Z]:\\\\"
    r"|site-packages|ipykernel_\d|file://"
)


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


def run(name, folder, monkeypatch):
    """The notebook after a clean run in an empty folder; raises if a cell does.

    With a reader's settings: pictures inline, one device, no traces at home.
    """
    nbclient = pytest.importorskip("nbclient", reason="nbclient runs notebooks")
    pytest.importorskip("ipykernel", reason="ipykernel runs the cells of notebooks")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    copy = shutil.copy(FOLDER / f"{name}.ipynb", folder)
    notebook = nbformat.read(copy, as_version=4)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    resources = {"metadata": {"path": str(folder)}}
    # A cell that raises makes `execute` raise, with its traceback.
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    return notebook


def check_results(notebook, count, patterns):
    """So many pictures, and everything printed that must be."""
    assert len(pictures(notebook)) == count
    for pattern in patterns:
        assert re.search(pattern, printed(notebook)), f"{pattern!r} was not printed"


def check_clean(notebook):
    """Outputs are those of one run from the first cell to the last, without errors."""
    order = [cell.execution_count for cell in code_cells(notebook)]
    assert order == list(range(1, len(order) + 1))
    for output in outputs(notebook):
        assert output.output_type != "error"
        assert output.get("name") != "stderr", output.text


def check_names_no_machine(name):
    """No path of the machine, no name of a kernel or an editor."""
    text = (FOLDER / f"{name}.ipynb").read_text("utf-8")
    for picture in pictures(load(name)):
        text = text.replace(picture.strip(), "")
    assert not MACHINE.search(text), MACHINE.search(text)
    metadata = load(name).metadata
    assert metadata.kernelspec.name == "python3"
    assert set(metadata) == {"kernelspec", "language_info"}
    assert all(not cell.metadata for cell in load(name).cells)


def check_readable(notebook):
    """Logic belongs to the package: cells are short, and each notebook asserts."""
    sources = [cell.source for cell in code_cells(notebook)]
    for source in sources:
        lines = source.splitlines()
        assert len(lines) <= 25 and max(map(len, lines)) <= 88, source
    assert sum(len(re.findall(r"\bassert", source)) for source in sources) >= 5
