"""How fast is an RL iteration, where does its time go, and does a model fit?

Prefill, decoding, updates, the whole iteration, EMA and resets, and a checkpoint are
timed warm, compiling apart, on named workloads; achieved operations and bytes a second
stand beside the peaks measured in the same process. Rounds of a peer alternate with
ours, on the same shapes, updates and numbers of tokens.

    python -m experiments.throughput
    python -m experiments.throughput --workloads reference --against trl \\
        --peer-python path/to/python
    python -m experiments.throughput --plan --policy path/to/model --memory 80 \\
        --devices 8 --layout fsdp

Expected on two CPU cores: about three times as fast as TRL on the reference workload;
EMA and resets under 1% of an iteration.
"""

import dataclasses
import os

import jax
import rich.console
import rich.table

from experiments.throughput import memory, peers, race, workloads
from rlhf_jax import sampling
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.cli import command, options
from rlhf_jax.reporting import markdown
from rlhf_jax.runtime import metrics_log, parallel


@dataclasses.dataclass(frozen=True)
class Config:
    """What is measured and against whom; or, with --plan, what is planned."""

    workloads: tuple[str, ...] = workloads.DEFAULT
    """Names; gpt2-124m, llama-1b and llama-7b-lora want accelerators."""
    algorithms: tuple[str, ...] = ("rloo", "ppo")
    """All parts are timed under the first, iterations and updates under the others."""
    against: tuple[str, ...] = ()
    """trl or tunix, or both."""
    peer_python: str | None = None
    """The Python that has the peer; by default this one."""
    rounds: int = 5
    output: str | None = None
    """The run folder; by default a new one under runs/throughput."""
    devices: int | None = None
    """How many devices share the rows; by default all, a CPU's cores being devices."""
    plan: bool = False
    """Measure nothing; say what --policy needs in memory, from its config.json."""
    policy: str = "gpt2-base"
    """A preset, a model directory, or a hub name; this and what follows is planned."""
    vocabulary: int = 50257
    """Of a preset."""
    algorithm: str = "ppo"
    """ppo, reinforce, rloo or grpo."""
    candidates: int = 4
    """Samples a prompt, for rloo and grpo."""
    layout: str = "data"
    """data, fsdp, or fsdp,tensor."""
    lora: options.Lora = dataclasses.field(default_factory=options.Lora)
    rows: int = 64
    prompt_length: int = 64
    new_tokens: int = 64
    minibatches: int = 1
    micro_batches: int = 1
    value: str = "separate"
    """A separate value network, or a head on the shared trunk."""
    dtype: str = "bfloat16"
    """Of compute; what is trained, and its moments, are float32."""
    remat: str = "none"
    """What a backward pass recomputes: none, full or dots."""
    memory: float | None = None
    """GiB of a device."""

    @property
    def resume(self):
        """A measurement has nothing to go on from."""
        return False

    @property
    def cache(self):
        """Nothing compiled is kept: compiling is measured too."""
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
    console = rich.console.Console()
    if config.plan:
        return plan(config, console)
    chosen = workloads.choose(config.workloads)
    check(config, chosen)
    place = command.folder(config, "throughput")
    prepare(config, [work.rows for work in chosen.values()])
    layout = parallel.data(config.devices)
    command.write_config(place, config, layout)
    console.print(f"folder    {place}", highlight=False, soft_wrap=True)
    results = {"workloads": {}, "rounds": config.rounds, **machine(layout)}
    for name, work in chosen.items():
        own = layout_for(work, layout)
        console.print(f"{name}: {work.summary}", highlight=False)
        found = race.alone(
            work, own, algorithms=config.algorithms, rounds=config.rounds
        )
        results["workloads"].setdefault(name, {}).update(found)
        for peer in config.against:
            against(peer, name, config, layout, results["workloads"], console)
        metrics_log.write_json(place / "results.json", results)
    show(results, console)
    console.print(str(place / "results.json"), highlight=False, soft_wrap=True)
    return place


