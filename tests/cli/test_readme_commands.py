"""Every command that a README shows is one: its flags are read by what it names."""

import pathlib
import re
import runpy
import shlex
import sys
import warnings

import pytest

from rlhf_jax.cli import command

ROOT = pathlib.Path(__file__).resolve().parents[2]
READMES = ("README.md", "experiments/README.md", "experiments/results/README.md")
OTHERS = ("rlhf_jax.microworld",)  # without a configuration


def written():
    """The command lines of all code blocks for a shell, without `python -m`."""
    for name in READMES:
        text = (ROOT / name).read_text()
        for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL):
            for line in block.replace("\\\n", " ").splitlines():
                yield from re.findall(r"python -m ((?:experiments|rlhf_jax).*)", line)


def words(line):
    """A command line as a shell splits it, its placeholders filled in."""
    line = re.split(r"\s#|\s[|&>]|'$", line)[0].replace(" ...", "")
    line = re.sub(r"\$(?!DATA)\w+", "", line)  # flags that the line above names
    return shlex.split(re.sub(r"[<>]", "_", line))


COMMANDS = sorted({tuple(words(line)) for line in written()})


def test_the_readmes_show_many():
    assert len(COMMANDS) > 80


class Read(Exception):
    """The flags were read, and something would run."""


@pytest.fixture
def stopped(monkeypatch):
    """Every command stops when it has read its flags."""

    def main(run):
        raise Read

    monkeypatch.setattr(command, "main", main)


def call(monkeypatch, name, *flags):
    monkeypatch.setattr(sys, "argv", [name, *flags])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # it may be imported already
        runpy.run_module(name, run_name="__main__")


@pytest.mark.usefixtures("stopped")
@pytest.mark.parametrize("line", COMMANDS, ids=" ".join)
def test_a_command_of_a_readme_is_read(line, monkeypatch):
    if line[0] not in OTHERS:
        with pytest.raises(Read):
            call(monkeypatch, *line)


@pytest.mark.usefixtures("stopped")
def test_a_flag_that_is_none_would_be_found(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call(monkeypatch, "experiments.sft", "--modle", "m")
    assert "--modle" in capsys.readouterr().err
