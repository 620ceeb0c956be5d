"""Every flag knows its range: one line names it, exit status 2, nothing is written.

One table for all commands, of sentences as they should be; test_wrong_inputs.py holds
what the ranges themselves say is outside.
"""

import dataclasses
import pathlib
import sys

import pytest

from experiments import (
    generate,
    label,
    pivot_translation,
    preference,
    reward_model,
    rl,
    sentiment,
    sft,
    stack_exchange,
    sweep,
)
from experiments.sweep import pivot_translation as game_sweep
from experiments.throughput import benchmark

GIVEN = {
    generate: "--model m --prompts a",
    label: "--labeler m --dataset d",
    sft: "--model m --dataset d",
    reward_model: "--model m --dataset d",
    preference: "--model m --dataset d",
    rl: "--policy m --dataset d --reward r",
    stack_exchange: "--policy m --dataset d",
    game_sweep: "pivot_translation",  # the first word of experiments.sweep
}
NUMBERS = (
    (sft, "--fit.warmup -1", "a whole number of at least 0"),
    (sft, "--fit.max-grad-norm -1", "a number above 0, or inf"),
    (sft, "--fit.max-grad-norm 0", "a number above 0, or inf"),
    (sft, "--fit.weight-decay -0.1", "a number of at least 0"),
    (sft, "--fit.weight-decay nan", "a number of at least 0"),
    (sft, "--fit.learning-rate inf", "a finite number above 0"),
    (sft, "--fit.learning-rate 0", "a number above 0"),
    (sft, "--fit.steps -1", "a whole number of at least 0"),
    (sft, "--fit.epochs nan", "a number above 0"),
    (sft, "--lora.alpha 0", "a number above 0"),
    (sft, "--lora.alpha -1", "a number above 0"),
    (sft, "--lora.rank -1", "a whole number of at least 0"),
    (sft, "--output ''", "a text that is not empty"),
    (sft, "--eval-every -1", "a whole number of at least 0"),
    (sft, "--save-every -1", "a whole number of at least 0"),
    (sft, "--keep 0", "a whole number of at least 1"),
    (sft, "--devices 0", "a whole number of at least 1"),
    (sft, "--seed -1", "a whole number of at least 0"),
    (sft, "--data.eval-rows -1", "a whole number of at least 1"),
    (sft, "--data.eval-rows 0", "a whole number of at least 1"),
    (sft, "--data.length 0", "a whole number of at least 1"),
    (reward_model, "--margin inf", "a finite number of at least 0"),
    (reward_model, "--margin -1", "a number of at least 0"),
    (label, "--shots -1", "a whole number of at least 0"),
    (label, "--limits.budget-tokens 0", "a number above 0, or inf"),
    (preference, "--beta nan", "a number above 0"),
    (preference, "--label-smoothing 0.6", "a number of at least 0 and below 0.5"),
    (preference, "--label-smoothing -1", "a number of at least 0 and below 0.5"),
    (preference, "--loss-weights -1.0", "a number of at least 0"),
    (preference, "--simpo-gamma nan", "a number of at least 0"),
    (preference, "--discopop-tau 0", "a number above 0"),
    (preference, "--elastic-reset.decay 1.5", "of at least 0 and of at most 1"),
    (preference, "--elastic-reset.every -1", "a whole number of at least 0"),
    (rl, "--rl.clip -1", "a number above 0"),
    (rl, "--rl.clip 0", "a number above 0"),
    (rl, "--rl.clip nan", "a number above 0"),
    (rl, "--rl.gamma 2", "a number of at least 0 and of at most 1"),
    (rl, "--rl.lam -1", "a number of at least 0 and of at most 1"),
    (rl, "--rl.value-coef -1", "a number of at least 0"),
    (rl, "--rl.value-clip nan", "a number above 0, or inf"),
    (rl, "--rl.kl-coef -1", "a number of at least 0"),
    (rl, "--rl.kl-horizon 0", "a number above 0, or inf"),
    (rl, "--rl.decay 1.5", "a number of at least 0 and of at most 1"),
    (rl, "--rl.reset-every -1", "a whole number of at least 0"),
    (rl, "--rl.adam-eps -1", "a number of at least 0"),
    (rl, "--rl.weight-decay nan", "a number of at least 0"),
    (rl, "--temperature 0", "a number above 0"),
    (rl, "--top-k -1", "a whole number of at least 0"),
    (rl, "--min-p nan", "a number of at least 0 and of at most 1"),
    (rl, "--repetition-penalty 0", "a number above 0"),
    (rl, "--rl.importance-sampling-correction -1", "a number of at least 0, or inf"),
    (rl, "--temperature inf", "a finite number above 0"),
    (rl, "--temperature nan", "a number above 0"),
    (rl, "--steps 0", "a whole number of at least 1"),
    (rl, "--max-new-tokens 0", "a whole number of at least 1"),
    (rl, "--corner.text-nll -1", "a number above 0"),
    (rl, "--corner.kl-initial nan", "a number above 0"),
    (generate, "--temperature -1", "a number of at least 0"),
    (generate, "--temperature nan", "a number of at least 0"),
    (generate, "--top-p 0", "a number above 0 and of at most 1"),
    (generate, "--min-p 1.5", "a number of at least 0 and of at most 1"),
    (generate, "--repetition-penalty nan", "a number above 0"),
    (generate, "--stop-strings ''", "a text that is not empty"),
    (generate, "--samples 0", "a whole number of at least 1"),
    (sentiment, "--seeds 0", "a whole number of at least 1"),
    (sentiment, "--steps 0", "a whole number of at least 1"),
    (sentiment, "--rl.mask-top-p 0", "a number above 0 and of at most 1"),
    (sentiment, "--rl.mask-least 0", "a whole number of at least 1"),
    (sentiment, "--rl.sft-updates 0", "a whole number of at least 1"),
    (sentiment, "--corner.skills -1", "a number above 0"),
    (sentiment, "--microworld.temperature 0", "a number above 0"),
    (sentiment, "--text.temperature inf", "a finite number above 0"),
    (sentiment, "--text.validation 1", "a number of at least 0 and below 1"),
    (sentiment, "--distributed.processes 0", "a whole number of at least 1"),
    (sweep, "--space.extensions -1", "a whole number of at least 0"),
    (pivot_translation, "--rl.decay 2", "a number of at least 0 and of at most 1"),
    (pivot_translation, "--sil.play 0", "a whole number of at least 1"),
    (game_sweep, "--num-evals 0", "a whole number of at least 1"),
    (stack_exchange, "--data.prompt-length 0", "a whole number of at least 1"),
    (stack_exchange, "--answers.temperature nan", "a number above 0"),
    (stack_exchange, "--stop-kl 0", "a number above 0, or inf"),
    (stack_exchange, "--sft.warmup -1", "a whole number of at least 0"),
    (benchmark, "--memory -1", "a number above 0"),
    (benchmark, "--rounds 0", "a whole number of at least 1"),
)
CONTRADICTIONS = (
    (sft, "--fit.rows 16 --fit.micro-batches 3"),
    (sft, "--lora.alpha 8.0 --lora.rank 0"),
    (sft, "--lora.rslora --lora.rank 0"),
    (sft, "--lora.targets query --lora.rank 0"),
    (sft, "--log.project mine --log.no-wandb"),
    (sft, "--data.split train --data.eval-split train"),
    (sft, "--dataset d --data.eval-dataset d"),
    (label, "--samples 2 --no-chain-of-thought"),
    (preference, "--loss ipo --label-smoothing 0.1"),
    (preference, "--loss exo_pair --label-smoothing 0.0"),
    (preference, "--loss sigmoid hinge --loss-weights 1.0"),
    (preference, "--loss sigmoid --loss-weights 0.0"),
    (preference, "--loss hinge hinge"),
    (preference, "--loss sft"),
    (preference, "--loss kto dpo"),
    (preference, "--loss aot --use-weighting"),
    (preference, "--loss dpo --simpo-gamma 1.0"),
    (preference, "--loss simpo --cpo-alpha 0.5"),
    (preference, "--loss hinge sft --discopop-tau 0.1"),
    (preference, "--loss dpo --desirable-weight 2.0"),
    (preference, "--loss kto --label-smoothing 0.1"),
    (preference, "--loss kto --desirable-weight 0.0 --undesirable-weight 0.0"),
    (preference, "--loss simpo --reference m"),
    (preference, "--loss orpo sft --reference-on-the-fly"),
    (preference, "--elastic-reset.every 9 --fit.steps 5"),
    (preference, "--elastic-reset.every 0 --elastic-reset.decay 0.9"),
    (generate, "--raw --system kind"),
    (rl, "--algorithm online_dpo --rl.importance-sampling-correction 2"),
    (rl, "--elastic-reset --rl.reset-every 0"),
    (rl, "--elastic-reset --rl.reset-every 50 --steps 50"),
    (rl, "--algorithm rloo --rl.candidates 1"),
    (rl, "--algorithm grpo --rl.rows 64 --rl.candidates 3"),
    (rl, "--rl.rows 8 --rl.minibatches 3"),
    (rl, "--texts-split test --texts None"),
    (rl, "--rl.transitions 9 --rl.minibatch-of rows"),
    (sentiment, "--rl.reset-every 50 --steps 50"),
    (sentiment, "--rl.reset-every 0 --steps 50"),
    (pivot_translation, "--rl.reset-every 80 --steps 80"),
    (stack_exchange, "--rl.reset-every 60 --steps 60"),
    (stack_exchange, "--answers.shortest 50 --answers.longest 40"),
    (stack_exchange, "--answers.stride 128 --answers.window 128"),
)
CHOICES = (
    (rl, "--rl.schedule foo", ("constant", "linear", "cosine")),
    (rl, "--rl.value both", ("separate", "shared")),
    (rl, "--rl.missing-eos foo", ("none", "replace", "subtract")),
    (sft, "--truncate sideways", ("right", "left", "error")),
    (preference, "--loss kpo", ("dpo", "ipo", "simpo", "kto")),
    (stack_exchange, "--answers.end never", ("length", "token")),
    (pivot_translation, "--rl.schedule foo", ("constant", "linear", "cosine")),
)


