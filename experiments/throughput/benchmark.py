"""How fast is an RL iteration, where does its time go, and does a model fit?

Times prefill, decoding, updates, the whole iteration, EMA and resets, and a checkpoint
on named workloads, warm, with compilation reported separately. Achieved operations and
bytes per second are shown next to the peaks measured in the same process. A peer's
rounds alternate with ours, on the same shapes and numbers of updates and tokens.

    python -m experiments.throughput
    python -m experiments.throughput --workloads reference --against trl \\
        --peer-python path/to/python
    python -m experiments.throughput --averages 4
    python -m experiments.throughput --label path/to/model --rows 32 --prompt-length 200
    python -m experiments.throughput --plan --policy path/to/model --memory 80 \\
        --devices 8 --layout fsdp
    python -m experiments.throughput --plan --policy path/to/model \\
        --target tpu:v5e:2x4 --layout fsdp
    python -m experiments.throughput --plan --table

Expected on two CPU cores: about three times as fast as TRL on the reference workload;
EMA and resets under 1% of an iteration.
"""

import dataclasses
import os
from typing import Literal

import jax
import rich.table

from experiments.throughput import (
    labelling,
    peers,
    planning,
    race,
    table,
    weights,
    workloads,
)
from rlhf_jax import ranges
from rlhf_jax.cli import command, options
from rlhf_jax.reporting import markdown
from rlhf_jax.runtime import files, parallel, provenance, terminal


@dataclasses.dataclass(frozen=True)
class Config:
    """What to measure and against which peers or, with --plan, what to plan."""

    workloads: tuple[ranges.Text, ...] = workloads.DEFAULT
    """Names; gpt2-124m, llama-1b and llama-7b-lora need an accelerator."""
    algorithms: tuple[ranges.Text, ...] = ("rloo", "ppo")
    """The first is timed in all parts, the others in iterations and updates only."""
    against: tuple[ranges.Text, ...] = ()
    """trl, tunix or both."""
    peer_python: ranges.Text | None = None
    """The Python interpreter that has the peer; by default this one."""
    rounds: ranges.Count = 5
    """Measurements of each, of which the median is shown."""
    output: ranges.Text | None = None
    """The run folder; by default a new one under runs/throughput."""
    devices: ranges.Count | None = None
    """Devices that share the rows; by default all of them, or a CPU's cores."""
    averages: ranges.Positive | None = None
    """Measure only how fast two float32 models of so many GiB each are averaged."""
    label: ranges.Text | None = None
    """Measure only how fast this model labels --rows prompts of up to --prompt-length
    words, against a plain prefill."""
    plan: bool = False
    """Measure nothing; estimate the memory that --policy needs from its config.json."""
    policy: ranges.Text = "gpt2-base"
    """A preset, model directory or hub name; from here on, flags are for --plan."""
    vocabulary: ranges.Count = 50257
    """Vocabulary size of a preset."""
    algorithm: Literal["ppo", "reinforce", "rloo", "grpo"] = "ppo"
    """ppo, reinforce, rloo or grpo."""
    candidates: ranges.Count = 4
    """Samples per prompt, for rloo and grpo."""
    layout: ranges.Text = "data"
    """data, fsdp, or fsdp,tensor."""
    lora: options.Lora = dataclasses.field(default_factory=options.Lora)
    rows: ranges.Count = 64
    """Samples per iteration."""
    prompt_length: ranges.Count = 64
    """Tokens of a prompt."""
    new_tokens: ranges.Count = 64
    """Tokens of a response."""
    minibatches: ranges.Count = 1
    """Updates a pass."""
    micro_batches: ranges.Count = 1
    """Parts over which a minibatch is accumulated."""
    value: Literal["separate", "shared"] = "separate"
    """A separate value network, or a head on the shared trunk."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Compute type; trained weights and their moments are float32."""
    remat: Literal["none", "full", "dots"] = "none"
    """What a backward pass recomputes: none, full or dots."""
    memory: ranges.Positive | None = None
    """GiB per device."""
    target: ranges.Text | None = None
    """Compile for TPUs that are not here: tpu:KIND:GRID, as in tpu:v5e:2x4; KIND is
    v4, v5e, v5p or v6e. Needs the extra [plan]."""
    table: bool = False
    """With --plan: named workloads, by data and fsdp, for slices of every kind of TPU
    or, with --target, for one slice; its own sizes, not those of the flags above."""
    resume: bool = False
    """Make the rows that a --table in --output, by default the newest, lacks."""

    @property
    def cache(self):
        """No compiled program is kept, because compilation is measured too."""
        return None


CONFIG = Config()
COLUMNS = {  # of the table: (key of an entry, scale, heading)
    "iteration_seconds": (1, "iteration s"),
    "generate_tokens_per_second": (1, "generate tok/s"),
    "train_tokens_per_second": (1, "train tok/s"),
    "iteration_utilisation": (100, "of peak %"),
    "decode_bandwidth_share": (100, "decode of bandwidth %"),
    "bookkeeping_share": (100, "EMA + reset %"),
    "peak_gib": (1, "peak GiB"),
}


def main():
    config = command.parse(CONFIG, description=__doc__)
    command.main(lambda: run(config))


