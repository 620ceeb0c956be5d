"""Misuse of the command: one line that names the value, the place and the fix.

Exit status 2, and nothing half-written: the corrected command runs in the same folder.
"""

import errno
import json
import os
import shutil
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy
import small_study

from experiments import sentiment
from rlhf_jax import huggingface
from rlhf_jax.data import bpe
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder
from rlhf_jax.runtime import files

TEXTS = [f"film {i} was {word}" for i in range(20) for word in ("good", "bad", "long")]
PPO = {"methods": ("ppo",), "steps": 2}


@pytest.fixture(autouse=True)
def shared(monkeypatch):
    small_study.share(monkeypatch)


@pytest.fixture
def place(tmp_path):
    """The run folder of the command under test."""
    return tmp_path / "run"


@pytest.fixture
def refused(monkeypatch, capsys, place):
    """Runs the command with the flags given; its one line, which holds all `parts`."""

    def refused(*parts, output=place, **changes):
        words = small_study.flags(**{"output": output, **PPO, **changes})
        monkeypatch.setattr(sys, "argv", ["sentiment", *words])
        with pytest.raises(SystemExit) as stop:
            sentiment.main()
        (line,) = capsys.readouterr().err.splitlines()
        assert stop.value.code == 2
        assert line.startswith("error: ")
        assert "Traceback" not in line and "RLHF_JAX_TRACEBACK" not in line
        for part in parts:
            assert str(part) in line, line
        assert not list(place.parent.rglob(f"{files.PREFIX}*"))
        return line

    return refused


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a short run that is done."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return small_study.run_shared(folder, **PPO)


@pytest.fixture
def copy(finished, place):
    """A copy of it at `place`."""
    shutil.copytree(finished, place)
    return place


# Flags


def test_an_unknown_flag(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sentiment", "--stepss", "3"])
    with pytest.raises(SystemExit) as stop:
        sentiment.main()
    said = capsys.readouterr()
    assert stop.value.code == 2
    assert "--stepss" in said.err and "--steps" in said.err


def test_an_unknown_method(refused, place):
    refused("--methods ppoo", "choose from", "elastic_reset", methods=("ppoo",))
    assert not place.exists()


@pytest.mark.parametrize("flag", ["steps", "seeds"])
def test_nothing_to_do(refused, place, flag):
    refused(f"--{flag} 0", "at least 1", **{flag: 0})
    assert not place.exists()


def test_more_devices_than_there_are(refused, place):
    refused("--devices 99", f"{jax.local_device_count()} cpu device", devices=99)
    assert not place.exists()


def test_devices_that_do_not_share_the_rows(refused, place):
    refused("rows cannot be shared by 3 devices", "--devices", devices=3)


def test_parts_that_do_not_divide_the_rows(refused, place):
    refused("--rl.rows 8", "--rl.minibatches 3", rl__minibatches=3)
    refused("--rl.rows 8", "--rl.micro-batches 3", rl__micro_batches=3)
    assert not place.exists()


def test_an_override_of_nothing(refused, place):
    refused("--override ppoo.clip=1", "there is no method ppoo", override="ppoo.clip=1")
    refused("--override ppo.clop=1", "no setting", "kl_coef", override="ppo.clop=1")
    assert not place.exists()


def test_a_policy_that_the_best_of_n_has_not(refused, place):
    asked = {"methods": ("best_of_2",), "export": "best_of_2"}
    refused("--export best_of_2", "no weights of its own", **asked)
    assert not place.exists()


def test_a_preset_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["sentiment", "--preset", "papr"])
    with pytest.raises(SystemExit) as stop:
        sentiment.main()
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    assert line == (
        "error: --preset papr: unknown; choose from paper, paper_nlpo5, smollm2, "
        "smollm2_lora"
    )


# Folders


def test_resume_with_nothing_there(refused, place, tmp_path, monkeypatch):
    refused("--resume", place, "holds no run", resume=True)
    assert not place.exists()
    monkeypatch.chdir(tmp_path)
    refused("--resume", "runs/sentiment", output=None, resume=True)


def test_an_output_that_holds_a_run(refused, copy):
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    refused(copy, "holds a run already", "--resume", "another --output")
    assert before == {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}


def test_an_output_that_is_a_file(refused, tmp_path):
    (tmp_path / "notes").write_text("mine")
    refused("notes is a file", output=tmp_path / "notes")