def check(config, chosen):
    """Misuse that can be told before anything is made."""
    peers.check(config.against)
    if config.rounds < 1:
        raise ValueError(f"--rounds {config.rounds}: at least 1 is needed")
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
    """Settings that jax reads once; compiled programs are not kept."""
    command.prepare_devices(config, command.cache_folder(config), batches)
    jax.config.update("jax_enable_compilation_cache", False)


def layout_for(work, layout):
    """Of the devices those that a workload runs fastest on."""
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
        "command": command.command(),
        "commit": command.commit(),
        "versions": command.versions(),
    }


def against(peer, name, config, layout, entries, console):
    """A peer's rounds beside ours, put into `entries`."""
    name, work = race.fitting(peer, name)
    console.print(f"{name} against {peer} ...", highlight=False)
    found = race.against(
        peer,
        work,
        layout_for(work, layout),
        python=config.peer_python,
        rounds=config.rounds,
        report=lambda line: console.print(f"  {line}", highlight=False),
    )
    entry = entries.setdefault(name, {})
    mine, ratios = found.pop("ours"), found.pop("ratios")
    entry |= found | {f"ours_against_{peer}": mine}
    entry.setdefault("ours", mine)
    entry.setdefault("ratios", {})[peer] = ratios


def show(results, console):
    """The table of all entries, and how many times as fast as whom."""
    heads = [heading for _, heading in COLUMNS.values()]
    table = rich.table.Table("workload", "who", *heads)
    for name, entry in results["workloads"].items():
        for who, facts in entry.items():
            if who != "ratios":
                cells = [
                    markdown.number(facts.get(key), scale)
                    for key, (scale, _) in COLUMNS.items()
                ]
                table.add_row(name, f"{who} ({facts['algorithm']})", *cells)
    console.print(table)
    for name, entry in results["workloads"].items():
        for peer, parts in entry.get("ratios", {}).items():
            said = ", ".join(
                f"{part} {r['median']:.2f} ({r['low']:.2f} to {r['high']:.2f}; "
                f"in processor time {r['cpu']:.2f})"
                for part, r in parts.items()
            )
            line = f"{name}: times as fast as {peer}: {said}"
            console.print(line, highlight=False, soft_wrap=True)


def plan(config, console):
    """Prints what each device would hold; returns the `memory.Plan`."""
    length = config.prompt_length + config.new_tokens
    shape = memory.read_policy(
        config.policy, vocabulary=config.vocabulary, length=length, dtype=config.dtype
    )
    shape = dataclasses.replace(shape, remat=config.remat)
    simulate(config.devices or 1)
    adapter = options.adapter(config.lora, memory.policy_shapes(shape))
    made = memory.make(
        shape,
        algorithm(config),
        parallel.layout(config.layout, config.devices or 1),
        rows=config.rows,
        prompt_length=config.prompt_length,
        adapter=adapter,
    )
    rows, verdict = memory.describe(made, config.memory)
    table = rich.table.Table("on each device", "GiB")
    for name, size in rows:
        table.add_row(name, markdown.number(size))
    console.print(table)
    console.print(verdict, highlight=False, soft_wrap=True)
    return made


def simulate(count):
    """So many devices, where there is no accelerator: nothing runs on them."""
    if os.environ.get("JAX_PLATFORMS", "") in ("", "cpu"):
        try:
            jax.config.update("jax_num_cpu_devices", count)
        except RuntimeError:
            pass  # jax has started: it has the devices it has
    if len(jax.devices()) < count:
        raise ValueError(
            f"--devices {count}: there are {len(jax.devices())} here; to plan for "
            "more than there are, set JAX_PLATFORMS=cpu"
        )


def algorithm(config):
    """The static configuration that is planned for."""
    grouped = config.algorithm in ("rloo", "grpo")
    return policy_gradient.Config(
        sampling=sampling.Config(max_new_tokens=config.new_tokens, eos_ids=(1,)),
        algorithm=config.algorithm,
        candidates=config.candidates if grouped else 1,
        epochs=1,
        minibatches=config.minibatches,
        micro_batches=config.micro_batches,
        value=config.value,
    )
