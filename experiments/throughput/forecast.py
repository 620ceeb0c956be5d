"""Before a part is tried: about how long it takes, and whether its workload fits.

What was measured already is the guide: how much slower than its operations and bytes
allow a part was in the workload before, and how long that one took to compile.
"""

import os

from experiments.throughput import measure, memory, operations, workloads

_SLOWNESS = 5.0  # times the least, of a part that was never measured
_COMPILING = {"cpu": 3.0}  # seconds, of such a part
_MAKING = {"cpu": 1.0}  # seconds, of the weights of a first workload


def seconds(results, name, part, algorithm, *, made):
    """About how long a part takes, its compilation and rounds included.

    Args: results: of a slot; name, part: of a workload; made: whether its weights are.
    """
    entry = None
    for other, entries in results["workloads"].items():
        if part in entries["ours"]["times"]:
            entry = other, entries["ours"]
    platform, rounds = results["platform"], results["rounds"] + 2
    round_seconds = _least(results, name, part, algorithm)
    if entry is None:
        round_seconds *= _SLOWNESS
        compiling = _COMPILING.get(platform, 20.0)
    else:
        other, facts = entry
        took = measure.median(facts["times"][part])
        round_seconds *= took / _least(results, other, part, algorithm)
        compiling = facts["compile_seconds"][part]
    making = [x["ours"]["making_seconds"] for x in results["workloads"].values()]
    start = 0.0 if made else max([*making, _MAKING.get(platform, 10.0)])
    return start + compiling + rounds * round_seconds


def _least(results, name, part, algorithm):
    """Seconds of a round by operations over the matmul peak and bytes over the
    bandwidth; 0.01 where those are not known."""
    work, peaks = workloads.WORKLOADS[name], results["peaks"]
    matmul, bandwidth = peaks.get(work.decoder.dtype), peaks.get("bandwidth")
    if matmul is None or bandwidth is None:
        return 0.01
    config = work.algorithm(algorithm)
    critic, copies = config.learns_value, config.candidates
    decode = operations.decode_bytes(work) / bandwidth
    counted = {
        "prefill": operations.prefill(work) / matmul,
        "generate": operations.generate(work) / matmul + decode,
        "train": operations.update(work, critic=critic) / matmul,
        "iteration": operations.iteration(work, critic=critic, copies=copies) / matmul
        + decode,
        "bookkeeping": 5 * 4 * work.decoder.layers * operations.kernels(work.decoder)
        / bandwidth,  # π, its average and π₀ are read, two of them written
    }  # fmt: skip
    return counted[part]


def needed(work, algorithm, layout):
    """Bytes that an iteration holds on a device at the least: state, gradients, cache
    and the logits of a micro-batch's share."""
    _, arguments = memory.of_workload(work, algorithm, layout)
    held = memory.held(arguments)
    if not work.judged:
        held.pop("reward model", None)
    gradients = memory.bytes_on_device(arguments["state"].learner.params)
    rows = -(-work.rows // layout.size)
    cache = memory.cache_bytes(work.decoder, rows, work.length)
    return sum(held.values()) + max(gradients, cache)


def available(device):
    """Bytes of memory that programs may use on a device, of a CPU all there is."""
    stats = device.memory_stats() if device.platform != "cpu" else None
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def why_not(work, algorithm, layout):
    """Why a workload does not fit into a device's memory, or None."""
    need, there = needed(work, algorithm, layout), available(layout.devices[0])
    if need <= there:
        return None
    gib = f"{need / measure.GIB:.1f} GiB", f"{there / measure.GIB:.1f}"
    return f"it needs at least {gib[0]} of memory and a device has {gib[1]}"
