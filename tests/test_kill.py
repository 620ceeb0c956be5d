"""A promise: kill -9 at any moment costs nothing but time.

    python -m pytest -m slow tests/test_kill.py          # a quarter of an hour
    RLHF_JAX_KILLS=200 python -m pytest -m slow tests/test_kill.py

`python -m experiments.sentiment` is killed at random moments of its life (imports,
pretraining, reward model, training, evaluation, saving, report), told to --resume, and
killed again, until enough kills are done; every run that gets to its end must equal a
run that nobody disturbed: metrics, samples and all weights bit for bit, clocks apart.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import small_study

ROOT = pathlib.Path(__file__).resolve().parent.parent
KILLS = int(os.environ.get("RLHF_JAX_KILLS", "20"))
PATIENCE = 1800  # seconds that one process may take


def start(home, *more):
    """A process at work on the run in `home`, with the cache in `home` as well."""
    words = small_study.flags(
        methods=("ppo", "elastic_reset", "ppo_ma50"),
        save_every=1,
        microworld__pretrain_steps=260,  # saves once on the way
        microworld__pretrain_rows=4,
        output=home / "run",
        cache=home / "cache",
    )
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.sentiment", *words, *more],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    """Waits for a process to end well; its output."""
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, said
    return said


def fresh(home, programs):
    """An empty home, where only compiled programs are already known."""
    (home / "cache").mkdir(parents=True)
    (home / "cache" / "programs").symlink_to(programs)
    return home


def moment(home):
    """How far the run in `home` has got, in words: for the report of the test."""
    saved = sorted(p.name for p in (home / "run").glob("checkpoints/*/step_*"))
    half = sorted(p.name for p in home.rglob(".unfinished-*"))
    if half:
        return f"while saving {half[0]}"
    if not (home / "run" / "config.json").exists():
        partial = any(home.glob("cache/*.partial/step_*"))
        return "half pretrained" if partial else "before the first file of the run"
    lines = len(small_study.lines(home / "run"))
    return f"with {len(saved)} checkpoints and {lines} lines of metrics"


def resumable(home):
    """Whether --resume has something to go on from."""
    return (home / "run" / "config.json").exists()


@pytest.mark.slow
def test_a_run_survives_kill_9_at_any_moment(tmp_path, capsys):
    programs = tmp_path / "programs"
    programs.mkdir()
    finish(start(fresh(tmp_path / "warm", programs)))  # compiles
    began = time.monotonic()
    whole = fresh(tmp_path / "whole", programs)
    finish(start(whole))
    duration = time.monotonic() - began
    small_study.assert_same(whole / "run", tmp_path / "warm" / "run")

    rng = np.random.default_rng(0)
    kills = finished = 0
    home = fresh(tmp_path / "home-0", programs)
    while kills < KILLS or not finished:
        process = start(home, *(["--resume"] if resumable(home) else []))
        if kills < KILLS:
            try:
                process.wait(rng.uniform(0, duration))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kills += 1
                with capsys.disabled():
                    print(f"kill {kills}: {moment(home)}", flush=True)
                continue
        finish(process)
        small_study.assert_same(home / "run", whole / "run")
        finished += 1
        with capsys.disabled():
            print(f"run {finished} ended, equal", flush=True)
        shutil.rmtree(home)
        home = fresh(tmp_path / f"home-{finished}", programs)
