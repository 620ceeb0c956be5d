"""A small sweep of the sentiment study: its trials are runs of that study."""

import json

import pytest
import small_study
import tyro

from experiments.sweep import sentiment as swept
from rlhf_jax.runtime import loop
from rlhf_jax.studies import programs, values

METHODS = ("ppo", "elastic_reset", "ppo_early_stop", "ppo_ma50")


@pytest.fixture(scope="module", autouse=True)
def shared():
    with pytest.MonkeyPatch.context() as monkeypatch:
        small_study.share(monkeypatch)
        yield


def sweep(output, **changes):
    """The folder of a sweep of few values on seed 0 and the study's own prompts."""
    words = small_study.flags(
        methods=METHODS,
        output=output,
        num_evals=5,
        first_seed=0,
        worlds=1,
        microworld__world=0,
        space__learning_rate=(1, 4),
        space__weight=0.5,
        space__every=2,
        space__extensions=0,
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


def folders(done, method):
    """{rate: the folder of the study} of a method's trials with the flags' w."""
    found = json.loads((done / "results.json").read_text())["trials"]
    own = [told for told in found if told["method"] == method]
    weight = own[0]["values"].get("weight")
    return {
        told["values"]["learning_rate"]: done / "trials" / told["folder"] / "study"
        for told in own
        if told["values"].get("weight") == weight
    }


def test_a_trial_of_the_flags_own_setting_is_the_run_as_they_have_it(done, tmp_path):
    run = small_study.run(methods=METHODS, num_evals=5, output=tmp_path / "run")
    for method in METHODS:
        own, other = folders(done, method).values()
        assert of(own, method) == of(run, method)
        assert of(other, method) != of(run, method)


def test_the_sweep_leaves_a_report_and_a_choice(done):
    found = json.loads((done / "results.json").read_text())
    trials = {path.name for path in (done / "trials").iterdir()}
    assert trials == {told["folder"] for told in found["trials"]} and len(trials) == 5
    assert not any(told["failure"] for told in found["trials"])
    assert [len(found["search"][name]) for name in METHODS] == [1, 3, 1, 1]
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
        assert small_study.lines(resumed / "study") == small_study.lines(
            trial / "study"
        )
    one, other = (json.loads((f / "results.json").read_text()) for f in (folder, done))
    assert one["trials"] == other["trials"] and one["chosen"] == other["chosen"]
