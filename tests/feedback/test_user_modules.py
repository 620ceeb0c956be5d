"""feedback.user_modules: errors of a user's module are a line with file and line."""

import sys

import pytest

from rlhf_jax.feedback import user_modules

HELPER = "def work():\n    return undefined\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "um_helper.py").write_text(HELPER)
    yield tmp_path
    for name in ("um_bad", "um_helper"):
        sys.modules.pop(name, None)


def refused(name):
    with pytest.raises(ValueError) as error:
        user_modules.attribute(name)
    (line,) = str(error.value).splitlines()
    return line


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import a_missing_module", "ModuleNotFoundError: No module named 'a_missing"),
        ("from math import nothing", "ImportError: cannot import name 'nothing'"),
        ("def f(:\n    pass", "SyntaxError: "),
        ("import sys\nsys.exit(2)", "called sys.exit(2)"),
        ("raise SystemExit", "called sys.exit()"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("import um_helper\num_helper.work()", "name 'undefined' is not defined"),
        ("x = 'a\0b'", "null bytes"),
    ],
)
def test_a_module_that_cannot_be_imported(folder, source, said):
    (folder / "um_bad.py").write_text(source)
    line = refused("um_bad:f")
    assert line.startswith("--reward um_bad:f: um_bad, while it was imported, ")
    last = 1 if "\0" in source or "def" in source else len(source.splitlines())
    assert said in line and line.endswith(f"(in {folder}/um_bad.py, line {last})")


def test_bytes_that_are_no_text(folder):
    (folder / "um_bad.py").write_bytes(b"x = '\xe9'\n")
    assert "um_bad.py, line 1)" in refused("um_bad:f")


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("./rewards:short", "did you mean rewards:short"),
        ("rewards.py:short", "did you mean rewards:short"),
        ("my/rewards.py:short", "did you mean my.rewards:short"),
        ("/home/me/rewards.py:short", "run from /home/me with rewards:short"),
        ("../rewards:short", "run from .. with rewards:short"),
    ],
)
def test_a_path_in_place_of_a_module(folder, name, fix):
    assert refused(name).endswith(fix) and refused(name).startswith(f"--reward {name}:")


@pytest.mark.parametrize("name", [".rewards:f", "um_no:f", "sys:no", "a b:f"])
def test_odd_names_are_refused_in_a_line(folder, name):
    assert f"--reward {name}: " in refused(name)


def test_a_stop_while_a_module_is_imported_is_no_error_of_it(folder):
    (folder / "um_bad.py").write_text("raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        user_modules.attribute("um_bad:f")