@pytest.fixture
def refused(monkeypatch, capsys, tmp_path):
    """Runs a command in an empty folder; what it says before it exits with 2."""

    def refused(experiment, flags):
        words = [w.strip("'") for w in f"{GIVEN.get(experiment, '')} {flags}".split()]
        monkeypatch.setattr(sys, "argv", [experiment.__name__, *words])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as stop:
            getattr(experiment, "main", sweep.main)()
        assert stop.value.code == 2
        assert not list(tmp_path.iterdir())
        said = capsys.readouterr()
        assert not said.out
        return said.err

    return refused


@pytest.mark.parametrize(("experiment", "flag", "wanted"), NUMBERS)
def test_a_number_out_of_range(refused, experiment, flag, wanted):
    (line,) = refused(experiment, flag).splitlines()
    name, value = flag.split()
    assert line.startswith(f"error: {name} {value}"), line
    assert "must be " in line and line.endswith(wanted), line


@pytest.mark.parametrize(("experiment", "flags"), CONTRADICTIONS)
def test_flags_that_contradict_each_other_are_all_named(refused, experiment, flags):
    (line,) = refused(experiment, flags).splitlines()
    for flag in flags.split(" --"):
        assert f"--{flag.removeprefix('--')}" in line, line


@pytest.mark.parametrize(("experiment", "flag", "choices"), CHOICES)
def test_a_choice_that_does_not_exist(refused, experiment, flag, choices):
    said = refused(experiment, flag)
    assert said.startswith(f"error: {flag}: must be one of ")
    for choice in choices:
        assert choice in said


