"""Help: every flag is described, those that matter stand first, one line each."""

import typing
from typing import Literal

import pytest
import wrong_inputs
from commands import NAMES, call, config

from rlhf_jax import ranges
from rlhf_jax.cli import help as help_lib
from rlhf_jax.cli import presets, trl

SHORT = [name for name in NAMES if hasattr(config(name), "essential")]
RECIPES = ("sft", "reward_model", "preference", "rl")


@pytest.mark.parametrize("name", NAMES)
def test_every_flag_has_a_help_text_and_every_number_a_range(name):
    for spelled, flag in help_lib.flags(config(name)).items():
        assert flag.help.strip(), f"{spelled} says nothing about itself"
        kind, marks = wrong_inputs.bare(flag.hint)
        if kind in (int, float):
            ranged = [mark for mark in marks if isinstance(mark, ranges.Range)]
            assert ranged, f"{spelled} has no range"


@pytest.mark.parametrize("name", NAMES)
def test_a_text_is_empty_only_where_it_may_be(name):
    """Where an empty text is the default, it says that nothing was given."""
    for spelled, flag in help_lib.flags(config(name)).items():
        kind, marks = wrong_inputs.bare(flag.hint)
        if kind is str and spelled != "--prompts":
            filled = any(isinstance(mark, ranges.NotEmpty) for mark in marks)
            assert filled or flag.default == "", spelled


@pytest.fixture
def helped(monkeypatch, capsys, tmp_path):
    """The lines of a command's help, in a terminal of 80 columns."""

    def helped(name, word):
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stop:
            call(name, [word], monkeypatch)
        said = capsys.readouterr()
        assert (stop.value.code, said.err) == (0, "")
        return said.out.splitlines()

    return helped


@pytest.mark.parametrize("name", SHORT)
def test_help_has_one_line_for_each_flag_that_matters(helped, name):
    lines = helped(name, "--help")
    essential = config(name).essential
    shown = [line for line in lines if line.startswith("  --")]
    for flag, line in zip(essential, shown, strict=True):
        assert line.startswith(f"  --{flag.replace('_', '-')}")
    assert len(essential) <= 25 and len(set(essential)) == len(essential)
    assert max(map(len, shown)) <= 80
    assert "--help-all shows all" in lines[lines.index(shown[-1]) + 2]


def test_every_recipe_and_study_has_short_help():
    assert {*RECIPES, "sentiment", "stack_exchange", "label"} <= set(SHORT)


def test_help_all_shows_every_flag(helped):
    said = "\n".join(helped("rl", "--help-all"))
    for spelled in help_lib.flags(config("rl")):
        assert spelled in said


def test_help_of_a_command_with_few_flags_is_whole(helped):
    assert helped("generate", "--help") == helped("generate", "--help-all")


def test_a_line_shows_the_default_and_the_choices():
    made = config("rl")
    said = help_lib.short(
        made,
        program="rl",
        description="What.\n\nMore.",
        presets={"paper": presets.Preset("", {})},
    )
    assert "\n  --steps 100 " in said and "\n  --policy … " in said
    assert "--algorithm ppo " in said and " ppo, reinforce, rloo, " in said
    assert "More." not in said and "--preset NAME" in said


# What is said of words that are no flags


def test_a_flag_of_trl_is_answered_with_ours():
    known = help_lib.flags(config("sft"))
    assert help_lib.unknown("--num_train_epochs", known).endswith(
        "TRL's num_train_epochs is --fit.epochs here"
    )
    assert "--help-all" in help_lib.unknown("--num_generations", known)


def test_every_name_of_trl_leads_to_a_flag_of_some_recipe():
    known = {
        flag.removeprefix("--")
        for name in (*RECIPES, "generate")
        for flag in help_lib.flags(config(name))
    }
    for name, ours in trl.NAMES.items():
        assert ours and set(ours) <= known, name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--stepss", "3"], "--stepss: there is no such flag; did you mean --steps"),
        (["--steps"], "--steps: a value must follow it"),
        (["--steps", "abc"], "--steps abc: must be a whole number of at least 1"),
        (["--rl.packed", "yes"], "--rl.packed yes: it takes no value; "),
        (["extra"], "extra: a flag must stand before it"),
        (["--rl.clip", "-.5"], "--rl.clip -.5: must be a number above 0"),
        (["--output="], "--output '': must be a text that is not empty"),
    ],
)
def test_the_first_fault_is_named(words, said):
    assert help_lib.refusal(config("rl"), words).startswith(said)


@pytest.mark.parametrize(
    "words",
    [
        ["--rl.learning_rate", "1"],
        ["--rl.clip=1e-3"],
        ["--data.columns", "a=b", "c=d", "--seed", "1"],
        ["--data.columns"],
        ["--data.cue", "- a"],
        ["--data.cue=--a"],
        ["--lora.alpha", "None"],
        ["--rl.no-packed", "--rl.packed"],
        ["--rl.kl-horizon", "inf"],
        ["--output", "a b/"],
    ],
)
def test_unusual_words_pass(words):
    assert help_lib.refusal(config("rl"), words) is None


def test_a_list_of_fixed_length_is_counted():
    said = help_lib.refusal(config("label"), ["--limits.prices", "1"])
    assert said == "--limits.prices 1: must be 2 values"
    assert help_lib.refusal(config("label"), ["--limits.prices", "1", "2"]) is None


def test_a_word_beside_positional_ones_is_no_fault():
    assert help_lib.refusal(config("compare"), ["a", "--pool", "b"]) is None


def test_a_choice_is_a_choice_by_its_spelling():
    assert ranges.wanted_of_words(Literal[0, 1], ["1"]) is None
    several = str | tuple[ranges.Text, ...]
    assert ranges.wanted_of_words(several, ["a", "b"]) is None
    assert ranges.wanted_of_words(several, ["a", ""]) is not None
    assert ranges.wanted_of_words(Literal[0, 1], ["2"]) == "one of 0, 1"
    assert typing.get_origin(ranges.plain(tuple[ranges.Count, ...] | None)) is tuple
