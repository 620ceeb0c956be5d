"""A flag that had another name goes on working: in the shell, in Python, in files."""

import json

import pytest
from commands import NAMES, config

from experiments import alignment_tax, rl, sentiment, sft
from rlhf_jax import ranges
from rlhf_jax.cli import fields, library, presets
from rlhf_jax.cli import help as help_lib

RENAMED = (  # configuration, the name that it had or has elsewhere, its name
    (rl.CONFIG, "response_length", "max_new_tokens"),
    (rl.CONFIG, "model", "policy"),
    (rl.CONFIG, "data.max_length", "data.length"),
    (rl.CONFIG, "rl.num_generations", "rl.candidates"),
    (sft.CONFIG, "data.max_length", "data.length"),
    (sft.CONFIG, "packing", "pack"),
    (sentiment.CONFIG, "looks", "num_evals"),
    (sentiment.CONFIG, "text.response_length", "text.max_new_tokens"),
    (sentiment.CONFIG, "text.min_response_length", "text.min_new_tokens"),
    (alignment_tax.CONFIG, "text.response_length", "text.max_new_tokens"),
)


def nested(path, value):
    """{"a": {"b": value}} of "a.b"."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def read(made, path):
    for name in path.split("."):
        made = getattr(made, name)
    return made


@pytest.mark.parametrize(("made", "old", "name"), RENAMED)
def test_both_names_are_one_flag(made, old, name, tmp_path):
    value = {bool: True, str: "there"}.get(type(read(made, name)), 7)
    # On the command line, with dashes or underscores, with a blank or an equals sign.
    for spelled in (old, old.replace("_", "-")):
        words = help_lib.renamed(made, [f"--{spelled}", "7", f"--{spelled}=7"])
        now = "--" + name.replace("_", "-")
        assert words == [now, "7", f"{now}=7"]
        assert now in help_lib.flags(made)
    # In Python.
    assert library.configure(made, nested(old, value)) == library.configure(
        made, nested(name, value)
    )
    # In the config.json of a run from before.
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"config": nested(old, value)}))
    again, _ = presets.default(made, ["--config", str(file)])
    assert read(again, name) == value


def test_one_flag_under_two_names_is_refused():
    with pytest.raises(ValueError, match="model and policy are two names of one flag"):
        library.configure(rl.CONFIG, {"model": "a", "policy": "b"})


def test_a_keyword_of_trl_is_answered_with_ours():
    with pytest.raises(ValueError, match="TRL's num_train_epochs is fit.epochs here"):
        library.configure(sft.CONFIG, {"num_train_epochs": 2})


@pytest.mark.parametrize("name", NAMES)
def test_no_other_name_is_the_name_of_a_flag_too(name):
    for _, structure in ranges.structures(config(name)):
        others = fields.old_names(type(structure))
        assert not set(others) & set(ranges.hints(structure))
