"""Two processes of two devices each, joined over loopback, against one process."""

import dataclasses
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import checks
import distributed_worker as worker
import jax
import numpy as np
import pytest

from experiments import sentiment
from rlhf_jax import sampling
from rlhf_jax.cli import options
from rlhf_jax.runtime import metrics_log, parallel, processes, provenance

HERE = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HERE / "studies"))

import test_side_by_side  # noqa: E402

PATIENCE = 600  # seconds on a busy machine


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def together(job, folder):
    """What each process found out about a job."""
    command = [sys.executable, str(HERE / "distributed_worker.py"), job]
    port = str(free_port())
    started = [
        subprocess.Popen(
            [*command, port, str(me), str(folder)],
            cwd=HERE.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for me in range(worker.PROCESSES)
    ]
    try:
        said = [process.communicate(timeout=PATIENCE)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    assert [p.returncode for p in started] == [0, 0], "\n".join(said)
    return [
        json.loads((folder / f"{me}.json").read_text())
        for me in range(worker.PROCESSES)
    ]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """The folder of the job; "one" in it was saved by one process, by `pmap`."""
    folder = tmp_path_factory.mktemp("hosts")
    layout = parallel.data(1)
    state, said = layout.put(worker.start()), []
    program = layout.compile(worker.step, rows_in=(1,))
    states = []
    for number in range(5):
        state, total = program(state, layout.shard_rows(worker.rows(number)))
        states.append(state)
        said.append(float(total))
    patch = pytest.MonkeyPatch()
    patch.setattr(worker.packing, "SEPARATE", 64)
    worker.saver(folder / "one").save(3, states[2], {"layout": "one"})
    patch.undo()
    return folder, said, states[2]


@pytest.fixture(scope="module")
def found(one):
    return together("quick", one[0])


# Agreeing


def test_hosts_are_told_what_the_first_one_says(found):
    assert [each["hosts"] for each in found] == [2, 2]
    assert [each["first"] for each in found] == [True, False]
    assert [each["told"] for each in found] == [{"by": 0, "text": "é" * 70}] * 2
    for each in found:
        assert "no number of 0" in each["error"]


def test_hosts_agree_on_flags_and_failures(found):
    for each in found:
        assert each["any"] == [True, True, False]
        assert each["ballot"] == [False, False, True, False]
    assert [each["all or none"] for each in found] == [5, 28]


def test_the_first_host_alone_writes_lines(found, one):
    assert (one[0] / "lines.jsonl").read_text() == '{"by": 0}\n'
    assert [each["offset"] for each in found] == [10, 0]


def test_all_hosts_stop_at_the_same_step(found):
    assert found[0]["stop"][1] == found[1]["stop"][1] == [[4, 4]]
    assert found[0]["stop"][0] == "a signal to another host after step 4"
    assert found[1]["stop"][0] == "SIGTERM after step 4"
    assert found[0]["stop"][2] and found[1]["stop"][2] == "SIGTERM"


def test_a_disk_that_hosts_do_not_share_is_named(found):
    said = "is not the same folder on all 2 hosts: choose an --output"
    for each in found:
        assert said in each["own disk"][0]
    assert found[0]["own disk"][1] == []  # nothing half-written remains


def test_tensor_parts_stay_on_one_host(found):
    for each in found:
        assert "--layout tensor:4: tensor:4 would join devices" in each["tensor"]


# Computing


@pytest.mark.parametrize("name", worker.LAYOUTS)
def test_two_hosts_compute_what_one_does(found, one, name):
    assert found[0]["computed"][name]["said"] == found[1]["computed"][name]["said"]
    checks.close(found[0]["computed"][name]["said"], one[1][:3], rtol=1e-5, atol=1e-5)
    cut = {"data": [64, 64], "fsdp": [16, 16], "fsdp,tensor": [16, 16]}[name]
    assert found[0]["computed"][name]["own"] == cut
    full = {"data": "data:4", "fsdp": "fsdp:4", "fsdp,tensor": "fsdp:2,tensor:2"}[name]
    assert found[0]["computed"][name]["name"] == full
    assert f"{full} on 2 hosts" in found[1]["computed"][name]["describe"]


def test_hosts_share_the_runs_of_a_population(found, tmp_path):
    """Stopped on the way, and resumed."""
    alone = test_side_by_side.trained(test_side_by_side.STUDY, tmp_path)
    for records in (each["population"] for each in found):
        test_side_by_side.same(alone, records, rtol=1e-5, atol=1e-6)


def test_each_host_may_give_its_own_rows(found):
    for each in found:
        np.testing.assert_array_equal(np.float32(each["rows"]), worker.rows(0))
        assert each["over rows"] == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0]


def test_row_keys_do_not_know_their_host(found):
    keys = sampling.row_keys(jax.random.key(5), np.arange(8))
    for each in found:
        np.testing.assert_array_equal(each["keys"], jax.random.key_data(keys))


# Checkpoints


@pytest.mark.parametrize("name", worker.LAYOUTS)
def test_two_hosts_go_on_from_what_one_saved(found, one, name):
    for each in found:
        assert each["computed"][name]["extra"] == {"layout": "one"}
        assert each["computed"][name]["weak"]
        checks.close(each["computed"][name]["went on"], one[1][3:], 1e-5, 1e-5)


@pytest.mark.parametrize("into", ["data", *worker.LAYOUTS[1:]])
@pytest.mark.parametrize("origin", worker.LAYOUTS)
def test_one_host_goes_on_from_what_two_saved(found, one, origin, into):
    layout = parallel.layout(into)
    run = worker.saver(one[0] / f"two-{origin}")
    step, state, extra = run.restore(layout.like(worker.start()))
    assert (step, extra) == (3, {"layout": origin})
    expected = one[2]["embedding"]["token"]
    checks.close(processes.to_numpy(state["embedding"]["token"]), expected, 1e-5, 1e-5)
    assert jax.random.key_data(state["key"]).tolist() == [0, 3]
    assert not list((one[0] / f"two-{origin}").glob(".unfinished-*"))


# Learning


@pytest.mark.slow
def test_two_hosts_learn_what_one_does(tmp_path):
    import mesh_runs

    found = together("learn", tmp_path)
    expected, _ = mesh_runs.learn(parallel.data(1))
    leaves = jax.tree.leaves(expected.learner.params)
    for name in ("data", "fsdp,tensor"):
        assert found[0][name] == found[1][name]
        for x, y in zip(found[0][name], leaves, strict=True):
            checks.close(np.float32(x), y, rtol=1e-5, atol=1e-5)
        layout = parallel.layout("fsdp")
        run = worker.saver(tmp_path / f"learned-{name}")
        state = run.restore(layout.like(jax.eval_shape(mesh_runs.start)))[1]
        restored = jax.tree.leaves(processes.to_numpy(state.learner.params))
        for x, y in zip(restored, leaves, strict=True):
            checks.close(x, y, rtol=1e-5, atol=1e-5)


# A study


def study(home, devices, *more):
    """A process at work on the smallest study, in the run folder of `home`."""
    import small_study

    words = small_study.flags(
        methods=("ppo",),
        steps=12,
        save_every=1,
        eval_every=12,
        rl__reset_every=12,
        devices=None,
        output=home / "run",
        cache=home / "cache",
    )
    flags = f"{worker.FLAGS} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "experiments.sentiment", *words, *more],
        cwd=HERE.parent,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_a_study_of_two_hosts_stops_as_one_and_goes_on_elsewhere(tmp_path):
    """SIGTERM to the second host once there is a checkpoint; then one host, FSDP."""
    where = ("--distributed.coordinator", f"127.0.0.1:{free_port()}")
    where += ("--distributed.processes", "2", "--layout", "data")
    both = [
        study(tmp_path, 2, *where, "--distributed.process-id", str(me)) for me in (0, 1)
    ]
    until = time.monotonic() + 3 * PATIENCE
    saved = tmp_path / "run" / "checkpoints" / "ppo-0-0"
    while time.monotonic() < until and not list(saved.glob("step_*")):
        assert [process.poll() for process in both] == [None, None]
        time.sleep(0.1)
    both[1].terminate()
    said = [process.communicate(timeout=PATIENCE)[0] for process in both]
    assert [process.returncode for process in both] == [143, 143], "\n".join(said)
    assert "stopped by a signal to another host after step" in said[0]
    assert "PPO" not in said[1] and "stopped" not in said[1]
    before = metrics_log.read(tmp_path / "run" / "metrics.jsonl")
    assert 0 < before[-1]["step"] < 12
    alone = study(tmp_path, 4, "--layout", "fsdp,tensor", "--resume")
    said = alone.communicate(timeout=3 * PATIENCE)[0]
    assert alone.returncode == 0, said
    assert "fsdp:2,tensor:2 on one host" in said
    after = metrics_log.read(tmp_path / "run" / "metrics.jsonl")
    assert after[: len(before)] == before
    steps = [row["step"] for row in after if "loss/policy_avg" in row]
    assert steps == list(range(1, 13))
    assert (tmp_path / "run" / "report.md").exists()


# Finding each other


def test_where_a_run_lies_is_no_part_of_its_configuration():
    told = options.Distributed("10.0.0.1:8476", 1, 2)
    here = sentiment.CONFIG
    there = dataclasses.replace(here, layout="fsdp", distributed=told)
    assert provenance.digest(there) == provenance.digest(here)


def test_one_process_joins_nobody():
    assert processes.join() == 1
    assert processes.join(processes=1) == 1
    assert processes.count() == 1 and processes.first()


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"processes": 2}, "--distributed.coordinator is missing"),
        ({"coordinator": "a:1", "processes": 2}, "--distributed.process-id is missing"),
        (
            {"coordinator": "a", "process_id": 0, "processes": 2},
            "--distributed.coordinator a: write it as host:port",
        ),
        (
            {"coordinator": "a:1", "process_id": 2, "processes": 2},
            "--distributed.process-id 2 is not one of 2 processes",
        ),
    ],
)
def test_what_is_told_of_other_hosts_must_be_whole(given, complaint):
    with pytest.raises(ValueError, match=complaint):
        processes.join(**given)


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({"JAX_PLATFORMS": "cpu"}, False),
        ({"JAX_PLATFORMS": "cpu", "SLURM_STEP_NUM_TASKS": "4"}, True),
        ({"JAX_PLATFORMS": "cpu", "SLURM_STEP_NUM_TASKS": "1"}, False),
        ({"JAX_PLATFORMS": "cuda", "OMPI_COMM_WORLD_SIZE": "2"}, True),
    ],
)
def test_a_cluster_is_known_by_what_started_the_process(environment, several):
    assert processes._in_a_cluster(environment) == several
