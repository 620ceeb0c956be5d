"""What lies just outside of every range, at every command: one line, nothing written.

The line names the value and where it stands; the exit status is 2, and the folder is as
it was. The quick suite reads a hundred of them, always the same.
"""

import pytest
import wrong_inputs
from commands import GIVEN, NAMES, call


@pytest.fixture
def faults(monkeypatch, capsys, tmp_path):
    """What is wrong with how a command refuses words; empty if nothing is."""

    def faults(name, words):
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stop:
            call(name, [*GIVEN.get(name, "").split(), *words], monkeypatch)
        said = capsys.readouterr()
        lines = said.err.splitlines()
        wrong = []
        if stop.value.code != 2:
            wrong.append(f"status {stop.value.code}")
        if said.out or len(lines) != 1:
            wrong.append(f"{len(lines)} lines, {said.out!r} on stdout")
        if not lines or not lines[0].startswith(f"error: {words[0].split('=')[0]}"):
            wrong.append("the flag is not named first")
        if not any(
            part in said.err for part in (": must be ", "no such", ": a v", ": it t")
        ):
            wrong.append("no fix is named")
        if list(tmp_path.iterdir()):
            wrong.append(f"it wrote {list(tmp_path.iterdir())}")
        return [f"{name} {' '.join(words)}: {x}: {said.err}" for x in wrong]

    return faults


@pytest.mark.parametrize(("name", "words"), wrong_inputs.hundred())
def test_a_hundred_of_them(faults, name, words):
    assert not faults(name, words)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_all_of_them(faults, name):
    asked = wrong_inputs.of_command(name)
    assert asked
    wrong = [line for words in asked for line in faults(name, words)]
    assert not wrong, "\n".join(wrong[:20])


def test_there_are_hundreds_of_them():
    assert sum(len(wrong_inputs.of_command(name)) for name in NAMES) >= 500
