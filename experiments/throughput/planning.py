"""--plan: what an iteration needs on each device, from shapes alone.

On devices that are here, simulated or attached, the plan is of memory. With --target
the very iteration is compiled for TPUs that are not here: `compiled` says what their
compiler made of it, and `roofline` how long it takes at the least.
"""

import dataclasses
import os
import time

import jax
import rich.table

from experiments.throughput import compiled, memory, roofline, workloads
from rlhf_jax import sampling
from rlhf_jax.algorithms import policy_gradient
from rlhf_jax.algorithms.policy_gradient import GROUPED
from rlhf_jax.models import lora
from rlhf_jax.reporting import markdown
from rlhf_jax.runtime import parallel, topologies

_TRIES = 5  # other sizes that are compiled to find one that fits


def run(config, console):
    """Prints what each device would hold; returns the `memory.Plan`, or with --target
    the `compiled.Facts`."""
    if config.target is not None:
        return _for_target(config, console)
    simulate(config.devices or 1)
    layout = parallel.layout(config.layout, config.devices or 1)
    made = memory.make(_shape(config), algorithm(config), layout, **_sizes(config))
    rows, verdict = memory.describe(made, config.memory)
    _table(console, ("on each device", "GiB"), rows)
    _say(console, verdict)
    return made


def _for_target(config, console):
    """What the compiler of a `topologies.Target` makes of the iteration."""
    target = topologies.parse(config.target)
    devices = topologies.devices(target)
    try:
        facts, arguments, layout = _compile(config, devices)
    except compiled.DoesNotFit as problem:
        raise ValueError(
            f"does not fit: {problem}; {_alternative(config, devices, console)}"
        ) from None
    held = memory.held(arguments)
    rows = [(name, size / memory.GIB) for name, size in held.items()]
    rows += [(name, size / memory.GIB) for name, size in facts.sizes.items()]
    _table(console, (f"on each of {len(layout.devices)} {target.kind}", "GiB"), rows)
    kinds = [(name, count, size) for name, (count, size) in facts.collectives.items()]
    if kinds:
        _table(console, ("collectives, a loop's once", "number", "MiB"), kinds)
    for line in roofline.lines(_work(config), target.chip, layout):
        _say(console, line)
    _say(console, f"traced and compiled in {facts.seconds:.0f} s")
    return facts


def _compile(config, devices):
    """(`compiled.Facts`, arguments, layout) of the iteration on these devices."""
    layout = parallel.layout(config.layout, config.devices, among=devices)
    started = time.monotonic()
    programs, arguments = memory.prepare(
        _shape(config), algorithm(config), layout, **_sizes(config)
    )
    lowered = memory.lower(programs, arguments)
    return compiled.compile_for(lowered, started), arguments, layout


def _alternative(config, devices, console):
    """A change of the flags with which it does fit, in words."""
    for change in _alternatives(config, len(devices)):
        flags = " ".join(f"--{k.replace('_', '-')} {v}" for k, v in change.items())
        _say(console, f"does not fit; trying {flags} ...")
        try:
            _compile(dataclasses.replace(config, **change), devices)
        except compiled.DoesNotFit:
            continue
        return f"with {flags} it does"
    return "train adapters (--lora.rank), take fewer --rows or more devices"


def _alternatives(config, count):
    """Changes of flags that need less memory, the cheapest first."""
    layouts = (config.layout,) if config.layout != "data" else ("data", "fsdp")
    each = config.rows // config.minibatches // count
    parts = [n for n in range(1, each + 1) if each % n == 0]
    changes = [
        {"micro_batches": n, "layout": layout, "remat": "full"}
        for layout in layouts
        for n in sorted({p for p in parts if p >= config.micro_batches})
    ]
    now = {name: getattr(config, name) for name in ("micro_batches", "layout", "remat")}
    changes = [change for change in changes if change != now]
    step = max(1, len(changes) // _TRIES)
    kept = changes[:-1:step][: _TRIES - 1]
    return [*kept, *changes[-1:]]


def _shape(config):
    length = config.prompt_length + config.new_tokens
    shape = memory.read_policy(
        config.policy, vocabulary=config.vocabulary, length=length, dtype=config.dtype
    )
    return dataclasses.replace(shape, remat=config.remat)


def _sizes(config):
    """Rows, prompt and adapters, as keywords of `memory.prepare`."""
    adapter = lora.adapter(config.lora, memory.policy_shapes(_shape(config)))
    sizes = {"rows": config.rows, "prompt_length": config.prompt_length}
    return {**sizes, "adapter": adapter}


def _work(config):
    """The iteration as a `workloads.Workload`, whose operations can be counted."""
    grouped = config.algorithm in GROUPED
    return roofline.Work(
        workloads.Workload(
            "",
            _shape(config),
            rows=config.rows,
            prompt_length=config.prompt_length,
            new_tokens=config.new_tokens,
            candidates=config.candidates,
        ),
        critic=config.algorithm == "ppo",
        copies=config.candidates if grouped else 1,
    )


def simulate(count):
    """Simulates `count` devices where there is no accelerator; nothing runs on them."""
    if os.environ.get("JAX_PLATFORMS", "") in ("", "cpu"):
        try:
            jax.config.update("jax_num_cpu_devices", count)
        except RuntimeError:
            pass  # jax has started, so its devices are fixed
    if len(jax.devices()) < count:
        raise ValueError(
            f"--devices {count}: there are {len(jax.devices())} here; to plan for "
            "more than there are, set JAX_PLATFORMS=cpu"
        )


def algorithm(config):
    """The static configuration to plan for."""
    grouped = config.algorithm in GROUPED
    return policy_gradient.Config(
        sampling=sampling.Config(max_new_tokens=config.new_tokens, eos_ids=(1,)),
        algorithm=config.algorithm,
        candidates=config.candidates if grouped else 1,
        epochs=1,
        minibatches=config.minibatches,
        micro_batches=config.micro_batches,
        value=config.value,
    )


def _table(console, header, rows):
    table = rich.table.Table(*header)
    for name, *numbers in rows:
        table.add_row(name, *map(markdown.number, numbers))
    console.print(table)


def _say(console, line):
    console.print(line, highlight=False, soft_wrap=True)
