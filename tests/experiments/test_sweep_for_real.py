"""A small sweep of the sentiment study: its trials are runs of that study."""

import json

import pytest
import small_study
import tyro

from experiments.sweep import sentiment as swept
from rlhf_jax.runtime import loop
from rlhf_jax.studies import programs, values

METHODS = ("ppo", "elastic_reset", "ppo_ma50")


@pytest.fixture(scope="module", autouse=True)
def shared():
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_study.share(monkeypatch)
        yield


def sweep(output, **changes):
    """The folder of a sweep of two trials on seed 0 and the study's own prompts."""
    words = small_study.flags(
        methods=METHODS,
        output=output,
        trials=2,
        num_evals=5,
        first_seed=0,
        space__every=(2, 3),
        microworld__eval_split="test",
        **changes,
    )
    return swept.run(tyro.cli(swept.Config, default=swept.CONFIG, args=words))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return sweep(tmp_path_factory.mktemp("sweep") / "sweep")


def of(folder, method):
    """What a run of a method logged, without what a clock says."""
    rows = small_study.lines(folder)
    return [row for row in rows if row["method"] == repr(method)]


def test_the_first_trial_is_the_run_as_its_flags_have_it(done, tmp_path):
    run = small_study.run(methods=METHODS, num_evals=5, output=tmp_path / "run")
    for method, trial in zip(METHODS, ("ppo", "elastic_reset", "ppo"), strict=True):
        assert of(done / f"trials/{trial}-0", method) == of(run, method)
        assert of(done / f"trials/{trial}-1", method) != of(run, method)


def test_the_sweep_leaves_a_report_and_a_choice(done):
    trials = {path.name for path in (done / "trials").iterdir()}
    assert trials == {"ppo-0", "ppo-1", "elastic_reset-0", "elastic_reset-1"}
    found = json.loads((done / "results.json").read_text())
    assert len(found["trials"]) == 6 and not any(t["failure"] for t in found["trials"])
    assert (done / "front.png").read_bytes().startswith(b"\x89PNG")
    assert set(values.read(done / "results.json")) == set(found["methods"])


def test_a_sweep_stopped_within_a_trial_goes_on_as_if_it_had_not(
    done, tmp_path, monkeypatch
):
    before = programs.compile_programs.cache_info().misses
    with monkeypatch.context() as patched:
        patched.setattr(loop, "Signals", lambda: small_study.StopAfter(14))
        with pytest.raises(loop.Interrupted) as stop:
            sweep(tmp_path / "sweep")
    assert stop.value.folder == tmp_path / "sweep"
    begun = list((tmp_path / "sweep/trials").iterdir())
    assert any(not (trial / "trial.json").exists() for trial in begun)
    folder = sweep(tmp_path / "sweep", resume=True)
    assert programs.compile_programs.cache_info().misses == before
    for trial in (done / "trials").iterdir():
        resumed = folder / "trials" / trial.name
        assert small_study.lines(resumed) == small_study.lines(trial)
    one, other = (json.loads((f / "results.json").read_text()) for f in (folder, done))
    assert one["trials"] == other["trials"] and one["chosen"] == other["chosen"]
