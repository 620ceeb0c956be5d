"""--accelerator: what a short slot on an accelerator can tell, what matters most first.

The device, its matmul peaks and memory bandwidth; then by workload prefill, rollout,
updates, a whole iteration, EMA and reset; then many small runs in one program.
results.json and table.md are written anew after every part, so that a slot may be cut
at any moment: the same command with the same --output goes on where it stopped.
"""

import contextlib
import dataclasses
import functools
import gc
import json
import math
import subprocess
import time

import jax

from experiments.throughput import (
    attention,
    forecast,
    measure,
    ours,
    population,
    slot_table,
    workloads,
)
from rlhf_jax.runtime import files

PARTS = ("prefill", "generate", "train", "iteration", "bookkeeping")
FIRST = {"llama-7b-lora": "iteration"}  # what is asked of a workload before the rest
MEMBERS = {"cpu": ("tiny", 3)}  # of `population`: workload and number
SAME = ("platform", "device", "devices", "versions", "algorithm")  # of all parts


def names(platform):
    """The workloads of a slot: on a CPU tiny ones, as a rehearsal."""
    return workloads.REHEARSED if platform == "cpu" else workloads.ACCELERATED


class Slot:
    """The results in a folder, and the time that is left to add to them."""

    def __init__(self, folder, about, minutes, say):
        self.folder, self.say = folder, say
        self.until = time.monotonic() + 60 * minutes
        self.results = _opened(folder / "results.json", about)

    def left(self):
        """Seconds until the slot ends."""
        return self.until - time.monotonic()

    def is_done(self, name):
        """Whether a part was measured, now or in an earlier slot."""
        return name in self.results["parts"]

    def attempt(self, name, call, expected=0.0):
        """Calls `call()`, which adds to the results, and keeps them.

        Not if the part is done, nor if it is expected to take longer than is left, nor
        if memory did not suffice before. What goes wrong is noted, and other parts go
        on: a slot may not come again.
        """
        if self.is_done(name) or name in self.results["too_large"]:
            return
        if expected >= self.left():
            self.skip(name, f"{expected:.0f} s, and {max(self.left(), 0):.0f} are left")
            return
        self.say(f"{name} ...")
        started = time.monotonic()
        try:
            call()
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            kind = "too_large" if "RESOURCE_EXHAUSTED" in reason else "failed"
            self.results[kind][name] = reason
            self.say(f"{name}: {reason}")
        else:
            self.results["parts"][name] = {
                "seconds": round(time.monotonic() - started, 3),
                "commit": self.results["commit"],
            }
        self.save()

    def skip(self, name, reason):
        """Notes why a part that is not done is not tried."""
        if not self.is_done(name):
            self.results["skipped"][name] = reason
            self.save()

    def save(self):
        """Writes results.json and the table made of it."""
        files.write_json(self.folder / "results.json", self.results)
        files.write(self.folder / "table.md", slot_table.markdown_of(self.results))


def _opened(path, about):
    """The results in a file, or new ones. Raises ValueError if they are of another
    device or of other versions."""
    started = {"peaks": {}, "attention": {}, "workloads": {}, "population": {}}
    started |= {"too_large": {}, "parts": {}}
    results = {**about, **started}
    if path.exists():
        try:
            found = json.loads(path.read_text())
            differ = [name for name in SAME if found[name] != about[name]]
            results = {**about, **{key: found[key] for key in started}}
            results |= {"environment": found.get("environment", {})}
        except (ValueError, KeyError, TypeError):
            raise ValueError(
                f"{path} is not of --accelerator, or damaged: name another --output"
            ) from None
        if differ:
            there, here = ([x[name] for name in differ] for x in (found, about))
            raise ValueError(
                f"{path} was measured with {', '.join(differ)} {there}, and here it is "
                f"{here}: name another --output"
            )
    return results | {"skipped": {}, "failed": {}}


def run(folder, chosen, layout, about, *, minutes, say):
    """Measures what is not done yet; returns the `Slot`.

    Args: chosen: {name: Workload}; about: what results.json starts with, `SAME`,
    "commit" and "rounds" among it; say(line) receives the progress.
    """
    slot, algorithm = Slot(folder, about, minutes, say), about["algorithm"]
    slot.attempt("environment", lambda: slot.results.update(environment(layout)))
    _peaks(slot, layout)
    for name, work in chosen.items():
        fitting = workloads.layout_for(work, layout)
        _workload(slot, name, work, fitting, algorithm)
    _population(slot, algorithm, layout.devices[0].platform)
    slot.save()
    return slot


def environment(layout):
    """{"environment": what identifies the device and the software below jax}."""
    device = layout.devices[0]
    facts = {
        "memory_gib": forecast.available(device) / measure.GIB,
        "platform_version": " ".join(device.client.platform_version.split()),
        "compute_capability": getattr(device, "compute_capability", None),
        "driver": _driver() if device.platform == "gpu" else None,
    }
    return {"environment": {k: v for k, v in facts.items() if v is not None}}


