"""The smoke test of versions: its own parts. The whole: `python -m tests.smoke`."""

import pathlib
import subprocess
import sys

import pytest
import smoke


def test_every_module_imports_or_names_the_extra_that_it_needs():
    assert smoke.import_all() == {}
    names = smoke.modules()
    assert {"rlhf_jax", "rlhf_jax.losses", "experiments.rl"} <= set(names)
    assert not any(name.endswith("__main__") for name in names)


def test_a_module_that_fails_is_named_with_its_reason(tmp_path, monkeypatch):
    package = tmp_path / "rlhf_jax_broken"
    package.mkdir()
    (package / "old.py").write_text("from jax import no_such_name")
    extra = "raise ImportError(\"it needs x: pip install 'rlhf_jax[eval]'\")"
    (package / "optional.py").write_text(extra)
    monkeypatch.syspath_prepend(tmp_path)
    names = ["rlhf_jax_broken.old", "rlhf_jax_broken.optional"]
    monkeypatch.setattr(smoke, "modules", lambda: names)
    assert list(smoke.import_all()) == ["rlhf_jax_broken.old"]
    assert "no_such_name" in smoke.import_all()["rlhf_jax_broken.old"]


def test_the_tests_of_it_exist():
    for name in smoke.TESTS:
        assert (smoke.ROOT / name).is_file(), name


@pytest.mark.slow
def test_the_smoke_test_passes_here(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.smoke"],
        cwd=pathlib.Path(__file__).resolve().parent.parent,
        capture_output=True, text=True,
    )  # fmt: skip
    last = done.stdout.strip().splitlines()[-1]
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "imports ok, tests ok, study ok" in last
