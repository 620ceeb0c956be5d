"""The command line: run folders, config.json, messages at the end, and help."""

import dataclasses
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time
import types

import jax
import pytest
from small_config import Config, Inner

from experiments import sentiment
from rlhf_jax.cli import command
from rlhf_jax.runtime import files, loop, provenance

ROOT = pathlib.Path(__file__).resolve().parents[2]


LAYOUT = types.SimpleNamespace(devices=("cpu:0",))


def started(config, saved=True):
    """The folder of a run of `config`, with a checkpoint or without."""
    place = command.run_dir(config, "test")
    command.write_config(place, config, LAYOUT)
    if saved:
        (place / "checkpoints" / "ppo-0-0" / "step_00000002").mkdir(parents=True)
    return place


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# Folders


def test_a_new_folder_is_named_by_the_clock_and_not_made_yet():
    place = command.run_dir(Config(), "test")
    assert place.parent == pathlib.Path("runs/test")
    assert time.strftime("%Y-%m-%d") in place.name
    assert not place.exists()


def test_resume_takes_the_latest_run():
    for minutes, name in enumerate("bca"):
        place = started(Config(output=f"runs/test/{name}"))
        os.utime(place / "config.json", (0, 60 * minutes))
    assert command.run_dir(Config(resume=True), "test").name == "a"
    assert command.run_dir(Config("runs/test/b", True), "test").name == "b"


def test_a_run_that_saved_nothing_is_as_good_as_new():
    place = started(Config(output="here", steps=3), saved=False)
    config = Config(output="here", steps=4)
    assert command.run_dir(config, "test") == place
    command.write_config(place, config, LAYOUT)
    assert json.loads((place / "config.json").read_text())["config"]["steps"] == 4
    assert command.run_dir(dataclasses.replace(config, resume=True), "test") == place


def test_a_run_that_saved_is_not_overwritten():
    started(Config(output="here"))
    with pytest.raises(ValueError, match="here holds a run already: pass --resume"):
        command.run_dir(Config(output="here"), "test")


def test_resuming_with_other_places_is_the_same_run():
    place = started(Config(output="here"))
    before = (place / "config.json").read_bytes()
    config = Config("here", resume=True, devices=2, cache="c", save_every=1, keep=3)
    assert command.run_dir(config, "test") == place
    command.write_config(place, config, LAYOUT)
    assert (place / "config.json").read_bytes() == before


def test_resuming_another_configuration_names_every_flag_that_differs():
    started(Config(output="here"))
    config = Config("here", True, steps=9, methods=("ppo",), rl=Inner(horizon=2.0))
    with pytest.raises(ValueError) as caught:
        command.run_dir(config, "test")
    said = str(caught.value)
    assert "--steps 8 there, 9 here" in said
    assert "--methods ppo sft there, ppo here" in said
    assert "--rl.horizon inf there, 2.0 here" in said
    assert "--rl.rate" not in said and "--output here" not in said


