"""Flags that are an algorithm's own fields: declared there, flat here."""

import dataclasses
import json

import pytest
import tiny
import tyro

from rlhf_jax import optim, ranges
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.cli import fields, options, presets

SOURCES = (policy_gradient.Config, policy_gradient.Hyper, optim.Config)


@dataclasses.dataclass(frozen=True)
class Config:
    rl: options.RL = dataclasses.field(default_factory=options.RL)
    fit: options.Fit = dataclasses.field(default_factory=options.Fit)


@pytest.mark.parametrize("source", SOURCES)
def test_defaults_and_ranges_are_the_algorithms_own(source):
    taken = fields.of(options.RL(), source)
    known = fields._defaults(source)
    assert taken and {name: known[name] for name in taken} == taken


def test_a_range_goes_with_its_field():
    for made in (Config(rl=options.RL(clip=-1.0)), Config(fit=options.Fit(warmup=-1))):
        with pytest.raises(ValueError, match="--(rl.clip|fit.warmup) -1"):
            ranges.check(made, flags=True)


def test_a_flag_reaches_the_structure_it_was_taken_from():
    rl = options.RL(
        clip=0.3, missing_eos_penalty=2.0, missing_eos="replace", adam_eps=1e-8,
        epochs=3, minibatches=2, kl_controller="proportional", reset_every=5,
        rows_per_slot=8,
    )  # fmt: skip
    made = options.algorithm(rl, sampling=tiny.sampler(), masked=True)
    assert (made.missing_eos, made.epochs, made.optimizer.eps) == ("replace", 3, 1e-8)
    assert made.masked and made.rows_per_slot == 8
    hyper = options.hyper(rl, 10)
    assert (hyper.clip, hyper.missing_eos, hyper.total_updates) == (0.3, 2.0, 60)
    assert hyper.kl_proportional and hyper.reset_every == 0


def test_the_supervised_flags_are_the_optimisers():
    fit = options.Fit(warmup=3, schedule="linear")
    assert fit.optimizer == optim.Config(schedule="linear", warmup=3, eps=1e-8)
    assert options.Fit().schedule == "cosine"


def test_the_command_line_shows_what_stands_on_the_field(capsys):
    with pytest.raises(SystemExit):
        tyro.cli(Config, args=["--help"])
    said = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "--rl.value-clip FLOAT How far a value may gain from moving; inf" in said
    assert "Updates of linear warm-up" in said
    made = tyro.cli(Config, args=["--rl.adam-eps", "1e-7", "--fit.warmup", "2"])
    assert (made.rl.adam_eps, made.fit.warmup) == (1e-7, 2)


def test_presets_and_config_files_keep_their_flat_names(tmp_path):
    known = {"one": presets.Preset("", {"rl.kl_coef": 0.5, "rl.adam_eps": 1e-8})}

    @dataclasses.dataclass(frozen=True)
    class Named(Config):
        preset: str | None = None

    made = presets.preset(Named(), "one", known)
    assert (made.rl.kl_coef, made.rl.adam_eps) == (0.5, 1e-8)
    said = dataclasses.asdict(made)
    (tmp_path / "config.json").write_text(json.dumps({"config": said}))
    again, _ = presets.default(Named(), ["--config", str(tmp_path)])
    assert again == made
