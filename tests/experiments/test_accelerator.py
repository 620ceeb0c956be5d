"""A slot on an accelerator: cut, resumed, too short, too small; what is run in it."""

import dataclasses
import json
import pathlib
import re
import signal
import subprocess
import sys
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.throughput import (
    accelerator,
    attention,
    forecast,
    measure,
    operations,
    ours,
    population,
    slot_table,
    workloads,
)
from experiments.throughput import benchmark as throughput
from rlhf_jax import sharding
from rlhf_jax.models import fused
from rlhf_jax.runtime import parallel

TINY = workloads.WORKLOADS["tiny"]
ABOUT = {
    "platform": "cpu",
    "device": "cpu",
    "devices": 1,
    "versions": {"jax": "1.2.3", "jaxlib": "1.2.3"},
    "commit": "abc",
    "algorithm": "rloo",
    "rounds": 2,
}


@pytest.fixture
def opened(tmp_path):
    """A slot of so many minutes in the same folder each time."""

    def make(minutes=60.0, **changes):
        about = ABOUT | changes
        return accelerator.Slot(tmp_path, about, minutes, lambda line: None)

    return make


def add(slot, name):
    """A part that adds one to a number of the results."""

    def call():
        slot.results["peaks"][name] = slot.results["peaks"].get(name, 0) + 1

    return call


# The slot


def test_a_part_is_measured_once_however_often_the_slot_is_opened(opened):
    first = opened()
    first.attempt("a", add(first, "a"))
    again = opened()
    again.attempt("a", add(again, "a"))
    again.attempt("b", add(again, "b"))
    assert opened().results["peaks"] == {"a": 1, "b": 1}


def test_parts_say_of_which_commit_they_are(opened):
    slot = opened()
    slot.attempt("a", add(slot, "a"))
    later = opened(commit="def")
    later.attempt("b", add(later, "b"))
    assert "; rloo; commit abc, def." in (later.folder / "table.md").read_text()


def test_what_a_cut_part_wrote_is_not_kept_and_what_came_before_is(opened):
    slot = opened()
    slot.attempt("a", add(slot, "a"))

    def cut():
        add(slot, "b")()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slot.attempt("b", cut)
    assert opened().results["peaks"] == {"a": 1}


def test_a_part_that_would_take_too_long_is_not_begun_and_tried_the_next_time(opened):
    slot = opened(minutes=1.0)
    slot.attempt("long", add(slot, "long"), expected=70.0)
    slot.attempt("short", add(slot, "short"), expected=5.0)
    assert slot.results["peaks"] == {"short": 1}
    assert slot.results["skipped"]["long"].startswith("70 s, and 60 are left")
    again = opened(minutes=2.0)
    again.attempt("long", add(again, "long"), expected=70.0)
    assert again.results["peaks"] == {"short": 1, "long": 1}
    assert again.results["skipped"] == {}


def test_a_part_that_fails_is_noted_and_the_others_go_on(opened):
    slot = opened()

    def fail():
        raise RuntimeError("the library\nrefused")

    slot.attempt("a", fail)
    slot.attempt("b", add(slot, "b"))
    assert slot.results["failed"] == {"a": "RuntimeError: the library refused"}
    assert "- a: RuntimeError" in (slot.folder / "table.md").read_text()
    again = opened()
    again.attempt("a", add(again, "a"))
    assert again.results["peaks"] == {"a": 1, "b": 1} and not again.results["failed"]


def test_what_ran_out_of_memory_is_not_tried_again(opened):
    slot = opened()

    def fail():
        raise RuntimeError("RESOURCE_EXHAUSTED: 9 GiB")

    slot.attempt("a", fail)
    assert not slot.results["failed"]
    again = opened()
    again.attempt("a", add(again, "a"))
    assert again.results["too_large"] == {
        "a": "RuntimeError: RESOURCE_EXHAUSTED: 9 GiB"
    }
    assert "too large:" in slot_table.markdown_of(again.results)
    assert again.results["peaks"] == {}


def test_a_folder_of_another_device_or_command_is_refused(opened, tmp_path):
    slot = opened()
    slot.attempt("a", add(slot, "a"))
    with pytest.raises(ValueError, match=r"device \['cpu'\], and here it is \['H"):
        opened(device="H200")
    (tmp_path / "results.json").write_text('{"workloads": {}}')
    with pytest.raises(ValueError, match="not of --accelerator, or damaged"):
        opened()


