"""Sweeps that were stopped, and sweeps that several processes share."""

import collections
import contextlib
import dataclasses
import shutil
import threading
import types

import pytest
import rich.console
from fake_sweep import (
    BEST,
    CONFIG,
    done,
    fakes,
    nothing_ran,
    ran,
    read,
    run,
    sweep_of,
    tuned,
)

from experiments.sweep import sentiment as swept
from rlhf_jax.cli import command
from rlhf_jax.runtime import files, loop, parallel
from rlhf_jax.studies import sweep as trials

__all__ = ["done", "fakes", "nothing_ran"]  # fixtures


def test_a_sweep_goes_on_with_the_trial_it_was_stopped_in(done, tmp_path, monkeypatch):
    place, stops = tmp_path / "sweep", iter([False] * 9 + [True] * 99)
    with monkeypatch.context() as patched:
        patched.setattr(loop, "stopped", lambda _: "SIGTERM" * next(stops))
        with pytest.raises(loop.Interrupted) as stop:
            run(place)
    assert stop.value.folder == place
    before = len(list(place.rglob("trial.json")))
    assert 0 < before < 9 and not (place / "results.json").exists()
    ran.clear()
    run(place, resume=True)
    assert len(ran) + before == len(done[2])
    assert read(place)["trials"] == done[1]["trials"]


@contextlib.contextmanager
def held(folder, monkeypatch, *, before_release):
    """Another process is at a trial, until the first time that this one has nothing
    left but to wait."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(files.lock(folder))

        def pause(seconds):
            before_release()
            stack.close()

        monkeypatch.setattr(trials.time, "sleep", pause)
        yield


def joined(place):
    """The flags of a process that joins the sweep of another one."""
    config = dataclasses.replace(CONFIG, output=str(place), resume=True)
    place.mkdir()
    command.write_config(place, config, parallel.data(1))
    return config


FIRST = "trials/ppo-lr6.25e-05"


def test_a_trial_of_a_process_that_died_is_taken(done, tmp_path, monkeypatch, capsys):
    config, seen = joined(tmp_path / "sweep"), []
    first = tmp_path / "sweep" / FIRST
    with held(first, monkeypatch, before_release=lambda: seen.extend(ran)):
        swept.run(config)
    # What did not wait for it went on: the other methods, to their ends.
    assert {"elastic_reset", "ppo_kl"} < {tuned(one.study)[0] for one in seen}
    assert first / "study" not in [one.folder for one in seen]
    assert [one.folder for one in ran].count(first / "study") == 1
    assert len({one.folder for one in ran}) == len(ran)
    said = "".join(capsys.readouterr())
    assert said.count("waiting for the trials of other processes") == 1
    assert read(tmp_path / "sweep")["trials"] == done[1]["trials"]


def test_a_trial_that_another_process_ends_is_not_run_again(
    done, tmp_path, monkeypatch
):
    whole, _, _ = done
    config = joined(tmp_path / "sweep")
    here, there = tmp_path / "sweep" / FIRST, whole / FIRST

    def end():
        shutil.copytree(there / "study", here / "study")
        shutil.copy(there / "trial.json", here)

    with held(here, monkeypatch, before_release=end):
        swept.run(config)
    assert here / "study" not in [one.folder for one in ran]
    assert read(tmp_path / "sweep")["trials"] == read(whole)["trials"]


def test_processes_share_a_sweep_and_run_no_trial_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(trials, "_PAUSE", 0.01)
    config = dataclasses.replace(CONFIG, output=str(tmp_path))
    setting = types.SimpleNamespace(folder=tmp_path, layout=parallel.data(1))
    shared = sweep_of(config, setting)
    ends, console = [], rich.console.Console(quiet=True)

    def process():
        ends.append(trials.run(shared, console, None))

    workers = [threading.Thread(target=process) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    counts = collections.Counter(one.folder for one in ran)
    assert set(counts.values()) == {1} and len(counts) == len(ends[0])
    assert ends[0] == ends[1] == ends[2]


def test_a_finished_sweep_is_not_run_over(done):
    place, _, _ = done
    with pytest.raises(ValueError, match="holds a sweep already: pass --resume"):
        run(place)
    run(place, resume=True)
    assert not ran


def test_trials_of_a_population_reach_what_they_reach_one_by_one(done, tmp_path):
    place, found, alone = done
    together = run(tmp_path / "sweep", population=12)
    again = read(together)
    assert again["chosen"] == found["chosen"]

    def told(results):
        return {
            (t["folder"], t["method"]): (t["values"], t["mean"], t["failure"])
            for t in results["trials"]
        }

    assert told(again) == told(found)
    studies = [one.study for one in ran]
    assert max(len(study.methods) for study in studies) > 4 and len(ran) < len(alone)
    assert not (together / "together").exists() or not any(
        (together / "together").iterdir()
    )


def test_a_lost_trial_of_a_population_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(BEST, "ppo", 1.0)
    found = read(run(tmp_path, methods=("ppo",), population=9))
    (failed,) = [t for t in found["trials"] if t["failure"]]
    assert "not finite" in failed["failure"] and failed["mean"] is None