def test_resume_with_other_flags_names_them(refused, copy):
    line = refused(
        copy,
        "--rl.learning-rate 0.0005 there, 0.001 here",
        "--methods ppo there, ppo sft here",
        resume=True,
        rl__learning_rate=1e-3,
        methods=("ppo", "sft"),
    )
    assert "--save-every" not in line and "--output" in line


def test_a_damaged_config(refused, copy):
    (copy / "config.json").write_text('{"config"')
    refused("config.json", "damaged", resume=True)


def test_a_checkpoint_of_another_configuration(refused, copy):
    facts = json.loads((copy / "config.json").read_text())
    facts["config"]["rl"]["clip"] = 0.3
    (copy / "config.json").write_text(json.dumps(facts))
    refused(
        copy / "checkpoints",
        "of another configuration",
        "Resume with the flags that made it",
        resume=True,
        rl__clip=0.3,
    )


def test_a_truncated_checkpoint(refused, copy):
    packed = next((copy / "checkpoints").rglob("packed/0"))
    packed.write_bytes(packed.read_bytes()[:100])
    refused(
        copy / "checkpoints" / "ppo-0-0",
        "packed/0 has 100 bytes, not",
        "delete",
        resume=True,
    )


def test_lines_that_a_checkpoint_counted_on_are_gone(refused, copy):
    (copy / "metrics.jsonl").write_text("")
    refused(copy / "metrics.jsonl", "holds 0 bytes", resume=True)


# Data


def rows(path, texts, column="text"):
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts))
    return path


def test_a_data_set_that_is_not_there(refused, place, tmp_path):
    missing = tmp_path / "reviews" / "imdb.jsonl"
    refused(missing, "neither a folder, nor a file", dataset=missing)
    assert not place.exists()


def test_an_empty_file(refused, place, tmp_path):
    empty = rows(tmp_path / "empty.jsonl", [])
    refused(empty, "is empty", "at least one row", dataset=empty)
    assert not place.exists()


def test_a_column_of_another_name(refused, place, tmp_path):
    other = rows(tmp_path / "other.jsonl", TEXTS, column="review")
    refused(other, "no column 'text'", "there is review", dataset=other)
    assert not place.exists()


def test_an_empty_text(refused, place, tmp_path):
    gaps = rows(tmp_path / "gaps.jsonl", [*TEXTS, " "])
    refused(gaps, f"line {len(TEXTS) + 1}: no text", dataset=gaps)
    assert not place.exists()


# Models


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    """A language model of 24 tokens of context, and the folder of its text."""
    home = tmp_path_factory.mktemp("models")
    (home / "text").mkdir()
    rows(home / "text" / "train.jsonl", TEXTS)
    rows(home / "text" / "test.jsonl", [f"series {text}" for text in TEXTS])
    tokenizer = bpe.train(TEXTS, 300, home / "tokenizer")
    model = decoder.Decoder(
        model_config.gpt2(
            vocab_size=len(tokenizer), max_length=24, width=8, layers=1, heads=2
        )
    )
    params = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 2), np.int32))
    huggingface.save(home / "model", model, params["params"], tokenizer)
    return home / "model"


@pytest.fixture
def text(model_folder):
    """Flags of a run on that text with that model."""
    return {
        "dataset": model_folder.parent / "text",
        "policy": model_folder,
        "reward": "small_study:length",
        "text__prompt_length": 8,
        "text__max_new_tokens": 8,
        "text__eval_prompts": 8,
        "text__heldout_rows": 8,
        "text__heldout_length": 12,
    }


def test_prompts_longer_than_the_context(refused, text):
    longer = {**text, "text__prompt_length": 20}
    refused("20 prompt tokens + 8 new ones", "context of 24", "shorten", **longer)


def test_a_model_folder_that_is_not_there(refused, place, text, tmp_path):
    missing = tmp_path / "no" / "model"
    refused(missing, "config.json", **{**text, "policy": missing})
    assert not place.exists()


def test_a_folder_without_a_model(refused, place, text, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "has no config.json", **{**text, "policy": empty})
    assert not place.exists()


