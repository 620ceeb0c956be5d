"""One of several processes of a test: python distributed_worker.py JOB PORT ID FOLDER.

Two devices each, joined over loopback; what it found out is written to FOLDER/ID.json.
"""

import contextlib
import json
import os
import pathlib
import sys
from unittest import mock

FLAGS = (  # little optimisation; patience where few cores have much to do
    "--xla_backend_optimization_level=0 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600 "
    "--xla_cpu_collective_timeout_seconds=600"
)
if __name__ == "__main__":  # before jax starts
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"{FLAGS} --xla_force_host_platform_device_count=2"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from rlhf_jax import sampling  # noqa: E402
from rlhf_jax.runtime import (  # noqa: E402
    checkpoint,
    files,
    loop,
    metrics_log,
    packing,
    parallel,
    processes,
)

PROCESSES, STEPS = 2, 6
LAYOUTS = ("data", "fsdp", "fsdp,tensor")


def start():
    """A state of one matrix to cut, one vector to leave whole, a key and a count."""
    values = np.arange(64, dtype=np.float32).reshape(8, 8)
    return {
        "embedding": {"token": jnp.asarray(values)},
        "scale": jnp.ones(8),
        "key": jax.random.key(3),
        "weak": jnp.asarray(0.5),
        "step": jnp.int32(0),
    }


def step(state, rows, *, axis_name):
    """Something with a product, a sum over rows and random numbers in it."""
    del axis_name
    token = state["embedding"]["token"]
    noise = jax.random.normal(jax.random.fold_in(state["key"], state["step"]), (8,))
    total = (rows @ token / 64.0).sum(0) + noise
    state = {
        **state,
        "embedding": {"token": 0.5 * token + jnp.outer(total, state["scale"])},
        "step": state["step"] + 1,
    }
    return state, total.sum()


def rows(number):
    """The rows of a step, the same for whoever asks."""
    return np.random.default_rng(number).normal(size=(8, 8)).astype(np.float32)


def run(layout, state, first=0, last=3):
    """(state, what each step returned)."""
    program, said = layout.compile(step, rows_in=(1,), donate=(0,)), []
    state = layout.put(state)
    for number in range(first, last):
        state, total = program(state, layout.shard_rows(rows(number)))
        said.append(float(total))
    return state, said


def saver(folder):
    """The checkpoints of a folder, with leaves of 64 bytes saved by themselves."""
    packing.SEPARATE = 64
    return checkpoint.Checkpointer(folder, config_digest="hosts", report=print)


# What hosts agree on


def agreement(me, folder):
    """What is asked of all and answered alike."""
    found = {"hosts": processes.count(), "first": processes.first()}
    found["told"] = processes.broadcast_from_first(lambda: {"by": me, "text": "é" * 70})
    try:
        processes.broadcast_from_first(lambda: int(f"no number of {me}"))
    except ValueError as error:
        found["error"] = str(error)
    found["any"] = [processes.any_of(me == n) for n in (0, 1, 2)]
    ballot = processes.Ballot()
    found["ballot"] = [ballot.cast(n == 1 and me == 1) for n in range(4)]
    try:
        with processes.all_or_none():
            if me == 1:
                raise OSError(28, "disk full at 1")
    except OSError as error:
        found["all or none"] = error.errno
    with metrics_log.Lines(folder / "lines.jsonl") as lines:
        lines.append({"by": me})
        found["offset"] = lines.offset()
    return found


def own_disk(me, folder):
    """What is said where the second host does not see the disk of the first."""
    files._PATIENCE = 0.2
    blind = mock.patch.object(pathlib.Path, "is_dir", lambda path: False)
    with blind if me == 1 else contextlib.nullcontext():
        try:
            saver(folder / "unseen").save(1, {"x": np.ones(3)})
        except ValueError as error:
            return [str(error), sorted(p.name for p in folder.glob("unseen/*"))]


def stopping(me):
    """Where this host stops, and with what saved, when another host is told to."""
    signals, saved = loop.Signals(), []

    def advance(state, iteration):
        if me == 1 and iteration == 2:
            signals.received = "SIGTERM"
        return state + 1, {"x": jnp.float32(iteration)}, None

    hooks = loop.Hooks(
        advance=advance,
        log=lambda *_: None,
        save=lambda state, at, final: saved.append((at, state)),
    )
    try:
        loop.run(0, start=0, plan=loop.Plan(steps=9), hooks=hooks, signals=signals)
    except loop.Interrupted as stop:
        return [str(stop), saved, loop.stopped(signals)]


# What they compute and save


def computing(folder):
    """Every layout over two hosts: results, rows, checkpoints there and back."""
    found = {}
    for name in LAYOUTS:
        layout = parallel.layout(name)
        state, said = run(layout, start())
        saver(folder / f"two-{name}").save(3, state, {"layout": name})
        token = state["embedding"]["token"]
        _, before, extra = saver(folder / "one").restore(layout.like(start()))
        _, after = run(layout, before, first=3, last=5)
        found[name] = {
            "name": layout.name,
            "said": said,
            "own": [shard.data.size for shard in token.addressable_shards],
            "weak": bool(state["weak"].weak_type and before["weak"].weak_type),
            "extra": extra,
            "went on": after,
            "describe": layout.describe(state)[0],
        }
    return found


def sharing(me):
    """Rows of which each host gives its own, and their keys."""
    layout = parallel.layout("data")
    given = layout.shard_rows(rows(0))

    def draw(key, ids, *, axis_name):
        return jax.random.key_data(sampling.row_keys(key, ids))

    program = layout.compile(draw, rows_in=(1,), rows_out=(0,), outputs=1)
    keys = layout.gather(program(jax.random.key(5), layout.shard_rows(np.arange(8))))
    double = layout.over_rows(lambda a, x: a * x, replicated=1)
    seven = np.arange(7.0, dtype=np.float32)
    return {
        "rows": layout.gather(given).tolist(),
        "keys": keys.tolist(),
        "over rows": double(jnp.float32(2.0), seven).tolist(),
    }


def side_by_side(folder):
    """A study whose runs are a population over the devices of both hosts, stopped and
    resumed: what is in its metrics.jsonl."""
    sys.path.insert(0, str(pathlib.Path(__file__).parent / "studies"))
    import test_side_by_side as told

    layout = parallel.layout("data")
    told.stopped(told.STUDY, folder / "population", 5, layout=layout, size=4)
    return told.trained(told.STUDY, folder / "population", layout, size=4)


def quick(me, folder):
    """All that is quick."""
    found = agreement(me, folder)
    found |= {"own disk": own_disk(me, folder), "stop": stopping(me)}
    found |= {"computed": computing(folder), **sharing(me)}
    found["population"] = side_by_side(folder)
    try:
        parallel.layout("tensor:4")
    except ValueError as error:
        found["tensor"] = str(error)
    return found


def learn(me, folder):
    """Five iterations of learning on two layouts."""
    import mesh_runs

    found = {}
    for name in ("data", "fsdp,tensor"):
        state, _ = mesh_runs.learn(parallel.layout(name))
        saver(folder / f"learned-{name}").save(5, state)
        params = jax.tree.leaves(processes.to_numpy(state.learner.params))
        found[name] = [x.tolist() for x in params]
    return found


def main():
    job, port, me, folder = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    jax.config.update("jax_numpy_rank_promotion", "raise")
    processes.join(f"127.0.0.1:{port}", me, PROCESSES)
    found = {"quick": quick, "learn": learn}[job](me, pathlib.Path(folder))
    (pathlib.Path(folder) / f"{me}.json").write_text(json.dumps(found))
    processes.leave()


if __name__ == "__main__":
    main()