@pytest.mark.parametrize(
    ("experiment", "change", "said"),
    [
        (rl, {"rl": dataclasses.replace(rl.CONFIG.rl, schedule="foo")}, "--rl.schedu"),
        (rl, {"rl": dataclasses.replace(rl.CONFIG.rl, clip=float("nan"))}, "--rl.clip"),
        (rl, {"elastic_reset": True, "steps": 14}, "--elastic-reset and --rl.reset-e"),
        (sft, {"truncate": "sideways"}, "--truncate sideways: must be one of right"),
        (sft, {"keep": 0}, "--keep 0: must be a whole number"),
        (preference, {"loss": "kpo"}, "--loss kpo: must be one of dpo, sigmoid"),
        (reward_model, {"margin": float("inf")}, "--margin inf: must be a finite"),
        (sentiment, {"steps": 0}, "--steps 0: must be a whole number of at least 1"),
        (sentiment, {"steps": 2.5}, "--steps 2.5: must be a whole number"),
    ],
)
def test_a_python_call_is_checked_alike(experiment, change, said, tmp_path):
    given = {
        name: "x"
        for name in ("model", "policy", "dataset", "reward")
        if getattr(experiment.CONFIG, name, None) == ""
    }
    config = dataclasses.replace(
        experiment.CONFIG, **given, output=str(tmp_path / "run"), **change
    )
    with pytest.raises(ValueError, match=said):
        experiment.run(config)
    assert not list(tmp_path.iterdir())


PLACES = (
    (sft, "--output {file}/run", "nothing can be written in"),
    (sft, "--cache {file}", "is a file; name a folder"),
    (sft, "--output {file}", "is a file; name a folder"),
    (generate, "--output {folder}", "is a folder; name a JSONL file"),
    (sentiment, "--methods", "name one or more of them, or all"),
    (pivot_translation, "--methods", "name one or more of them, or all"),
)


@pytest.mark.parametrize(("experiment", "flag", "said"), PLACES)
def test_what_cannot_be_used_is_named_with_its_flag(refused, experiment, flag, said):
    file = pathlib.Path(__file__)
    (line,) = refused(
        experiment, flag.format(file=file, folder=file.parent)
    ).splitlines()
    assert line.startswith(f"error: {flag.split()[0]}") and said in line, line
