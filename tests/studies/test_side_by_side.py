"""Runs of one program, side by side, are recorded as the runs that they are alone.

Most of it is shown on arms of a bandit, which know no tokens; once on a language model.
"""

import dataclasses
import functools
import math
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rich.console
import small_study

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import test_bandit

from experiments import sentiment
from rlhf_jax.cli import language
from rlhf_jax.runtime import metrics_log, parallel, population
from rlhf_jax.studies import interfaces, methods, runner, side_by_side
from rlhf_jax.studies.interfaces import Method, Patience, SideBySide, Unit

LAYOUT = parallel.data(1)
QUIET = rich.console.Console(quiet=True)


def trained(study, folder, layout=LAYOUT, **options):
    return runner.run(study, folder, layout, console=QUIET, **options)


def by_run(records):
    """{(method, seed, step, phase): metrics} without times."""
    return {
        (r["method"], r["seed"], r["step"], r.get("eval/phase")): {
            k: v for k, v in r.items() if not k.startswith("time/")
        }
        for r in records
    }


def same(one, other, **tolerance):
    """Whether two studies have the same records, in whatever order."""
    one, other = by_run(one), by_run(other)
    assert one.keys() == other.keys()
    for key, row in one.items():
        assert row.keys() == other[key].keys(), key
        for name, value in row.items():
            if isinstance(value, str):
                assert value == other[key][name]
            else:
                np.testing.assert_allclose(
                    other[key][name], value, err_msg=f"{key} {name}", **tolerance
                )


# Arms of a bandit


class Climb:
    """`test_bandit.climb`, of which several can be trained side by side."""

    axes = test_bandit.State(0, 0)

    def __init__(self, breaks=()):
        self._breaks = breaks  # units whose updates are not finite from step 3 on

    def __call__(self, study, run):
        trainer = test_bandit.climb(study, run)

        def advance(state, iteration):
            state, metrics, rows = trainer.advance(state, iteration)
            return state, {**metrics, "optim/skipped": 0.0}, rows

        return trainer._replace(advance=advance)

    def shares(self, study, run):
        return "climb"

    def side_by_side(self, study, runs, layout):
        first = [
            0.1 * jax.random.normal(jax.random.key(run.unit.seed), (3,)) for run in runs
        ]
        broken = np.array([run.unit in self._breaks for run in runs])

        def one(state, first):
            def pays(x):
                return jax.nn.softmax(x) @ test_bandit.PAYS

            value, slope = jax.value_and_grad(pays)(state.logits)
            logits = state.logits + 0.5 * slope
            average = 0.8 * state.average + (1 - 0.8) * logits
            return test_bandit.State(logits, average), {"objective/scores": value}

        axes = {"axes_in": (self.axes, 0), "axes_out": (self.axes, 0)}
        step = layout.compile(one, **axes, whole=(1,))
        first = layout.put(jnp.stack(first))

        def advance(state, iteration):
            state, metrics = step(state, first)
            skipped = np.where(broken, max(0, iteration - 1), 0)
            return state, {**metrics, "optim/skipped": skipped}, None

        def reset(state, due):
            due = np.asarray(due)[:, None]
            logits = jnp.where(due, state.average, state.logits)
            return test_bandit.State(logits, jnp.where(due, first, state.average))

        return SideBySide(layout, self.axes, advance, reset)


def bandit(**changes):
    climb = Climb(**changes)
    table = {
        name: dataclasses.replace(row, train=climb) if row.train else row
        for name, row in test_bandit.STUDY.methods.items()
    }
    table["start"] = Method("π₀", "")
    return dataclasses.replace(
        test_bandit.STUDY, methods=table, initial=test_bandit.climb
    )


STUDY = bandit()


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    return folder, trained(STUDY, folder)


@pytest.mark.parametrize("size", [2, 3, 4, 9])
def test_a_study_is_the_same_whatever_the_size_of_its_populations(
    size, alone, tmp_path
):
    records = trained(STUDY, tmp_path, size=size)
    same(alone[1], records, rtol=1e-5, atol=1e-6)
    for run in STUDY.runs():
        own = runner.policy(STUDY, tmp_path, LAYOUT, run, console=QUIET)
        other = runner.policy(STUDY, alone[0], LAYOUT, run, console=QUIET)
        np.testing.assert_allclose(own, other, rtol=1e-5, atol=1e-6)
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {run.name for run in STUDY.runs()}


def test_the_order_of_work_fills_populations_and_finishes_units():
    plan = side_by_side.plan(STUDY, STUDY.runs(), 2)
    first, second = STUDY.units
    trains = [
        tuple(interfaces.Run(m, unit) for m in ("climb", "reset"))
        for unit in (first, second)
    ]
    rest = [
        [(interfaces.Run(m, unit),) for m in ("ema", "half", "start")]
        for unit in (first, second)
    ]
    assert plan == (trains[0], *rest[0], trains[1], *rest[1])
    assert side_by_side.plan(STUDY, STUDY.runs(), 1) == tuple(
        (run,) for run in STUDY.runs()
    )


def test_runs_that_hosts_cannot_share_are_left_alone():
    runs = tuple("abcdefg")
    assert side_by_side.fitting(runs, 1) == [runs]
    assert side_by_side.fitting(runs, 3) == [tuple("abcdef"), ("g",)]
    assert side_by_side.fitting(runs[:2], 3) == [("a",), ("b",)]


