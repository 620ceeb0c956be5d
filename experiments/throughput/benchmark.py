"""How fast is an RL iteration, where does its time go, and does a model fit?

Times prefill, decoding, updates, the whole iteration, EMA and resets, and a checkpoint
on named workloads, warm, with compilation reported separately. Achieved operations and
bytes per second are shown next to the peaks measured in the same process. A peer's
rounds alternate with ours, on the same shapes and numbers of updates and tokens.

    python -m experiments.throughput
    python -m experiments.throughput --workloads reference --against trl \\
        --peer-python path/to/python
    python -m experiments.throughput --accelerator --minutes 8 --output runs/slot
    python -m experiments.throughput --ragged --workloads reference microworld
    python -m experiments.throughput --members 1 2 4 8 --workloads microworld
    python -m experiments.throughput --averages 4
    python -m experiments.throughput --label path/to/model --rows 32 --prompt-length 200
    python -m experiments.throughput --plan --policy path/to/model --memory 80 \\
        --devices 8 --layout fsdp
    python -m experiments.throughput --plan --policy path/to/model \\
        --target tpu:v5e:2x4 --layout fsdp
    python -m experiments.throughput --plan --table

Expected on two CPU cores: three to four times as fast as TRL on the reference workload;
EMA and resets under 1% of an iteration.
"""

import dataclasses
import os
from typing import Literal

import jax

from experiments.throughput import (
    accelerator,
    labelling,
    peers,
    planning,
    population,
    race,
    ragged,
    screen,
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

    essential = (
        "workloads", "algorithms", "against", "rounds", "accelerator", "minutes",
        "members", "ragged", "plan", "policy", "target", "table", "output", "resume",
    )  # fmt: skip
    workloads: tuple[ranges.Text, ...] = ()
    """Names; gpt2-124m, llama-1b and llama-7b-lora need an accelerator. By default
    reference and microworld or, with --accelerator, those for the device."""
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
    accelerator: bool = False
    """Measure what a short slot on an accelerator can tell, what matters most first,
    and go on where an earlier one with the same --output stopped. On a CPU tiny
    workloads rehearse it."""
    minutes: ranges.Positive = 8.0
    """Of such a slot: no part is begun that would take longer than is left."""
    members: tuple[ranges.Count, ...] = ()
    """Measure only so many runs of the first workload in one program, against one
    after another: 1 4 16, say."""
    averages: ranges.Positive | None = None
    """Measure only how fast two float32 models of so many GiB each are averaged."""
    ragged: bool = False
    """Measure only sampling where responses end early: with --rl.rows-per-slot 8
    against one batch of all rows."""
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
    other = config.averages or config.label or config.members
    chosen = {} if other else workloads.choose(names(config))
    check(config, chosen)
    run_dir = command.run_dir(config, "throughput")
    prepare(config, [work.rows for work in chosen.values()] or [1])
    layout = parallel.data(config.devices)
    command.write_config(run_dir, config, layout)
    console.print(f"folder    {run_dir}", highlight=False, soft_wrap=True)
    if config.accelerator:
        return slot(config, run_dir, layout, console)
    results = {"workloads": {}, "rounds": config.rounds, **machine(layout)}
    if config.ragged:
        results["ragged"] = against_batches(config, chosen, layout, console)
    for name, work in ({} if config.ragged else chosen).items():
        console.print(f"{name}: {work.summary}", highlight=False)
        measured = race.alone(
            work,
            workloads.layout_for(work, layout),
            algorithms=config.algorithms,
            rounds=config.rounds,
        )
        results["workloads"].setdefault(name, {}).update(measured)
        for peer in config.against:
            against(peer, name, config, layout, results["workloads"], console)
        files.write_json(run_dir / "results.json", results)
    if config.averages:
        results["averages"] = weights.race(config.averages, config.rounds)
        screen.show_rates(results["averages"], console, "gib_per_second", "copy")
    if config.label:
        results["labels"] = labelling.race(
            config.label, config.rounds,
            prompts=config.rows, words=config.prompt_length,
        )  # fmt: skip
        screen.show_rates(results["labels"], console, "tokens_per_second", "prefill")
    if config.members:
        results["population"] = many(config, console)
    if other or config.ragged:
        files.write_json(run_dir / "results.json", results)
    else:
        screen.show(results, console)
    console.print(str(run_dir / "results.json"), highlight=False, soft_wrap=True)
    return run_dir


def names(config):
    """The workloads that the flags ask for; () where the device decides."""
    default = () if config.accelerator else workloads.DEFAULT
    return config.workloads or default


def many(config, console):
    """Races so many runs as the flags ask for; returns what was found."""
    name = (config.workloads or ("microworld",))[0]
    work = workloads.choose([name])[name]
    console.print(f"{name}: {work.summary}", highlight=False)
    found = population.sweep(
        work,
        config.algorithms[0],
        config.members,
        rounds=config.rounds,
        say=lambda line: console.print(line, highlight=False, soft_wrap=True),
    )
    screen.show_members(found, console)
    return {"workload": name, "races": found}


def slot(config, run_dir, layout, console):
    """Measures what fits into a slot and is not in the folder; returns the folder."""
    about = {"rounds": config.rounds, "algorithm": config.algorithms[0]}
    about |= machine(layout)
    chosen = config.workloads or accelerator.names(about["platform"])
    done = accelerator.run(
        run_dir,
        workloads.choose(chosen),
        layout,
        about,
        minutes=config.minutes,
        say=lambda line: console.print(line, highlight=False, soft_wrap=True),
    )
    print((run_dir / "table.md").read_text(), flush=True)  # as it is, to be pasted
    console.print(str(run_dir / "results.json"), highlight=False, soft_wrap=True)
    failed = done.results["failed"]
    if failed:
        raise ValueError(
            f"{markdown.count(len(failed), 'part')} failed ({', '.join(failed)}): the "
            "table says why; the same command tries them again"
        )
    return run_dir


def check(config, chosen):
    """Raises ValueError for misuse that the flags alone reveal."""
    others = ("averages", "label", "against", "members", "ragged")
    flag = next((name for name in others if getattr(config, name)), None)
    if config.accelerator and flag:
        raise ValueError(f"--{flag} is measured without --accelerator: leave one out")
    if not config.algorithms:
        raise ValueError("--algorithms: name at least one, as in --algorithms rloo")
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
        workloads.layout_for(work, layout),
        python=config.peer_python,
        rounds=config.rounds,
        report=lambda line: console.print(f"  {line}", highlight=False),
    )
    mine, ratios = entry.pop("ours"), entry.pop("ratios")
    recorded = entries.setdefault(name, {})
    recorded |= entry | {f"ours_against_{peer}": mine}
    recorded.setdefault("ours", mine)
    recorded.setdefault("ratios", {})[peer] = ratios


def against_batches(config, chosen, layout, console):
    """{workload: what `ragged.race` returns}, each shown as soon as it is known."""
    entries = {}
    for name, work in chosen.items():
        console.print(f"{name}: {work.summary}", highlight=False)
        entry = ragged.race(work, workloads.layout_for(work, layout), config.rounds)
        pair = {who: entry[who] for who in ("batch", "turns")}
        screen.show_rates(pair, console, "tokens_per_second", "batch")
        console.print(ragged.said(entry), highlight=False, soft_wrap=True)
        entries[name] = entry
    return entries