# Forecasts


def entry(part, seconds, compiling=4.0):
    facts = {"times": {part: [seconds]}, "compile_seconds": {part: compiling}}
    return {"ours": facts | {"making_seconds": 3.0}}


def test_a_forecast_scales_what_another_workload_took_by_the_work_there_is(opened):
    results = opened().results | {"platform": "gpu"}
    peaks = {"float32": 1e9, "bandwidth": 1e9}
    unknown = forecast.seconds(results, "tiny", "train", "rloo", made=True)
    assert unknown == 20.0 + 4 * 0.01 * 5.0  # compilation, and rounds of who knows what
    results["peaks"] = peaks
    least = operations.update(TINY) / 1e9
    first = forecast.seconds(results, "tiny", "train", "rloo", made=False)
    assert first == pytest.approx(10.0 + 20.0 + 4 * 5.0 * least)
    other = operations.update(workloads.WORKLOADS["microworld"]) / 1e9
    results["workloads"] = {"microworld": entry("train", 2.5 * other)}
    made = forecast.seconds(results, "tiny", "train", "rloo", made=True)
    assert made == pytest.approx(4.0 + 4 * 2.5 * least)
    anew = forecast.seconds(results, "tiny", "train", "rloo", made=False)
    assert anew - made == pytest.approx(10.0)


def test_memory_counts_what_the_state_and_the_gradients_take():
    layout = parallel.data(1)
    count = sum(x.size for x in jax.tree.leaves(workloads.policy(TINY)[1]))
    need = forecast.needed(TINY, "rloo", layout)
    # π₀, π, two moments, the average, the reward model and gradients.
    assert 6.9 * 4 * count < need < 7.2 * 4 * count
    seven = forecast.needed(workloads.WORKLOADS["llama-7b-lora"], "rloo", layout)
    # Twice 6.7e9 weights in bf16, and 8 GiB of keys and values.
    assert 32 < seven / measure.GIB < 34
    assert forecast.why_not(TINY, "rloo", layout) is None


def test_a_workload_too_large_for_the_device_is_skipped_with_its_size(
    opened, monkeypatch
):
    monkeypatch.setattr(forecast, "available", lambda device: 8 * measure.GIB)
    slot, layout = opened(), parallel.data(1)
    work = workloads.WORKLOADS["llama-7b-lora"]
    accelerator._workload(slot, "llama-7b-lora", work, layout, "rloo")
    assert list(slot.results["skipped"])[0] == "llama-7b-lora/iteration"  # asked first
    for reason in slot.results["skipped"].values():
        assert "needs at least 33" in reason and "a device has 8.0" in reason
    assert not slot.results["workloads"]


# Attention


def test_where_cudnn_is_missing_xla_is_used_and_the_reason_kept():
    half = dataclasses.replace(
        TINY, decoder=dataclasses.replace(TINY.decoder, dtype="bfloat16")
    )
    found = attention.race(half, 2)
    assert found["chosen"] == "auto" and found["xla_seconds"] > 0
    assert "cuDNN is not detected" in found["refused"]
    assert not attention.applies(half, parallel.data(1))  # which is no GPU
    gpu = types.SimpleNamespace(devices=[types.SimpleNamespace(platform="gpu")])
    assert attention.applies(half, gpu) and not attention.applies(TINY, gpu)


@pytest.mark.parametrize(("error", "chosen"), [(0.0, "cudnn"), (0.1, "auto")])
def test_the_faster_attention_is_chosen_if_it_agrees(monkeypatch, error, chosen):
    attend = fused.attend

    def fake(*arrays, cudnn, **options):
        return attend(*arrays, **options) * (1.0 + error * cudnn)

    monkeypatch.setattr(fused, "attend", fake)
    times = {"xla": [2.0, 2.0], "cudnn": [1.0, 1.0]}
    monkeypatch.setattr(measure, "alternate", lambda *_: times)
    found = attention.race(TINY, 2)
    assert found["chosen"] == chosen
    assert (found["difference"] == 0.0) == (error == 0.0)


# Many runs in one program


SHALLOW = dataclasses.replace(TINY, decoder=dataclasses.replace(TINY.decoder, layers=1))


@pytest.fixture(scope="module")
def runs():
    made = population.Runs(SHALLOW, "rloo", 3)
    made.compile()
    return made