def _driver():
    """The version of NVIDIA's driver, or None."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=20, check=True
        )
        return found.stdout.split("\n")[0].strip()
    return None


def _peaks(slot, layout):
    """Matmul peaks by type and precision, and the memory's bandwidth."""
    kinds = {
        "bfloat16": ("bfloat16", None),
        "float32": ("float32", None),  # as programs get it that ask for no precision
        "float32 highest": ("float32", jax.lax.Precision.HIGHEST),
    }
    if layout.devices[0].platform == "gpu":
        kinds["tf32"] = "float32", jax.lax.DotAlgorithmPreset.TF32_TF32_F32
    calls = {
        name: functools.partial(
            measure.matmul_flops, layout, dtype, precision=precision
        )
        for name, (dtype, precision) in kinds.items()
    }
    calls["bandwidth"] = functools.partial(measure.bandwidth, layout)

    def keep(name, call):
        slot.results["peaks"][name] = call()

    for name, call in calls.items():
        slot.attempt(f"peaks/{name}", functools.partial(keep, name, call))


def _workload(slot, name, work, layout, algorithm):
    """All parts of a workload, which is made once and let go at the end."""
    parts = _parts(name, work)
    if all(slot.is_done(f"{name}/{part}") for part in parts):
        return
    reason = forecast.why_not(work, algorithm, layout)
    if reason is not None:
        for part in parts:
            slot.skip(f"{name}/{part}", reason)
        return
    if attention.applies(work, layout):
        slot.attempt(
            f"{name}/attention",
            lambda: slot.results["attention"].update(
                {name: attention.race(work, slot.results["rounds"])}
            ),
        )
        kind = slot.results["attention"].get(name, {}).get("chosen", "auto")
        work = dataclasses.replace(
            work, decoder=dataclasses.replace(work.decoder, attention=kind)
        )
    timed = Timed(name, work, layout, algorithm)
    for part in parts:
        expected = forecast.seconds(
            slot.results, name, part, algorithm, made=timed.subject is not None
        )
        call = functools.partial(timed.measure, slot.results, part)
        slot.attempt(f"{name}/{part}", call, expected)
    timed.drop()


def _parts(name, work):
    """The parts of a workload, in the order in which they are measured."""
    first = FIRST.get(name)
    order = sorted(PARTS, key=lambda part: part != first)
    return [part for part in order if work.keep_average or part != "bookkeeping"]


class Timed:
    """A workload's `ours.Ours`, made when it is needed, and its entry of results."""

    def __init__(self, name, work, layout, algorithm):
        self.name, self.work = name, work
        self.layout, self.algorithm = layout, algorithm
        self.subject, self._making = None, 0.0

    def measure(self, results, part):
        """Times one part, and describes anew all that are in the results."""
        try:
            self._make()
            first = ours.first_rounds(self.subject, (part,))[part]
            call = {part: getattr(self.subject, part)}
            times = measure.alternate(call, results["rounds"])
        except BaseException:
            self.drop()  # its state was given to the program that failed
            raise
        entries = results["workloads"].setdefault(self.name, {})
        entry = entries.setdefault("ours", {"times": {}, "compile_seconds": {}})
        entry["times"] |= times
        entry["compile_seconds"][part] = first - measure.median(times[part])
        peaks = results["peaks"]
        entry |= ours.describe(
            self.work,
            self.algorithm,
            entry["times"],
            matmul=peaks.get(self.work.decoder.dtype, math.nan),
            bandwidth=peaks.get("bandwidth", math.nan),
        )
        entry |= {
            "algorithm": self.algorithm,
            "attention": self.work.decoder.attention,
            "making_seconds": self._making,
            "peak_gib": measure.peak_bytes(self.layout.devices) / measure.GIB,
            "devices": self.layout.size,
            "rounds": results["rounds"],
        }

    def _make(self):
        if self.subject is None:
            started = time.monotonic()
            self.subject = ours.Ours(self.work, self.algorithm, self.layout)
            self._making = time.monotonic() - started

    def drop(self):
        """Lets the weights go, for the next workload needs their memory."""
        self.subject = None
        gc.collect()


def _population(slot, algorithm, platform):
    """Many small runs in one program, against one after another."""
    name, members = MEMBERS.get(platform, ("microworld", 32))
    one = forecast.seconds(slot.results, name, "iteration", algorithm, made=False)

    def call():
        slot.results["population"] = {"workload": name} | population.race(
            workloads.WORKLOADS[name],
            algorithm,
            members=members,
            rounds=slot.results["rounds"],
        )

    slot.attempt("population", call, 2 * one)