def run(config):
    """Measures or plans; returns the run folder, or the plan."""
    ranges.check(config, flags=True)
    console = terminal.console()
    if config.resume and not (config.plan and config.table):
        raise ValueError("--resume is for --plan --table: a measurement starts anew")
    if config.plan:
        return (table if config.table else planning).run(config, console)
    other = config.averages or config.label
    chosen = {} if other else workloads.choose(config.workloads)
    check(config, chosen)
    run_dir = command.run_dir(config, "throughput")
    prepare(config, [work.rows for work in chosen.values()] or [1])
    layout = parallel.data(config.devices)
    command.write_config(run_dir, config, layout)
    console.print(f"folder    {run_dir}", highlight=False, soft_wrap=True)
    results = {"workloads": {}, "rounds": config.rounds, **machine(layout)}
    for name, work in chosen.items():
        console.print(f"{name}: {work.summary}", highlight=False)
        measured = race.alone(
            work,
            layout_for(work, layout),
            algorithms=config.algorithms,
            rounds=config.rounds,
        )
        results["workloads"].setdefault(name, {}).update(measured)
        for peer in config.against:
            against(peer, name, config, layout, results["workloads"], console)
        files.write_json(run_dir / "results.json", results)
    if config.averages:
        results["averages"] = weights.race(config.averages, config.rounds)
        show_rates(results["averages"], console, "gib_per_second", "copy")
    if config.label:
        results["labels"] = labelling.race(
            config.label, config.rounds,
            prompts=config.rows, words=config.prompt_length,
        )  # fmt: skip
        show_rates(results["labels"], console, "tokens_per_second", "prefill")
    if other:
        files.write_json(run_dir / "results.json", results)
    else:
        show(results, console)
    console.print(str(run_dir / "results.json"), highlight=False, soft_wrap=True)
    return run_dir


def check(config, chosen):
    """Raises ValueError for misuse that the flags alone reveal."""
    for flag, given in (("target", config.target), ("table", config.table)):
        if given:
            shown = "" if given is True else f" {given}"
            raise ValueError(f"--{flag}{shown} is for --plan: add it")
    peers.check(config.against)
    for name, work in chosen.items():
        for algorithm in config.algorithms:
            try:
                work.algorithm(algorithm)
            except ValueError as error:
                raise ValueError(f"--algorithms: {error}") from None
        if work.accelerator and config.against:
            raise ValueError(
                f"--against {config.against[0]} runs on a CPU, and {name} is too "
                "large for one: choose --workloads reference or microworld"
            )


def prepare(config, batches):
    """Sets what jax reads only once; compiled programs are not cached."""
    command.prepare_devices(config, command.cache_folder(config), batches)
    jax.config.update("jax_enable_compilation_cache", False)


def layout_for(work, layout):
    """The devices on which a workload runs fastest."""
    count = work.cpu_devices if layout.devices[0].platform == "cpu" else None
    return parallel.data(min(count, layout.size)) if count else layout


def machine(layout):
    """What the numbers were measured on."""
    device = layout.devices[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": layout.size,
        "cores": os.cpu_count(),
        "command": provenance.command(),
        "commit": provenance.commit(),
        "versions": provenance.versions(),
    }


def against(peer, name, config, layout, entries, console):
    """Races a peer and adds both results to `entries`."""
    name, work = race.fitting(peer, name)
    console.print(f"{name} against {peer} ...", highlight=False)
    entry = race.against(
        peer,
        work,
        layout_for(work, layout),
        python=config.peer_python,
        rounds=config.rounds,
        report=lambda line: console.print(f"  {line}", highlight=False),
    )
    mine, ratios = entry.pop("ours"), entry.pop("ratios")
    recorded = entries.setdefault(name, {})
    recorded |= entry | {f"ours_against_{peer}": mine}
    recorded.setdefault("ours", mine)
    recorded.setdefault("ratios", {})[peer] = ratios


def show(results, console):
    """Prints the table of all entries and the speed relative to each peer."""
    heads = [heading for _, heading in COLUMNS.values()]
    shown = rich.table.Table("workload", "who", *heads)
    for name, entry in results["workloads"].items():
        for who, facts in entry.items():
            if who != "ratios":
                numbers = [
                    markdown.number(facts.get(key), scale)
                    for key, (scale, _) in COLUMNS.items()
                ]
                shown.add_row(name, f"{who} ({facts['algorithm']})", *numbers)
    console.print(shown)
    for name, entry in results["workloads"].items():
        for peer, parts in entry.get("ratios", {}).items():
            speeds = ", ".join(
                f"{part} {r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f}; "
                f"in processor time {r['cpu']:.2f})"
                for part, r in parts.items()
            )
            line = f"{name}: times as fast as {peer}: {speeds}"
            console.print(line, highlight=False, soft_wrap=True)


def show_rates(entries, console, rate, base):
    """Prints the rate of each operation, and how it compares to that of `base`."""
    unit = {"gib_per_second": "GiB/s", "tokens_per_second": "tokens/s"}[rate]
    shown = rich.table.Table("operation", "seconds", unit, f"of a {base}'s", "range")
    for name, facts in entries.items():
        shares = [
            markdown.number(facts[f"of_{base}"][k]) for k in ("median", "low", "high")
        ]
        numbers = [markdown.number(facts[k]) for k in ("seconds", rate)]
        shown.add_row(name, *numbers, shares[0], f"{shares[1]} to {shares[2]}")
    console.print(shown)
