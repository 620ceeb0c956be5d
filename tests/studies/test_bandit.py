"""A study that knows no tokens: three arms, a table of logits, and nothing else.

It runs, is killed at any moment, goes on, and is reported: by the machinery that trains
language models.
"""

import json
import pathlib
import signal
import subprocess
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import ema
from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import report
from rlhf_jax.runtime import metrics_log, parallel
from rlhf_jax.studies import eval_steps, post_hoc, runner
from rlhf_jax.studies.interfaces import Method, Schedule, Study, Trainer, Unit

ROOT = pathlib.Path(__file__).resolve().parents[2]
LAYOUT = parallel.data(1)

# The study, all of it


PAYS = jnp.array([0.0, 0.4, 1.0])
DRIFT = axes.Axis("drift/kl", "KL from the start", "nats", "less", corner=1.0)


class State(NamedTuple):
    logits: jax.Array
    average: jax.Array


def climb(study, run):
    """Gradient ascent on the expected reward, from logits near 0."""
    first = 0.1 * jax.random.normal(jax.random.key(run.unit.seed), (3,))
    value = jax.jit(jax.value_and_grad(lambda x: jax.nn.softmax(x) @ PAYS))

    def advance(state, iteration):
        pays, slope = value(state.logits)
        logits = state.logits + 0.5 * slope
        average = ema.update(state.average, logits, decay=0.8)
        return State(logits, average), {"objective/scores": pays}, None

    return Trainer(
        start=lambda: run.layout.put(State(first, first + 0.0)),
        advance=advance,
        policy=lambda state: state.logits,
        reset=lambda state: State(state.average, run.layout.put(first + 0.0)),
        average=lambda state: state.average,
        mix=lambda logits, weight: (1 - weight) * first + weight * logits,
    )


def measure(logits, run):
    first = 0.1 * jax.random.normal(jax.random.key(run.unit.seed), (3,))
    arms, change = jax.nn.softmax(logits), jax.nn.log_softmax(logits)
    drift = float(arms @ (change - jax.nn.log_softmax(first)))
    arm = {
        "prompt": "",
        "completion": str(int(arms.argmax())),
        "score": float(arms @ PAYS),
    }
    return {"eval/reward": float(arms @ PAYS), DRIFT.key: drift}, [arm]


STUDY = Study(
    methods={
        "climb": Method("climb", "gradient ascent", train=climb),
        "reset": Method(
            "climb, reset", "", train=climb, resets=eval_steps.at_intervals
        ),
        "ema": Method("EMA", "", source="climb", derive=post_hoc.average),
        "half": Method(
            "half way", "", source="climb", derive=post_hoc.interpolate(0.5)
        ),
    },
    units=(Unit(0, 0), Unit(0, 1)),
    schedule=Schedule(12, eval_steps.alike(12, 4), reset_every=5, save_every=2),
    evaluators=(measure,),
    axes=(axes.REWARD, DRIFT, axes.Axis("drift/steps", "Steps", "", corner=20.0)),
)


# What it does


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """(folder, records) of a study that nothing stops."""
    folder = tmp_path_factory.mktemp("bandit")
    return folder, runner.run(STUDY, folder, LAYOUT)


def test_every_method_is_measured_on_every_unit(whole):
    _, records = whole
    for unit in STUDY.units:
        for method in STUDY.methods:
            rows = [
                row
                for row in records
                if (row["method"], row["seed"]) == (method, unit.seed)
                and "eval/phase" in row
            ]
            assert rows[-1]["eval/reward"] > rows[0]["eval/reward"]
    phases = [
        r["eval/phase"] for r in records if r["method"] == "reset" and "eval/phase" in r
    ]
    assert phases.count("before_reset") == phases.count("after_reset") == 2 * 2


def test_policies_are_read_back_as_they_were_trained(whole):
    folder, records = whole
    (run, *_) = STUDY.runs()
    policy = runner.policy(STUDY, folder, LAYOUT, run)
    last = [r for r in records if r["method"] == "climb" and r.get("eval/phase")]
    assert measure(policy, run)[0]["eval/reward"] in [r["eval/reward"] for r in last]
    average = runner.policy(STUDY, folder, LAYOUT, run._replace(method="ema"))
    assert np.any(np.asarray(average) != np.asarray(policy))


KILLED = """
import os, signal, sys
sys.path[:0] = {paths!r}
import {module}
from rlhf_jax.runtime import metrics_log

lines, append = [0], metrics_log.Lines.append

def counted(self, row):
    append(self, row)
    lines[0] += 1
    if lines[0] == {line}:
        os.kill(os.getpid(), signal.SIGKILL)

metrics_log.Lines.append = counted
{module}.trained({module}.STUDY, {folder!r}, **{options!r})
"""


def trained(study, folder, **options):
    return runner.run(study, folder, LAYOUT, **options)


def kill(module, folder, line, **options):
    """Runs the STUDY of a test module in a process that is killed once it has written
    so many lines; returns what is left of metrics.jsonl."""
    paths = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/studies")]
    told = {"module": module, "line": line, "options": options, "paths": paths}
    code = KILLED.format(folder=str(folder), **told)
    died = subprocess.run([sys.executable, "-c", code], cwd=ROOT)
    assert died.returncode == -signal.SIGKILL
    return metrics_log.read(folder / "metrics.jsonl")


@pytest.mark.parametrize("line", [3, 31])
def test_killed_and_resumed_it_is_the_same_study(line, whole, tmp_path):
    partial = kill("test_bandit", tmp_path, line)
    records = runner.run(STUDY, tmp_path, LAYOUT)
    assert len(partial) < len(records)

    def plain(rows):
        return [{k: v for k, v in r.items() if not k.startswith("time/")} for r in rows]

    assert plain(records) == plain(whole[1])


def test_it_is_reported_on_its_own_axis(whole):
    folder, records = whole
    measured = [{**r, "drift/steps": float(r["step"])} for r in records]
    about = report.Report(
        title="A bandit",
        axes=STUDY.axes,
        labels={name: method.label for name, method in STUDY.methods.items()},
        scope="these three arms",
    )
    report.write(folder, measured, about)
    found = json.loads((folder / "results.json").read_text())
    assert set(found["methods"]) == set(STUDY.methods)
    assert all(
        DRIFT.key in method["hypervolume"] for method in found["methods"].values()
    )
    page = (folder / "report.md").read_text()
    assert "KL from the start" in page and "half way" in page
    assert (folder / "front.png").read_bytes().startswith(b"\x89PNG")
