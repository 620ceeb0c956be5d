"""--plan --table: named workloads compiled for slices of TPUs that are not here.

A row a program and slice: bytes on a device, collectives, the least time. Rows are
written as they are made, and --resume makes those that are missing.
"""

import dataclasses
import json
import time
from typing import NamedTuple

import rich.table

from experiments.throughput import compiled, memory, roofline, workloads
from rlhf_jax.algorithms.policy_gradient import GROUPED
from rlhf_jax.cli import command
from rlhf_jax.reporting import markdown
from rlhf_jax.runtime import files, parallel, topologies

_V5E = ("tpu:v5e:2x4",)
_OTHERS = ("tpu:v6e:2x4", "tpu:v5p:2x2x1", "tpu:v4:2x2x1")


class Program(NamedTuple):
    """An iteration of a workload, and what it is compiled for."""

    workload: str
    algorithm: str
    layout: str
    targets: tuple[str, ...] = _V5E
    times: int = 1  # the rows of the workload, for more devices


PROGRAMS = (
    Program("microworld", "ppo", "data"),
    Program("microworld", "ppo", "fsdp"),
    Program("gpt2-124m", "ppo", "data"),
    Program("gpt2-124m", "ppo", "fsdp"),
    Program("llama-1b", "rloo", "fsdp"),
    Program("llama-7b-lora", "rloo", "fsdp"),
    Program("microworld", "ppo", "data", _OTHERS),
    Program("gpt2-124m", "ppo", "data", _OTHERS),
    Program("smollm2", "grpo", "data", times=8),
    Program("smollm2", "grpo", "fsdp", times=8),
    Program("llama-1b", "rloo", "data"),
    Program("llama-7b-lora", "rloo", "fsdp:2,tensor:4"),
)
RESULTS = "results.json"


def run(config, console):
    """Compiles what the run folder lacks, or with --target all programs for that one
    slice. Returns the folder."""
    cases = _cases(config.target)
    run_dir = command.run_dir(config, "throughput")
    devices = _described(cases[0][1])  # raises before anything is written
    command.write_config(run_dir, config, parallel.layout(among=devices))
    console.print(f"folder    {run_dir}", highlight=False, soft_wrap=True)
    file, rows = run_dir / RESULTS, []
    if config.resume and file.exists():
        rows = json.loads(file.read_text())["programs"]
    made = {_key(row) for row in rows}
    for program, target in cases:
        if (*program[:3], target) in made:
            continue
        console.print(f"{' '.join(program[:3])} for {target} ...", highlight=False)
        rows.append(row(program, target))
        kept = {"libtpu": topologies.version(), "programs": rows}
        files.write_json(file, kept)
    console.print(_shown(rows))
    console.print(str(file), highlight=False, soft_wrap=True)
    return run_dir


def _cases(target):
    """[(`Program`, target)]; target: of --target, or None."""
    if target is not None:
        topologies.parse(target)
        named = dict.fromkeys(program._replace(targets=()) for program in PROGRAMS)
        return [(program, target) for program in named]
    return [(program, target) for program in PROGRAMS for target in program.targets]


def _described(target):
    return topologies.devices(topologies.parse(target))


def _key(row):
    return row["workload"], row["algorithm"], row["layout"], row["target"]


def row(program, target):
    """What the compiler makes of a `Program` on a slice, as JSON holds it.

    Where the program does not fit, "refused" says what it needs, in place of bytes and
    collectives.
    """
    work = workload(program)
    layout = parallel.layout(program.layout, among=_described(target))
    started, busy = time.monotonic(), time.process_time()
    found = {
        **{"workload": program.workload, "algorithm": program.algorithm},
        **{"layout": program.layout, "target": target},
        **{"devices": len(layout.devices), "shards": roofline.shards(layout)},
        "rows": work.rows,
    }
    try:
        facts = compiled.compile_for(lower(work, program.algorithm, layout), started)
    except compiled.DoesNotFit as problem:
        found["refused"] = str(problem)
    else:
        found |= {**facts.sizes, "collectives": facts.collectives}
    found["compile_seconds"] = time.monotonic() - started
    found["processor_seconds"] = time.process_time() - busy
    bound = least(program, target, found["devices"], found["shards"])
    return {**found, **bound._asdict(), "seconds": bound.seconds}


def least(program, target, devices, shards):
    """The `roofline.Bound` of a program on so many devices of a slice, of which
    `shards` hold one copy of the weights together."""
    work, critic = workload(program), program.algorithm == "ppo"
    copies = work.candidates if program.algorithm in GROUPED else 1
    done = roofline.Work(work, critic=critic, copies=copies)
    chip = topologies.parse(target).chip
    return roofline.bound(done, chip, devices=devices, shards=shards)


def workload(program):
    """The `workloads.Workload` of a program; a reward model of the policy's size judges
    in all of them."""
    work = workloads.WORKLOADS[program.workload]
    return dataclasses.replace(work, rows=work.rows * program.times, judged=True)


def lower(work, algorithm, layout):
    """A workload's iteration, traced for the devices of a layout."""
    return memory.lower(*memory.of_workload(work, algorithm, layout))


HEADER = (
    "program", "layout", "slice", "arguments GiB", "temporaries GiB", "total GiB",
    "collectives (MiB)", "at the least s", "compiled in s (processor)",
)  # fmt: skip


def cells(row):
    """A row as a table has it, in the columns of HEADER."""
    name = f"{row['workload']}, {row['rows']} rows, {row['algorithm']}"
    sizes = [row.get(key) for key in ("arguments", "temporaries", "total")]
    numbers = [markdown.number(size, 1 / memory.GIB) for size in sizes]
    exchanged = ", ".join(
        f"{count} {kind} ({markdown.number(size)})"
        for kind, (count, size) in row.get("collectives", {}).items()
    )
    said = f"refused: {row['refused']}" if "refused" in row else exchanged
    took = f"{row['compile_seconds']:.0f} ({row['processor_seconds']:.0f})"
    times = markdown.number(row["seconds"]), took
    slice_ = row["target"].removeprefix("tpu:")
    return [name, row["layout"], slice_, *numbers, said, *times]


def _shown(rows):
    table = rich.table.Table(*HEADER)
    for row in rows:
        table.add_row(*cells(row))
    return table