def spoiled(model_folder, tmp_path, change):
    """A copy of the model with its tensors changed in place."""
    folder = tmp_path / "spoiled"
    shutil.copytree(model_folder, folder)
    file = folder / "model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    change(tensors)
    safetensors.numpy.save_file(tensors, file, {"format": "pt"})
    return folder


def test_a_missing_tensor(refused, place, text, model_folder, tmp_path):
    folder = spoiled(
        model_folder, tmp_path, lambda t: t.pop("transformer.h.0.mlp.c_fc.weight")
    )
    refused(folder, "h.0.mlp.c_fc.weight", **{**text, "policy": folder})
    assert not place.exists()


def test_a_misshapen_tensor(refused, place, text, model_folder, tmp_path):
    def change(tensors):
        tensors["transformer.ln_f.bias"] = np.zeros(9, np.float32)

    folder = spoiled(model_folder, tmp_path, change)
    refused(folder, "ln_f.bias", "9", "8", **{**text, "policy": folder})
    assert not place.exists()


# Rewards


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("rising", ["raised KeyError", "'label'", "small_study.py"]),
        ("nan", ["returned nan for completion 1", "finite"]),
        ("short", ["returned 7 values for 8 completions"]),
        ("words", ["returned 'good' for completion 0", "number"]),
        ("nothing", ["returned None for completion 0", "only reward"]),
        ("number", ["returned float, not a list of 8 numbers"]),
        ("overflowing", ["returned 1e+300 for completion 0", "finite"]),
    ],
)
def test_a_reward_that_is_none(refused, place, name, parts):
    refused(f"the reward small_study:{name}", *parts, reward=f"small_study:{name}")
    assert not list(place.glob("checkpoints/*/*"))


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("nowhere:f", "no module 'nowhere'"),
        ("small_study:g", "no function 'g'"),
        ("small_study:CACHE", "is not a function"),
        ("goldd", "choose train, gold, random"),
    ],
)
def test_a_reward_that_is_not_there(refused, place, name, part, monkeypatch):
    monkeypatch.setattr(sentiment, "make_task", small_study.make_task)
    refused(f"--reward {name}", part, reward=name)
    assert not place.exists()


def test_the_corrected_command_runs_in_the_same_folder(refused, place):
    refused("nan", reward="small_study:nan")
    small_study.run(output=place, reward="small_study:length", **PPO)
    facts = json.loads((place / "config.json").read_text())
    assert facts["config"]["reward"] == "small_study:length"
    assert {r["step"] for r in small_study.lines(place)} == {"0", "1", "2"}


# What happens to a run


def test_updates_that_are_not_finite_stop_the_run_with_finite_weights(refused, place):
    refused(
        "3 updates in a row",
        "not finite",
        "Lower the learning rate",
        reward="small_study:huge",
        steps=8,
        save_every=100,
    )
    (found,) = place.glob("checkpoints/ppo-0-0/step_*")
    assert found.name in ("step_00000003", "step_00000004")
    (_, leaves, bits, _) = small_study.weights(place)["ppo-0-0"]
    for leaf in leaves:
        if leaf["dtype"] == "float32":
            packed = np.frombuffer(bits["packed"], np.uint8)
            values = packed[leaf["offset"] : leaf["offset"] + leaf["bytes"]]
            assert np.isfinite(values.copy().view(np.float32)).all(), leaf["path"]


@pytest.mark.parametrize("what", ["checkpoint", "lines", "report"])
def test_a_full_disk_stops_the_run_and_the_rest_can_follow(
    what, refused, place, monkeypatch, finished
):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    calls = {"checkpoint": 1, "lines": 3, "report": 0}[what]

    def later(*arguments, original, **options):
        nonlocal calls
        calls -= what != "report" or arguments[0] == place / "report.md"
        return full() if calls < 0 else original(*arguments, **options)

    module, name = {
        "checkpoint": (files, "seal"),
        "lines": (small_study.metrics_log.Lines, "offset"),
        "report": (files, "write"),
    }[what]
    with monkeypatch.context() as patch:
        original = getattr(module, name)
        patch.setattr(module, name, lambda *a, **k: later(*a, original=original, **k))
        refused("the disk is full", "free some space", save_every=1)
    if what != "report":
        (saved,) = place.glob("checkpoints/ppo-0-0/step_*")
        assert saved.name == "step_00000001"
    small_study.run(output=place, resume=True, save_every=1, **PPO)
    small_study.assert_same(place, finished)
