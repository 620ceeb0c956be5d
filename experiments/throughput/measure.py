"""Clocks and meters: seconds, the machine's peaks, memory."""

import gc
import pathlib
import resource
import statistics
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

GIB = 1024**3
_SIDE = {"cpu": 1536}  # of the square matrices that are multiplied
_STREAM = {"cpu": 64 * 1024**2}  # float32 numbers that are copied
_CALLS = {"cpu": 1}  # timed at once: an accelerator's are queued while others run


def seconds(call):
    """Seconds that a call takes until its result is ready."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start


def alternate(calls, rounds):
    """{name: [seconds]} of calls that time themselves, round by round.

    Rounds alternate, so that load from other processes affects all alike.
    """
    times = {name: [] for name in calls}
    for number in range(rounds):
        # The order flips every round, so that no call always inherits the same caches.
        names = list(calls) if number % 2 == 0 else list(calls)[::-1]
        for name in names:
            times[name].append(calls[name]())
    return times


def median(values):
    """The median as a float."""
    return float(statistics.median(values))


def relative_range(values):
    """(largest − smallest) / median: how noisy the machine was."""
    return (max(values) - min(values)) / median(values)


def matmul_flops(layout, dtype, *, precision=None, repeats=5):
    """Peak operations per second: those of a large matrix product on all devices.

    precision: of `jnp.matmul`; None: what a program gets that asks for none.
    """
    side = _SIDE.get(layout.devices[0].platform, 8192)
    counts = {1, layout.size}
    return max(
        _matmul(layout.devices[:n], side, dtype, precision, repeats) for n in counts
    )


def _matmul(devices, side, dtype, precision, repeats):
    def matrix(number):
        return jax.random.normal(jax.random.key(number), (side, side)).astype(dtype)

    def product(a):
        options = {"precision": precision, "preferred_element_type": jnp.float32}
        return jnp.matmul(a, a.T, **options)

    a = jax.pmap(matrix, devices=devices)(np.arange(len(devices)))
    program = jax.pmap(product, devices=devices)
    program(a).block_until_ready()
    calls = _CALLS.get(devices[0].platform, 16)
    best = min(seconds(lambda: _last(program, a, calls)) for _ in range(repeats))
    return len(devices) * calls * 2 * side**3 / best


def _last(program, x, calls):
    """The result of the last of several calls."""
    for _ in range(calls):
        result = program(x)
    return result


def bandwidth(layout, *, repeats=5):
    """Bytes per second that all devices together read and write in a long copy."""
    platform = layout.devices[0].platform
    count = _STREAM.get(platform, 512 * 1024**2)
    count = count // layout.size if platform == "cpu" else count
    calls = _CALLS.get(platform, 16)
    program = jax.pmap(lambda x: x + 1.0, devices=layout.devices, donate_argnums=0)
    ones = jax.pmap(lambda _: jnp.ones(count, jnp.float32), devices=layout.devices)
    x = program(ones(np.zeros(layout.size)))
    best = float("inf")
    for _ in range(repeats):
        x.block_until_ready()
        start = time.perf_counter()
        for _ in range(calls):
            x = program(x)
        x.block_until_ready()
        best = min(best, time.perf_counter() - start)
    return calls * 2 * 4 * count * layout.size / best


def start_peak():
    """Resets the memory peak of this process, where the system allows it."""
    gc.collect()
    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass  # then the peak is that of the whole process


def peak_bytes(devices=()):
    """Peak memory of the fullest accelerator or, on a CPU, of the process."""
    held = [device.memory_stats() for device in devices if device.platform != "cpu"]
    if any(held):
        return max(stats["peak_bytes_in_use"] for stats in held if stats)
    try:
        return _status("VmHWM")
    except OSError:
        scale = 1 if sys.platform == "darwin" else 1024
        return scale * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def resident_bytes():
    """Bytes that this process holds in memory now."""
    return _status("VmRSS")


def _status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    line = next(line for line in lines if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])


def ratios(ours, theirs):
    """How many times as fast ours is, from alternating rounds: median and range.

    Each round is compared with its counterpart, which ran under the same load.
    """
    paired = [b / a for a, b in zip(ours, theirs, strict=True)]
    return {"median": median(paired), "low": min(paired), "high": max(paired)}
