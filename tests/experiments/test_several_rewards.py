"""experiments.rl with several rewards, a time limit, and signals in a long reward."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import reward_model, rl
from rlhf_jax.runtime import metrics_log

pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("programs")

ROOT = pathlib.Path(__file__).resolve().parents[2]
FLAGS = {
    "steps": 2,
    "rl": {"rows": 8, "candidates": 2, "minibatches": 2, "learning_rate": 1e-2},
    "max_new_tokens": 6,
    "data": {"length": 40, "eval_rows": 4},
    "devices": 1,
    "eval_every": 0,
}
SLOW = """
import os, time

calls = 0

def slow(completions, **columns):
    global calls
    calls += 1
    if calls > int(os.environ.get("FAST_CALLS", "99")):
        print("asleep", flush=True)
        time.sleep(600)
    return [-float(len(text[0]["content"])) for text in completions]
"""


def length(completions, completion_ids, **columns):
    assert all(isinstance(i, int) for ids in completion_ids for i in ids)
    return [len(ids) for ids in completion_ids]


def some(prompts, completions, word, **columns):
    """Does not apply to the first half."""
    half = len(prompts) // 2
    return [None if i < half else len(word[i]) for i in range(len(prompts))]


async def letters(completions, **columns):
    return [float(len(text[0]["content"]) * 100) for text in completions]


@pytest.fixture(scope="module")
def home(home):
    (home / "slow_rewards.py").write_text(SLOW)
    return home


def trained(home, name, **flags):
    return rl.train(
        policy=str(home / "model"),
        dataset=str(home / "prompts.jsonl"),
        output=str(home / name),
        quiet=True,
        **{**FLAGS, **flags},
    )


@pytest.mark.slow
def test_rewards_normalised_apart_train_and_are_shown(home):
    weights = [1, 0.5, 2]
    result = trained(
        home,
        "gdpo",
        algorithm="grpo",
        reward=[length, some, letters],
        reward_weights=weights,
        multi_objective_aggregation="normalize_then_sum",
    )
    first = result.records[1]
    names = ("length", "some", "letters")
    means = [first[f"rewards/{name}/mean"] for name in names]
    share = np.array([1, 0.5, 1])  # of the rows that each applies to
    assert first["objective/scores"] == pytest.approx(np.dot(weights, means * share))
    assert first["rewards/letters/std"] > 10
    # Whitened over the batch, N − 1, and not by the group once more.
    assert first["response/ended"] == 0
    assert first["objective/advantage_std"] == pytest.approx(np.sqrt(7 / 8), 2e-3)
    assert {f"eval/rewards/{name}/mean" for name in names} <= set(result.metrics)
    written = json.loads((result.folder / "results.json").read_text())["rewards"]
    assert [row["weight"] for row in written.values()] == weights
    assert written["length"]["after"] == result.metrics["eval/rewards/length/mean"]
    report = (result.folder / "report.md").read_text()
    assert "| letters | 2 |" in report and "each normalised" in report
    config = json.loads((result.folder / "config.json").read_text())["config"]
    assert config["reward"] == [f"{__name__}:{name}" for name in names]


@pytest.mark.slow
def test_a_reward_model_a_function_and_a_model_of_texts_together(home):
    judge = reward_model.train(
        model=str(home / "model"),
        dataset=str(home / "pairs.jsonl"),
        fit={"steps": 2, "rows": 4},
        output=str(home / "judge"),
        devices=1,
        eval_every=0,
        quiet=True,
    )
    result = trained(
        home, "mixed", reward=[judge, length, str(judge.model_folder)], algorithm="rloo"
    )
    names = ("model", "length", "model_2")
    means = [[row[f"rewards/{n}/mean"] for n in names] for row in result.records[1:3]]
    np.testing.assert_allclose(np.array(means)[:, 0], np.array(means)[:, 2])
    scores = [row["objective/scores"] for row in result.records[1:3]]
    np.testing.assert_allclose(np.sum(means, 1), scores, rtol=1e-5)


@pytest.mark.slow
def test_one_reward_of_weight_one_is_that_reward(home):
    runs = [
        trained(home, f"one{len(w)}", reward=length, reward_weights=w)
        for w in ((), (1.0,))
    ]
    apart = [
        [
            {k: v for k, v in row.items() if "time/" not in k and "rewards/" not in k}
            for row in run.records
        ]
        for run in runs
    ]
    assert apart[0] == apart[1]


def command(home, output, *words, **environment):
    """A process of the command on the slow reward."""
    flags = "--rl.rows 8 --rl.candidates 2 --rl.minibatches 2 --response-length 6 "
    flags += "--data.length 40 --data.eval-rows 4 --devices 1 --eval-every 0 --steps 4"
    given = "--policy model --dataset prompts.jsonl --reward slow_rewards:slow"
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "experiments.rl", *flags.split(), *given.split()),
            *("--algorithm", "rloo", "--output", output, *words),
        ],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_a_reward_that_takes_too_long_stops_the_run_where_it_goes_on(home):
    limit = ("--reward-timeout", "1")
    with command(home, "limited", *limit, FAST_CALLS="3") as process:
        _, said = process.communicate(timeout=600)
    line = said.splitlines()[-1]
    assert process.returncode == 2
    assert "slow_rewards:slow took longer than 1 s (--reward-timeout)" in line
    assert line.endswith("step 2 is saved, --resume goes on from there")
    with command(home, "limited", "--resume", "--reward-timeout", "100") as process:
        _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said
    with command(home, "whole") as process:
        process.communicate(timeout=600)
    one, other = (
        [
            {k: v for k, v in row.items() if "time/" not in k}
            for row in metrics_log.read(home / name / "metrics.jsonl")
        ]
        for name in ("limited", "whole")
    )
    assert one == other and len(one) == 6


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "status"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_in_a_long_reward_is_answered_at_once(home, kind, status):
    number = getattr(signal, kind)
    with command(home, kind, FAST_CALLS="1") as process:
        while "asleep" not in process.stdout.readline():
            assert process.poll() is None
        os.kill(process.pid, number)
        began, said = time.monotonic(), ""
        while "stopping after this step" not in said:
            said = process.stderr.readline()
        assert said.startswith(kind) and time.monotonic() - began < 10
        os.kill(process.pid, number)
        process.communicate(timeout=60)
    assert process.returncode in (status, -number)


@pytest.mark.slow
def test_an_interrupted_run_exits_130_when_its_step_is_done(home):
    with command(home, "stopped", "--steps", "4000", FAST_CALLS="9999") as process:
        while "training" not in process.stdout.readline():
            assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=600)
    assert process.returncode == 130, said
    lines = said.splitlines()
    assert any(line.startswith("SIGINT: stopping after this step") for line in lines)
    assert lines[-1].startswith("stopped by SIGINT after step")


@pytest.mark.slow
def test_a_run_folder_that_vanishes_is_named(home):
    with command(home, "gone", "--steps", "4000", FAST_CALLS="9999") as process:
        while "training" not in process.stdout.readline():
            assert process.poll() is None
        (home / "gone").rename(home / "elsewhere")
        _, said = process.communicate(timeout=600)
    assert process.returncode == 2
    assert "gone/metrics.jsonl has vanished during the run" in said.splitlines()[-1]
