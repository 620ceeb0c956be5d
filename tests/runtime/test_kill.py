"""A promise: kill -9 at any moment costs nothing but time.

    python -m pytest -m slow tests/test_kill.py          # half an hour
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

ROOT = pathlib.Path(__file__).resolve().parents[2]
KILLS = int(os.environ.get("RLHF_JAX_KILLS", "20"))
PATIENCE = 1800  # seconds that one process may take


def start(home, *more):
    """A process at work on the run in `home`, with the cache in `home` as well."""
    words = small_study.flags(
        methods=("ppo", "elastic_reset", "ppo_ma50"),
        steps=12,
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
    half = sorted(p.name for p in home.rglob(".unfinished-*"))
    if half:
        return f"while saving {half[0].split('-')[1]}"
    if not (home / "run" / "config.json").exists():
        partial = any(home.glob("cache/*.partial/step_*"))
        return "half pretrained" if partial else "before the first file of the run"
    cells = len(list(home.glob("run/checkpoints/*/step_*")))
    lines = len(small_study.lines(home / "run"))
    return f"{cells} cells with checkpoints, {lines} lines of metrics"


def killed(process, home, rng, life, work):
    """Kills a process at a random moment; False when it had ended before.

    Every other moment is drawn from the part of its life in which it trains: most of
    it is imports and compilation.
    """
    log = home / "run" / "metrics.jsonl"
    delay = rng.uniform(0, life)
    if rng.integers(2):
        before, delay = changed(log), rng.uniform(0, work)
        while changed(log) == before and process.poll() is None:
            time.sleep(0.01)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return True
    return False


def changed(path):
    return path.stat().st_mtime_ns if path.exists() else None


@pytest.mark.slow
def test_a_run_survives_kill_9_at_any_moment(tmp_path, capsys):
    programs = tmp_path / "programs"
    programs.mkdir()
    finish(start(fresh(tmp_path / "warm", programs)))  # compiles
    began = time.time()
    whole = fresh(tmp_path / "whole", programs)
    finish(start(whole))
    life = time.time() - began
    work = time.time() - (whole / "run" / "config.json").stat().st_mtime
    small_study.assert_same(whole / "run", tmp_path / "warm" / "run")

    rng = np.random.default_rng(0)
    kills, ended, disturbed = 0, 0, False
    home = fresh(tmp_path / "home-0", programs)
    while kills < KILLS or disturbed:
        resumable = (home / "run" / "config.json").exists()
        process = start(home, *(["--resume"] if resumable else []))
        if kills < KILLS and killed(process, home, rng, life, work):
            kills, disturbed = kills + 1, True
            with capsys.disabled():
                print(f"kill {kills}: {moment(home)}", flush=True)
            continue
        finish(process)
        small_study.assert_same(home / "run", whole / "run")
        ended, disturbed = ended + 1, False
        with capsys.disabled():
            print(f"run {ended} ended, equal", flush=True)
        shutil.rmtree(home)
        home = fresh(tmp_path / f"home-{ended}", programs)