def test_members_of_one_program_learn_what_they_learn_alone(runs):
    start = [x.learner.params for x in jax.device_get(runs.states)]
    runs.together()
    runs.apart()
    alone = jax.device_get([state.learner.params for state in runs.states])
    every = jax.device_get(runs.all_states.learner.params)
    for number, params in enumerate(alone):
        one = jax.tree.map(lambda x, i=number: x[i], every)
        chex.assert_trees_all_close(one, params, rtol=1e-4, atol=1e-7)
        moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), params, start[number])
        assert max(jax.tree.leaves(moved)) > 1e-6
    first, *others = (jax.tree.leaves(params)[0] for params in alone)
    assert all(np.abs(first - other).max() > 1e-7 for other in others)


def test_an_iteration_for_cuda_never_waits_for_the_host():
    """Lowered for a GPU that is not here, where a Python callback cannot even be."""
    runs = population.Runs(SHALLOW, "rloo", 2, vmapped=True)
    step = runs._every.iteration.__wrapped__
    given = runs._base, runs.all_states, runs._frozen, runs._batch, runs._hyper
    with sharding.tracing_for("gpu"):
        traced = jax.jit(lambda *args: step(*args)).trace(*given)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert not re.findall(r"stablehlo\.(infeed|outfeed|send|recv)\b", text)
    assert "stablehlo.while" in text


def test_a_race_of_members_counts_their_tokens(runs, monkeypatch):
    monkeypatch.setattr(population, "Runs", lambda *_: runs)
    found = population.race(SHALLOW, "rloo", members=3, rounds=2)
    tokens = 3 * TINY.rows * TINY.new_tokens
    assert found["tokens_per_second"] == tokens / found["together_seconds"]
    assert found["times_as_fast"]["low"] <= found["times_as_fast"]["median"]
    assert found["members"] == 3 and found["apart_seconds"] > 0


# The command


@pytest.fixture
def quick(monkeypatch):
    """Small peaks, and no population, which has its own tests."""
    monkeypatch.setitem(measure._SIDE, "cpu", 32)
    monkeypatch.setitem(measure._STREAM, "cpu", 1024)
    monkeypatch.setattr(throughput, "prepare", lambda *_: None)
    facts = {
        "members": 3, "together_seconds": 1.0, "apart_seconds": 2.0,
        "times_as_fast": {"median": 2.0, "low": 1.0, "high": 3.0},
        "tokens_per_second": 5.0,
    }  # fmt: skip
    monkeypatch.setattr(population, "race", lambda *_, **given: facts)


