"""The sentiment study at its smallest, on one task for all tests of a process.

`share` makes `experiments.sentiment.run` take a task that is made once a process (the
pretrained policy, the reward models); programs are compiled once anyway. A second run
takes about a second.
"""

import atexit
import dataclasses
import functools
import json
import pathlib
import shutil
import tempfile

import numpy as np
import orbax.checkpoint as ocp
import pytest
import rich.console
import tyro

from experiments import sentiment
from rlhf_jax.cli import command, experiment
from rlhf_jax.feedback import function
from rlhf_jax.runtime import loop, metrics_log
from rlhf_jax.studies.task import Reward
from rlhf_jax.tasks import microworld as small_world

CACHE = pathlib.Path(tempfile.mkdtemp(prefix="rlhf_jax-"))
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)

METHODS = ("sft", "ppo", "elastic_reset", "ppo_average", "ppo_early_stop", "ppo_ma50")
FLAGS = {
    "microworld.pretrain-steps": 5,
    "microworld.pairs": 32,
    "microworld.reward-steps": 4,
    "microworld.prompts": 64,
    "microworld.eval-prompts": 8,
    "microworld.skill-items": 4,
    "methods": METHODS,
    "steps": 6,
    "rl.rows": 8,
    "rl.epochs": 1,
    "rl.minibatches": 1,
    "rl.reset-every": 2,
    "eval-every": 3,
    "save-every": 2,
    "seeds": 1,
    "devices": 1,
    "cache": CACHE,
}


def flags(**changes):
    """The command line of a small study; "__" in a name is a dot, "_" a dash."""
    changes = {k.replace("__", ".").replace("_", "-"): v for k, v in changes.items()}
    words = []
    for name, value in {**FLAGS, **changes}.items():
        if value is True:
            words.append(f"--{name}")
        elif value is not None:
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name}", *map(str, values)]
    return words


def config(**changes):
    """The Config of those flags, as the command line makes it."""
    return tyro.cli(sentiment.Config, default=sentiment.CONFIG, args=flags(**changes))


def run(**changes):
    """The folder of the run that those flags ask for."""
    return sentiment.run(config(**changes))


def share(monkeypatch):
    """From here on, studies of this process share what they can."""
    monkeypatch.setattr(sentiment, "make_task", _task)
    monkeypatch.setattr(command, "prepare_devices", lambda *_: None)


def run_shared(folder, **changes):
    """`run` with what studies share, for fixtures that outlive a test."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        share(monkeypatch)
        return run(output=folder, **changes)


def without_report(monkeypatch):
    """Studies end without drawing pictures or writing a page."""
    monkeypatch.setattr(experiment, "report", lambda *_, **__: None)


make_task = sentiment.make_task


def _task(config, setting):
    if config.dataset != "microworld":
        return make_task(config, setting)
    task = task_of(config.microworld, config.policy, setting.cache, setting.layout)
    if ":" not in config.reward:
        return task
    reward = Reward(host=function.load(config.reward))
    rewards = {**task.rewards, "proxy": lambda seed: reward}
    return dataclasses.replace(task, rewards=rewards)


@functools.cache
def task_of(config, policy, cache, layout):
    """The microworld's task, its reward models made once a seed."""
    preset = policy.removeprefix("scratch:")
    rest = {"layout": layout, "cache": cache, "report": lambda *_, **__: None}
    # All 256 held-out texts would be two thirds of the time of a study.
    few = functools.partial(small_world._heldout, rows=16)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(small_world, "_heldout", few)
        return small_world.create(config, preset, "train", **rest)


def setting_of(folder, layout):
    """A Setting of an experiment in a folder, which reports nothing."""
    console = rich.console.Console(quiet=True)
    return experiment.Setting(
        folder, layout, CACHE, console, None, lambda *_, **__: None
    )


class StopAfter(loop.Signals):
    """As if SIGTERM had come when somebody looks for it the n-th time."""

    def __init__(self, looks):
        self._looks = looks
        super().__init__()

    @property
    def received(self):
        self._looks -= 1
        return "SIGTERM" if self._looks < 0 else None

    @received.setter
    def received(self, value):
        assert value is None


# What two runs are compared by


def lines(folder, name="metrics.jsonl"):
    """The objects of a file of lines, without what a clock says; NaN as "nan"."""
    rows = metrics_log.read(pathlib.Path(folder) / name)
    return [
        {k: repr(v) for k, v in row.items() if not k.startswith("time/")}
        for row in rows
    ]


def weights(folder):
    """{run: (step, leaves, extra)} of the newest checkpoints, every bit of them."""
    found = {}
    for place in sorted((pathlib.Path(folder) / "checkpoints").iterdir()):
        newest = max(place.glob("step_*"))
        body = json.loads((newest / "manifest.json").read_text())["body"]
        arrays = ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False)).restore(
            newest / "state"
        )
        bits = {name: np.asarray(x).tobytes() for name, x in arrays.items()}
        extra = {k: v for k, v in body["extra"].items() if k not in OFFSETS}
        found[place.name] = body["step"], body["leaves"], bits, extra
    return found


OFFSETS = ("metrics", "samples")  # in bytes: what a clock says has more or fewer digits


def assert_same(folder, other):
    """Two runs are the same, bit for bit, clocks apart."""
    assert lines(folder) == lines(other)
    assert lines(folder, "samples.jsonl") == lines(other, "samples.jsonl")
    assert different(weights(folder), weights(other)) == []


def different(found, expected):
    """Where two results of `weights` are not the same, in words."""
    if found.keys() != expected.keys():
        return [f"runs {sorted(found)} instead of {sorted(expected)}"]
    reasons = []
    for cell in found:
        step, leaves, bits, extra = zip(found[cell], expected[cell], strict=True)
        parts = {"step": step, "leaves": leaves, "extra": extra}
        for name, (one, other) in parts.items():
            if one != other:
                reasons.append(f"{cell}: {name} {one} instead of {other}")
        for name in sorted(bits[0].keys() | bits[1].keys()):
            one, other = (np.frombuffer(x.get(name, b""), np.uint8) for x in bits)
            if one.size != other.size:
                reasons.append(f"{cell}: {name} {one.size} bytes, not {other.size}")
            elif (one != other).any():
                count = (one != other).sum()
                reasons.append(f"{cell}: {name} {count} of {one.size} bytes")
    return reasons


# Rewards as users write them, most of them wrongly


def length(prompts, completions, **columns):
    return [float(len(text)) for text in completions]


def huge(prompts, completions, **columns):
    return [3e38 * (-1) ** i for i in range(len(completions))]


def rising(prompts, completions, **columns):
    return [float(label) for label in columns["label"]]


def nan(prompts, completions, **columns):
    return [0.0, float("nan"), *[1.0] * (len(completions) - 2)]


def short(prompts, completions, **columns):
    return [1.0] * (len(completions) - 1)


def words(prompts, completions, **columns):
    return ["good"] * len(completions)


def nothing(prompts, completions, **columns):
    return [None] * len(completions)


def number(prompts, completions, **columns):
    return 1.0


def overflowing(prompts, completions, **columns):
    return [1e300] * len(completions)
