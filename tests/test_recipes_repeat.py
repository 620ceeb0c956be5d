"""--config: an earlier run's flags as defaults, checked value by value."""

import dataclasses
import json
import sys
from typing import Literal

import pytest

from experiments import sentiment
from rlhf_jax import command, flags, parallel, repeat


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    horizon: float = float("inf")


@dataclasses.dataclass(frozen=True)
class Config:
    output: str | None = None
    resume: bool = False
    steps: int = 8
    limit: int | None = None
    methods: tuple[str, ...] = ("ppo", "sft")
    dtype: Literal["float32", "bfloat16"] = "float32"
    log: flags.Log = dataclasses.field(default_factory=flags.Log)
    inner: Inner = dataclasses.field(default_factory=Inner)


OTHER = Config(
    "there", True, 3, 2, ("ppo",), "bfloat16", flags.Log(wandb=True), Inner(0.5, 7.0)
)


@pytest.fixture
def written(tmp_path):
    """config.json as a run writes it."""
    command.write_config(tmp_path, OTHER, parallel.data(1))
    return tmp_path / "config.json"


def parse(monkeypatch, *words, default=None):
    monkeypatch.setattr(sys, "argv", ["x.py", *map(str, words)])
    return command.parse(default or Config(), description="What it does.")


def test_a_run_is_repeated_in_a_folder_of_its_own(monkeypatch, written):
    wanted = dataclasses.replace(OTHER, output=None, resume=False)
    assert parse(monkeypatch, "--config", written) == wanted
    assert parse(monkeypatch, f"--config={written}") == wanted
    assert parse(monkeypatch, "--config", written.parent) == wanted
    assert command.digest(wanted) == command.digest(OTHER)


def test_flags_override_it_wherever_they_stand(monkeypatch, written):
    words = ("--steps", 9, "--config", written, "--inner.horizon", "inf")
    found = parse(monkeypatch, *words)
    assert (found.steps, found.inner) == (9, Inner(0.5))
    assert found.methods == ("ppo",)


def test_the_default_config_of_the_study_survives(monkeypatch, tmp_path):
    command.write_config(tmp_path, sentiment.CONFIG, parallel.data(1))
    found = parse(monkeypatch, "--config", tmp_path, default=sentiment.CONFIG)
    assert found == sentiment.CONFIG


def test_help_tells_of_it(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parse(monkeypatch, "--help")
    assert "--config FILE repeats the run" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"steps": "many"}, "--steps cannot be 'many'"),
        ({"steps": True}, "--steps cannot be True"),
        ({"inner": {"rate": None}}, "--inner.rate cannot be None"),
        ({"dtype": "float8"}, "--dtype cannot be 'float8'"),
        ({"methods": [1]}, r"--methods cannot be \[1\]"),
        ({"inner": {"speed": 1}}, "it sets --inner.speed, which is no flag here"),
    ],
)
def test_what_does_not_fit_is_named(written, change, said):
    facts = json.loads(written.read_text())
    facts["config"] |= change
    written.write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=said):
        repeat.default(Config(), ["--config", str(written)])


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "no such file"), ("{", "is no config.json"), ("[1]", "is no config.json")],
)
def test_a_file_that_is_none_is_one_line(monkeypatch, capsys, tmp_path, content, said):
    file = tmp_path / "c.json"
    if content:
        file.write_text(content)
    with pytest.raises(SystemExit) as stop:
        parse(monkeypatch, "--config", file)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and said in line and str(file) in line
    with pytest.raises(ValueError, match="name the config.json"):
        repeat.default(Config(), ["--config"])