def test_a_flag_that_is_new_or_gone_is_named():
    place = started(Config(output="here"))
    facts = json.loads((place / "config.json").read_text())
    del facts["config"]["steps"]
    facts["config"]["rl"]["old"] = 3
    (place / "config.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError) as caught:
        command.run_dir(Config("here", True), "test")
    assert "--steps (no such flag) there, 8 here" in str(caught.value)
    assert "--rl.old 3 there, (no such flag) here" in str(caught.value)


def test_a_folder_that_cannot_be_made_is_named():
    path = pathlib.Path("/proc/none")
    with pytest.raises(ValueError, match="--output /proc/none cannot be made"):
        command.write_config(path, Config(output=str(path)), LAYOUT)


def test_a_folder_at_work_is_refused_before_anything_is_made():
    place = started(Config(output="here"), saved=False)
    with files.lock(place):
        for resume in (False, True):
            with pytest.raises(ValueError, match="another process is at work in here"):
                command.run_dir(Config("here", resume), "test")
    assert command.run_dir(Config("here"), "test") == place


# config.json


def test_config_json_is_json_and_holds_what_ran(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--reward", "a b"])
    place = started(Config(output="here"))
    facts = json.loads((place / "config.json").read_text(), parse_constant=int)
    assert facts["config"]["rl"] == {"rate": 0.1, "horizon": "inf"}
    assert facts["config"]["methods"] == ["ppo", "sft"]
    assert facts["digest"] == provenance.digest(Config())
    assert shlex.split(facts["command"])[-2:] == ["--reward", "a b"]
    assert facts["versions"]["jax"] == jax.__version__
    assert facts["devices"] == ["cpu:0"]


# Messages at the end


def said(capsys, error, status):
    def run():
        raise error

    with pytest.raises(SystemExit) as stop:
        command.main(run)
    assert stop.value.code == status
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_misuse_is_one_line_however_long(capsys):
    message = f"{'x' * 300} [red]\n  of two lines"
    line = said(capsys, ValueError(message), 2)
    assert "of two lines" in line and "[red]" in line
    assert line.startswith("error: xxx")


def test_colons_around_a_word_are_printed_as_they_are(capsys):
    """rich would read :a: as a pictogram."""
    line = said(capsys, ValueError("--reward worst:a: name two"), 2)
    assert line.startswith("error: --reward worst:a: name two")


def test_an_error_that_others_raise_tells_how_to_see_more(capsys):
    line = said(capsys, ValueError("broken"), 2)
    assert line.endswith("(ValueError; RLHF_JAX_TRACEBACK=1 shows where)")


def test_the_traceback_is_there_for_those_who_ask(monkeypatch):
    monkeypatch.setenv("RLHF_JAX_TRACEBACK", "1")
    with pytest.raises(ValueError, match="whole"):
        command.main(lambda: command.sys.stderr.write("") or int("whole"))


def test_nothing_is_said_of_torch_which_is_not_needed():
    said = (
        "import transformers; logger = transformers.logging.get_logger('transformers')"
        "; logger.warning('another matter')"
    )
    program = f"from rlhf_jax.cli import command; command.main(lambda: exec({said!r}))"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "another matter" in run.stderr and "PyTorch" not in run.stderr


def test_a_fault_of_ours_is_not_dressed_up():
    with pytest.raises(TypeError):
        command.main(lambda: None + 1)


def test_a_stop_says_the_command_that_goes_on(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["x.py", "--steps", "8"])
    stop = loop.Interrupted("SIGTERM after step 3")
    line = said(capsys, stop, 143)
    assert line.startswith("stopped by SIGTERM after step 3; to go on: ")
    assert line.endswith("--steps 8")  # before there is a folder: the same again
    stop.folder = pathlib.Path("runs/test/a b")
    line = said(capsys, stop, 143)
    assert line.endswith("--steps 8 --resume --output 'runs/test/a b'")
    monkeypatch.setattr(sys, "argv", ["x.py", "--output", "o", "--resume"])
    assert said(capsys, stop, 143).endswith(" --output o --resume")


INTERRUPTED = """
import signal
from rlhf_jax.runtime import loop

# A shell starts what goes to the background with the interrupt ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
with loop.Signals() as signals:
    signal.raise_signal(signal.SIGINT)
    print(signals.received, flush=True)
    signal.raise_signal(signal.SIGINT)
    print("still here")
"""


def test_a_shell_goes_on_to_nothing_after_an_interrupt(capsys):
    assert said(capsys, loop.Interrupted("SIGINT after step 1"), 130)


def test_a_second_interrupt_stops_at_once(capsys):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "SIGINT\n" and done.returncode != 0
    assert done.stderr.splitlines()[-1].startswith("KeyboardInterrupt")
    assert "--resume" in said(capsys, KeyboardInterrupt(), 130)


# Help


def test_help_may_be_read_in_part():
    words = [sys.executable, "-m", "experiments.sentiment", "--help"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(words, cwd=ROOT, **pipes) as shown:
        shown.stdout.close()  # as of `head` that has seen enough
        assert shown.stderr.read() == b""
    assert shown.returncode == 141


def test_help_shows_every_group_of_flags_and_its_defaults():
    environment = {**os.environ, "COLUMNS": "100"}
    shown = subprocess.run(
        [sys.executable, "-m", "experiments.sentiment", "--help-all"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    for group in ("", "rl ", "microworld ", "text ", "corner ", "log "):
        assert f"─ {group}options ─" in shown.stdout
    for field in dataclasses.fields(sentiment.Config):
        assert f"--{field.name.replace('_', '-')}" in shown.stdout
    assert shown.stdout.startswith("usage: python -m experiments.sentiment [-h]")
    assert "  Does Elastic Reset get more reward at less drift?\n" in shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 100


@pytest.mark.parametrize(
    ("batches", "cores", "devices"),
    [
        ((16, 64), 2, 2),
        ((16, 64), 1, 1),
        ((6, 64), 4, 2),
        ((5, 64), 4, 1),
        ((8,), 9, 4),
    ],
)
def test_a_cpu_is_as_many_devices_as_share_every_batch_evenly(batches, cores, devices):
    assert command.cpu_devices(batches, cores) == devices


def test_the_default_run_shares_its_batches_between_two_cores():
    assert command.cpu_devices(sentiment.batches(sentiment.CONFIG), 2) == 2


@pytest.mark.parametrize("change", [{"minibatches": 0}, {"candidates": 0}])
def test_counts_of_nothing_are_left_to_the_check_that_names_them(change):
    rl = dataclasses.replace(sentiment.CONFIG.rl, **change)
    config = dataclasses.replace(sentiment.CONFIG, rl=rl)
    assert command.cpu_devices(sentiment.batches(config)) >= 1