def test_a_slot_that_is_cut_goes_on_where_it_stopped(
    quick, tmp_path, capsys, monkeypatch
):
    """Cut in the middle of the updates, then resumed to the end, then done."""
    parts = ("prefill", "generate", "train", "bookkeeping")  # iterations run above
    monkeypatch.setattr(accelerator, "PARTS", parts)
    config = throughput.Config(
        accelerator=True, workloads=("tiny",), rounds=1, devices=1,
        output=str(tmp_path / "out"),
    )  # fmt: skip
    file = tmp_path / "out" / "results.json"

    def cut(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as cutting:
        cutting.setattr(ours.Ours, "train", cut)
        with pytest.raises(KeyboardInterrupt):
            throughput.run(config)
    before = json.loads(file.read_text())
    assert set(before["workloads"]["tiny"]["ours"]["times"]) == {"prefill", "generate"}
    with monkeypatch.context() as resumed:
        for part in ("prefill", "generate"):
            resumed.setattr(ours.Ours, part, cut)  # is not measured again
        resumed.setattr(measure, "bandwidth", cut)
        throughput.run(config)
    after = json.loads(file.read_text())
    mine = after["workloads"]["tiny"]["ours"]
    assert mine["times"] | before["workloads"]["tiny"]["ours"]["times"] == mine["times"]
    assert set(mine["times"]) == set(parts)
    assert mine["train_utilisation"] > 0 and mine["decode_bandwidth_share"] > 0
    assert not after["failed"] and not after["skipped"]
    said = capsys.readouterr().out
    assert said.count("| tiny | ") == 5 and "3 runs of tiny" in said
    monkeypatch.setattr(ours, "Ours", cut)  # nothing is made when all is done
    throughput.run(config)
    assert json.loads(file.read_text())["parts"] == after["parts"]


def test_a_slot_in_which_parts_failed_ends_with_their_names(
    quick, tmp_path, monkeypatch, capsys
):
    def fail(*_):
        raise RuntimeError("INTERNAL: a kernel is missing")

    monkeypatch.setattr(ours, "Ours", fail)
    monkeypatch.setattr(measure, "matmul_flops", lambda *_, **given: 1e9)
    monkeypatch.setattr(measure, "bandwidth", lambda *_: 1e9)
    config = throughput.Config(
        accelerator=True, workloads=("tiny",), rounds=1, devices=1,
        output=str(tmp_path / "out"),
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"5 parts failed \(tiny/prefill, "):
        throughput.run(config)
    said = capsys.readouterr().out
    assert "- tiny/train: RuntimeError: INTERNAL" in said
    assert "Matmul peak" in said and "3 runs of tiny" in said


def test_what_a_slot_does_not_measure_is_refused_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for flags in ({"averages": 1.0}, {"label": "m"}, {"against": ("trl",)}):
        config = throughput.Config(accelerator=True, **flags)
        with pytest.raises(ValueError, match=f"--{next(iter(flags))} is measured with"):
            throughput.run(config)
    with pytest.raises(ValueError, match="--algorithms: name at least one"):
        throughput.run(throughput.Config(accelerator=True, algorithms=()))
    assert not list(tmp_path.iterdir())


def test_a_table_has_a_row_for_every_part_and_one_for_decoding(opened):
    results = opened().results
    facts = ours.describe(
        TINY, "rloo", {"prefill": [1.0], "generate": [3.0]}, matmul=1e9, bandwidth=1e9
    )
    facts |= {"compile_seconds": {"prefill": 7.0, "generate": 8.0}}
    results["workloads"] = {"tiny": {"ours": facts}}
    results["peaks"] = {"bfloat16": 2e12, "bandwidth": 3e9}
    results["attention"] = {
        "tiny": {"xla_seconds": 1e-3, "refused": "too old", "chosen": "auto"}
    }
    lines = slot_table.markdown_of(results).splitlines()
    assert "Matmul peak, Tflop/s: bfloat16 2." in lines
    assert "Memory bandwidth, GB/s: 3." in lines
    rows = [line.split(" | ") for line in lines if line.startswith("| tiny")]
    assert [row[1:3] for row in rows] == [
        ["prefill", "1"], ["rollout", "3"], ["decode", "2"],
    ]  # fmt: skip
    assert rows[2][3] == f"{8 * 7 / 2:g}" and rows[0][-1].startswith("7")
    assert any("XLA 1 ms; cuDNN: too old." in line for line in lines)


def test_a_bfloat16_product_is_as_many_operations_as_a_float32_one(monkeypatch):
    monkeypatch.setitem(measure._SIDE, "cpu", 16)
    monkeypatch.setitem(measure._CALLS, "cpu", 3)
    monkeypatch.setattr(measure, "seconds", lambda call: (call(), 0.5)[1])
    for dtype in ("float32", jnp.bfloat16):
        found = measure.matmul_flops(parallel.data(1), dtype, precision="highest")
        assert found == 3 * 2 * 16**3 / 0.5


@pytest.mark.slow
def test_a_killed_slot_is_finished_by_the_same_command(tmp_path):
    """The whole rehearsal as a user types it, killed in the middle without warning."""
    words = "-m experiments.throughput --accelerator --rounds 2 --minutes 30 --output"
    command = [sys.executable, *words.split(), str(tmp_path)]
    options = {"cwd": pathlib.Path(__file__).resolve().parents[2], "text": True}
    file = tmp_path / "results.json"
    with subprocess.Popen(command, stdout=subprocess.PIPE, **options) as process:
        for line in process.stdout:
            if line.startswith("tiny/train"):
                process.kill()
    assert process.returncode == -signal.SIGKILL
    before = json.loads(file.read_text())["workloads"]["tiny"]["ours"]["times"]
    done = subprocess.run(command, capture_output=True, **options)
    assert done.returncode == 0, done.stderr
    after = json.loads(file.read_text())
    assert after["skipped"] == after["failed"] == {}
    assert set(before) == {"prefill", "generate"}
    assert (
        after["workloads"]["tiny"]["ours"]["times"] | before
        == (after["workloads"]["tiny"]["ours"]["times"])
    )
    assert set(after["workloads"]) == {"tiny", "tiny-lora"}
    assert after["population"]["members"] == 3
    assert (tmp_path / "table.md").read_text() in done.stdout
    assert "tiny/prefill ..." not in done.stdout