def stopped(study, folder, looks, **options):
    signals = small_study.StopAfter(looks)
    with pytest.raises(runner.loop.Interrupted):
        trained(study, folder, signals=signals, **options)


@pytest.mark.parametrize("looks", [3, 8])
def test_an_interrupted_population_goes_on_bit_for_bit(looks, tmp_path):
    whole = trained(STUDY, tmp_path / "whole", size=4)
    stopped(STUDY, tmp_path / "cut", looks, size=4)
    assert (tmp_path / "cut/checkpoints/population-climb-0-0").is_dir()
    again = trained(STUDY, tmp_path / "cut", size=4)
    same(whole, again, rtol=0, atol=0)
    assert len(whole) == len(again)


@pytest.mark.parametrize("size", [1, 3])
def test_members_go_on_alone_or_in_another_population(size, alone, tmp_path):
    stopped(STUDY, tmp_path, 6, size=4)
    before = metrics_log.read(tmp_path / "metrics.jsonl")
    records = trained(STUDY, tmp_path, size=size)
    assert records[: len(before)] == before  # nothing that was saved is done again
    same(alone[1], records, rtol=1e-5, atol=1e-6)
    assert len(alone[1]) == len(records)


def test_runs_begun_alone_go_on_together(alone, tmp_path):
    stopped(STUDY, tmp_path, 6)
    records = trained(STUDY, tmp_path, size=4)
    same(alone[1], records, rtol=1e-5, atol=1e-6)
    assert len(alone[1]) == len(records)


def test_a_killed_population_goes_on_bit_for_bit(tmp_path):
    assert test_bandit.kill("test_side_by_side", tmp_path / "cut", 61, size=4)
    again = trained(STUDY, tmp_path / "cut", size=4)
    whole = trained(STUDY, tmp_path / "whole", size=4)
    same(whole, again, rtol=0, atol=0)
    assert len(whole) == len(again)


def test_a_lost_member_is_reported_and_the_others_go_on(alone, tmp_path):
    lost = Unit(0, 1)
    study, said = bandit(breaks=(lost,)), rich.console.Console(record=True, width=200)
    records = runner.run(study, tmp_path, LAYOUT, console=said, size=4)
    others = [r for r in alone[1] if r["seed"] != lost.seed]
    same(others, [r for r in records if r["seed"] != lost.seed], rtol=1e-5, atol=1e-6)
    assert "climb-0-1, step 5: 3 updates in a row were not finite" in said.export_text()
    own = [r for r in records if r["seed"] == lost.seed and r["method"] == "climb"]
    assert max(r["step"] for r in own if "eval/phase" not in r) == 5
    final = {r["method"]: r for r in records if r["seed"] == lost.seed}
    for name in ("climb", "reset", "ema", "half"):
        assert final[name]["eval/phase"] == "final"
        assert math.isnan(final[name]["eval/reward"])
    assert runner.ending(study, tmp_path, LAYOUT, STUDY.runs()[0]).step == 12


def test_a_population_of_which_all_are_lost_ends(tmp_path):
    study = bandit(breaks=STUDY.units)
    records = trained(study, tmp_path, size=4)
    assert max(r["step"] for r in records if r["method"] == "climb") == 6
    final = [r for r in records if r.get("eval/phase") == "final"]
    assert {r["method"] for r in final} == {*test_bandit.STUDY.methods, "start"}
    assert all(math.isnan(r["eval/reward"]) == (r["method"] != "start") for r in final)


def test_what_ends_runs_one_by_one_is_refused_beside_a_population(tmp_path):
    study = dataclasses.replace(STUDY, patience=Patience(3))
    with pytest.raises(ValueError, match="--population: early stopping"):
        trained(study, tmp_path, size=2)
    with pytest.raises(ValueError, match="--population, --layout fsdp:2: "):
        trained(STUDY, tmp_path, parallel.layout("fsdp", 2), size=2)
    assert not list(tmp_path.iterdir())


# A language model


def make_study(folder):
    config = small_study.config(steps=4, eval_every=2, rl__reset_every=2)
    setting = small_study.setting_of(folder, LAYOUT)
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_study.share(monkeypatch)
        tasks = sentiment.make_tasks(config, setting)
    names = ("zero_shot", "ppo", "elastic_reset", "ppo_average", "ppo_early_stop")
    asked = dataclasses.replace(config, methods=names, seeds=2)
    return language.study(asked, tasks, methods.METHODS)


@pytest.fixture(scope="module")
def language_alone(tmp_path_factory):
    """(study, its records, each run trained by itself)."""
    study = make_study(tmp_path_factory.mktemp("setting"))
    return study, trained(study, tmp_path_factory.mktemp("alone"))


@pytest.mark.parametrize("vmapped", [False, True])
def test_a_language_model_of_a_population_is_the_one_it_is_alone(
    vmapped, language_alone, tmp_path, monkeypatch
):
    study, by_itself = language_alone
    of = functools.partial(population.of, vmapped=vmapped)
    monkeypatch.setattr(population, "of", of)
    records = trained(study, tmp_path, parallel.data(2), size=4)
    same(by_itself, records, rtol=1e-4, atol=1e-5)
    resets = {r["step"] for r in records if r.get("reset/reset") == 1.0}
    assert resets == {3} and {r["method"] for r in records} == set(study.methods)
