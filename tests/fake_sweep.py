"""Sweeps whose trials a stand-in for the runner makes: rewards that a setting decides.

Nothing is trained. A test module shares `fakes`, `nothing_ran` and `done` as fixtures.
"""

import dataclasses
import importlib
import json
import pathlib
import types
from typing import NamedTuple

import numpy as np
import pytest

from experiments import sentiment
from experiments.sweep import sentiment as swept
from rlhf_jax import sampling
from rlhf_jax.cli import command
from rlhf_jax.evaluation import axes
from rlhf_jax.reporting import plots
from rlhf_jax.runtime import loop, metrics_log, parallel
from rlhf_jax.studies import evaluators, interfaces, methods, runner
from rlhf_jax.studies import sweep as trials
from rlhf_jax.studies.interfaces import Unit

METHODS = ("ppo", "ppo_kl", "elastic_reset", "ppo_average", "ppo_ma50")
RATE = 5e-4  # of the flags
CONFIG = dataclasses.replace(swept.CONFIG, methods=METHODS, worlds=2, num_evals=16)
BEST = {"ppo_ma50": 32 * RATE, "ppo_average": 2 * RATE}  # others: 2 * RATE
NOT_FINITE = 0.05  # rates beyond this one


class Ran(NamedTuple):
    """A trial that was handed to the runner."""

    study: interfaces.Study
    folder: pathlib.Path
    starts: dict


ran = []


def tuned(study):
    """(the method that a trial trains, its `Values`)."""
    ((name, row),) = [(n, m) for n, m in study.methods.items() if m.train]
    return name, row.train.values


def fake_run(study, folder, layout, *, console, signals, starts, size=1):
    """Rewards that a setting decides; of trials that are together, each by its own."""
    ran.append(Ran(study, folder, starts))
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    if stop := loop.stopped(signals):
        raise loop.Interrupted(f"{stop} in a trial")
    with metrics_log.Lines(folder / "metrics.jsonl", resume_offset=0) as log:
        for unit in study.units:
            for name, method in study.methods.items():
                setting = (method.train or study.methods[method.source].train).values
                if setting.learning_rate > NOT_FINITE and size == 1:
                    raise loop.NotFinite("step 3: updates were skipped")
                own = name.split(".")[-1]
                for row in rows_of(own, unit, setting, study.schedule.steps):
                    if setting.learning_rate > NOT_FINITE and row["step"]:
                        row |= {
                            k: np.nan for k in row if k.startswith(("eval/r", "drift"))
                        }
                    log.append({**row, "method": name})


def _peak(name, setting):
    """The reward at the end: best at a rate, a β, a w and an interval."""
    off = [np.log2(setting.learning_rate / BEST.get(name, 2 * RATE))]
    if setting.kl_coef is not None:
        off.append(np.log2(setting.kl_coef / 0.3) / 4)
    if name == "ppo_average":
        off.append((setting.weight or 0.638) - 0.9)
    elif name == "elastic_reset":
        off.append(setting.weight)
    if setting.every is not None:
        off.append(np.log2(setting.every / 10))
    return 6 - sum(map(abs, off))


def rows_of(name, unit, setting, steps):
    place = {"method": name, **unit._asdict()}
    peak = max(_peak(name, setting), 0.0) + 0.01 * (unit.world % 100)
    for step in range(0, steps + 1, 10):
        x = step / steps
        yield {
            **place,
            "step": step,
            "eval/phase": "start" if step == 0 else "train",
            "eval/reward": peak * x,
            "eval/reward_a": peak * x,
            "eval/reward_b": 0.5 * peak * x,
            "eval/gold": 0.1 + x,
            "drift/text_nll": 2 + x,
            "drift/text_nll_a": 2 + x,
            "drift/text_nll_b": 2 + x,
            "drift/kl_initial": 9 * x,
            "tax/skills": 0.5 - x / 4,
        }
        if name in ("ppo", "ppo_kl", "elastic_reset"):
            yield {**place, "step": step + 1, "budget/tokens": 10.0 * step}


@pytest.fixture(scope="module", autouse=True)
def fakes():
    with pytest.MonkeyPatch.context() as monkeypatch:
        _fake(monkeypatch)
        yield


def _fake(monkeypatch):
    draw = sampling.Config(max_new_tokens=4, eos_ids=(1,), pad_id=0)
    task = types.SimpleNamespace(
        sampling=draw,
        rewards={"proxy": None},
        params={},
        skills="some",
        facts={"own units": False},
    )
    monkeypatch.setattr(runner, "run", fake_run)
    monkeypatch.setattr(evaluators, "language", lambda task: ((), ("the test",)))
    monkeypatch.setattr(sentiment, "make_task", lambda *_: task)
    monkeypatch.setattr(command, "prepare_devices", lambda *_: None)
    monkeypatch.setattr(plots, "fronts", _picture)
    monkeypatch.setattr(parallel, "layout", lambda *_: parallel.data(1))


def _picture(trials, axes, path, **options):
    path.write_bytes(b"")


draw_fronts = plots.fronts


def run(place, **changes):
    return swept.run(dataclasses.replace(CONFIG, output=str(place), **changes))


@pytest.fixture(autouse=True)
def nothing_ran():
    ran.clear()


def read(place):
    return json.loads((place / "results.json").read_text())


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """(folder, its results.json, what ran) of a whole sweep."""
    ran.clear()
    place = run(tmp_path_factory.mktemp("sweep") / "sweep")
    return place, read(place), tuple(ran)


def of(found, method):
    """The trials of a method, by number."""
    return {t["trial"]: t for t in found["trials"] if t["method"] == method}


def grid(found, method, field):
    """What a method was tried with in a field."""
    (line,) = [x for x in found["search"][method] if x["field"] == field]
    return [one["value"] for one in line["tried"]]


def made(folder, **changes):
    """The sweep of the flags, without a study."""
    config = dataclasses.replace(CONFIG, **changes)
    return trials.Sweep(
        study=None,
        table=methods.METHODS,
        searches=swept.SUBJECT.plan(config),
        folder=folder,
        layout=None,
        units=(Unit(900, 900),),
        axes=sentiment.AXES,
        axis=axes.TEXT_NLL.key,
    )


def sweep_of(config, setting):
    """The sweep of the flags, with its studies."""
    experiment = importlib.import_module("experiments.sweep.subject")._experiment
    return experiment(swept.SUBJECT).study(config, setting)
