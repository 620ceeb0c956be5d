"""What of a study's folder is done, and how far its files of lines can be trusted.

A checkpoint vouches for the lines of metrics.jsonl and samples.jsonl up to the lengths
they had when it was written.
"""

import bisect
import json
from typing import NamedTuple

from rlhf_jax.evaluation import units


class Progress(NamedTuple):
    """How far the runs of a study are."""

    done: set  # runs
    steps: dict  # {run: the step of its newest checkpoint}
    offsets: dict  # {"metrics", "samples"}: how many bytes of each file are kept


def progress(study, runs, checkpoints, path):
    """What of the runs of a study is saved, as `Progress`.

    A run is done when its last checkpoint says so. One that has lines which none of its
    checkpoints vouches for, because those were damaged or deleted, goes on from before
    them: what was written after that is cut off, and the runs that wrote it run again.

    Args: checkpoints(run) -> its Checkpointer, which is cleared where the run is to run
    again; path: of metrics.jsonl.
    """
    peeks = {run: checkpoints(run).peek() for run in runs}
    steps = {run: peek[0] for run, peek in peeks.items() if peek is not None}
    saved = {run: peeks[run][1] for run in steps}
    lines = _lines(path) if path.exists() else {}
    own = {run: lines.get((run.method, run.unit), []) for run in runs}
    own = {run: starts for run, starts in own.items() if _writes(study, run)}

    def kept(name):
        return max((extra[name] for extra in saved.values()), default=0)

    def doubtful():
        for run, starts in own.items():
            known = saved[run]["metrics"] if run in saved else 0
            after = bisect.bisect_left(starts, known)
            if after < len(starts) and starts[after] < kept("metrics"):
                yield starts[after]

    while (cut := min(doubtful(), default=None)) is not None:
        for run in [run for run in saved if saved[run]["metrics"] > cut]:
            del saved[run]
            checkpoints(run).clear()
    done = {run for run, extra in saved.items() if extra["final"]}
    offsets = {name: kept(name) for name in ("metrics", "samples")}
    return Progress(done, {run: steps[run] for run in saved}, offsets)


def _writes(study, run):
    """Whether the lines of a run are its own, not those of the run it is read off."""
    method = study.methods[run.method]
    return method.derive is None or method.at_end


def _lines(path):
    """{(method, unit): where its lines begin, in bytes}."""
    found, start = {}, 0
    with open(path, "rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                row = json.loads(line)
                found.setdefault((row["method"], units.of(row)), []).append(start)
            start += len(line)
    return found
