"""--config and --preset: flags by a name, as defaults, checked value by value."""

import dataclasses
import json
import sys
from typing import Literal

import pytest

from experiments import sentiment
from rlhf_jax import ranges
from rlhf_jax.cli import command, options, presets
from rlhf_jax.runtime import parallel, provenance


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    horizon: ranges.Limit = float("inf")


@dataclasses.dataclass(frozen=True)
class Config:
    output: str | None = None
    resume: bool = False
    steps: int = 8
    limit: int | None = None
    methods: tuple[str, ...] = ("ppo", "sft")
    dtype: Literal["float32", "bfloat16"] = "float32"
    log: options.Log = dataclasses.field(default_factory=options.Log)
    inner: Inner = dataclasses.field(default_factory=Inner)
    preset: str | None = None


OTHER = Config(
    "there", True, 3, 2, ("ppo",), "bfloat16", options.Log(wandb=True), Inner(0.5, 7.0)
)


@pytest.fixture
def written(tmp_path):
    """config.json as a run writes it."""
    command.write_config(tmp_path, OTHER, parallel.data(1))
    return tmp_path / "config.json"


PRESETS = {
    "paper": presets.Preset(
        "as published",
        {"steps": 50, "limit": 7, "inner.rate": 1, "methods": ("ppo",)},
        ("The seeds are unknown.",),
    ),
    "quick": presets.Preset("minutes", {"steps": 2}),
}


def parse(monkeypatch, *words, default=None, presets=None):
    monkeypatch.setattr(sys, "argv", ["x.py", *map(str, words)])
    about = "What it does."
    return command.parse(default or Config(), description=about, presets=presets)


def test_a_run_is_repeated_in_a_folder_of_its_own(monkeypatch, written):
    wanted = dataclasses.replace(OTHER, output=None, resume=False)
    assert parse(monkeypatch, "--config", written) == wanted
    assert parse(monkeypatch, f"--config={written}") == wanted
    assert parse(monkeypatch, "--config", written.parent) == wanted
    assert provenance.digest(wanted) == provenance.digest(OTHER)


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
        presets.default(Config(), ["--config", str(written)])


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
        presets.default(Config(), ["--config"])


# Presets


def preset(monkeypatch, *words):
    return parse(monkeypatch, *words, presets=PRESETS)


def test_a_preset_sets_its_flags_and_nothing_else(monkeypatch):
    wanted = Config(
        steps=50, limit=7, methods=("ppo",), inner=Inner(1.0), preset="paper"
    )
    assert preset(monkeypatch, "--preset", "paper") == wanted
    assert preset(monkeypatch, "--preset=paper") == wanted
    assert preset(monkeypatch) == Config()
    assert preset(monkeypatch, "--preset", "paper", "--preset", "quick").steps == 2


def test_flags_win_over_a_preset_wherever_they_stand(monkeypatch):
    words = ("--steps", 9, "--preset", "paper", "--inner.rate", 0.5)
    found = preset(monkeypatch, *words)
    assert (found.steps, found.inner, found.limit) == (9, Inner(0.5), 7)
    assert presets.changed(found, PRESETS) == {"steps": (50, 9), "inner.rate": (1, 0.5)}
    assert presets.describe(found, PRESETS) == (
        "paper: as published",
        "changed: --steps 9, in the preset 50",
        "changed: --inner.rate 0.5, in the preset 1",
        "The seeds are unknown.",
    )
    assert presets.describe(Config(), PRESETS) == ()


def test_a_preset_wins_over_an_earlier_run(monkeypatch, written):
    for words in (("--config", written, "--preset", "quick"), ("--preset", "quick")):
        found = preset(monkeypatch, *words)
        assert (found.steps, found.preset) == (2, "quick")
    words = ("--preset", "quick", "--config", written)
    assert preset(monkeypatch, *words).limit == OTHER.limit


def test_a_preset_is_recorded_and_repeated_by_its_values(monkeypatch, tmp_path):
    config = preset(monkeypatch, "--preset", "paper", "--steps", 9)
    command.write_config(tmp_path, config, parallel.data(1))
    facts = json.loads((tmp_path / "config.json").read_text())
    assert facts["config"]["preset"] == "paper" and facts["config"]["limit"] == 7
    assert preset(monkeypatch, "--config", tmp_path) == config
    typed = dataclasses.replace(config, preset=None)
    assert provenance.digest(typed) == provenance.digest(config)


def test_help_shows_what_presets_there_are(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        preset(monkeypatch, "--help")
    said = capsys.readouterr().out
    assert "paper: as published\n" in said and "quick: minutes\n" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--preset", "papr"), "--preset papr: unknown; choose from paper, quick"),
        (("--preset",), "--preset: name one after it: paper, quick"),
    ],
)
def test_a_preset_that_is_none_is_one_line(monkeypatch, capsys, words, said):
    with pytest.raises(SystemExit) as stop:
        preset(monkeypatch, *words)
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and said in line


def test_where_there_are_no_presets_one_is_not_taken_for_a_label(monkeypatch, capsys):
    with pytest.raises(SystemExit):
        parse(monkeypatch, "--preset", "paper")
    assert "--preset: there are none here" in capsys.readouterr().err


def test_a_preset_that_does_not_fit_is_named():
    wrong = {"wrong": presets.Preset("", {"inner.speed": 1})}
    with pytest.raises(ValueError, match="--preset wrong.*--inner.speed.*no flag"):
        presets.preset(Config(), "wrong", wrong)
