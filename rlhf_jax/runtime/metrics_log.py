"""metrics.jsonl, one JSON object for each logged step, and TensorBoard and W&B.

JSON has no NaN or infinity: both are written as `null` and read back as NaN, so that a
run that diverged keeps its line and any JSON reader can read it.
"""

import hashlib
import importlib
import json
import math
import numbers
import os
import pathlib

import jax

from rlhf_jax.runtime import files, processes


class Lines:
    """A file of JSON lines that can be truncated to its length at a checkpoint.

    resume_offset: the length in bytes to truncate the file to (0 starts over); None
    appends, after removing a last line that was only half written. With several hosts
    only the first one writes.
    """

    def __init__(self, path, *, resume_offset=None):
        self.path = pathlib.Path(path)
        if processes.first():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            truncate(self.path, resume_offset)
        self._writes = processes.first()
        self._file = open(self.path if self._writes else os.devnull, "ab")

    def append(self, row):
        """Writes one object as one line and flushes it to the system.

        Raises FileNotFoundError where the file is no longer at its path.
        """
        if self._writes and not self.path.exists():
            raise FileNotFoundError(
                f"{self.path} has vanished during the run: was its folder moved or "
                "removed? Put it back and continue with --resume, or start again"
            )
        line = json.dumps(files.plain(row), ensure_ascii=False, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def offset(self):
        """The length in bytes, to store in a checkpoint; flushes the file to disk."""
        if not processes.first():
            return 0
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self):
        """Closes the file; leaving the `with` block does so too."""
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Log:
    """The metrics of a run folder: metrics.jsonl, TensorBoard and, optionally, W&B.

    TensorBoard and W&B get one run for each method and seed, so that their plots
    compare methods.

    Args:
      folder: the run folder.
      resume_offset: see `Lines`; TensorBoard hides events after it.
      tensorboard: write event files to `folder/tensorboard/<method>/<seed>`.
      wandb: None, or a dictionary of arguments for `wandb.init`, possibly empty.
    """

    def __init__(self, folder, *, resume_offset=None, tensorboard=True, wandb=None):
        folder = pathlib.Path(folder)
        self._lines = Lines(folder / "metrics.jsonl", resume_offset=resume_offset)
        self.path = self._lines.path
        rows = read(self.path)
        self._last = {
            (r["method"], r.get("world", 0), r["seed"]): r["step"] for r in rows
        }
        self._sinks = []
        if not processes.first():
            return
        if tensorboard:
            self._sinks.append(_TensorBoard(folder / "tensorboard", self._last))
        if wandb is not None:
            self._sinks.append(_Wandb(folder, dict(wandb)))

    def write(self, metrics, *, method, seed, step, world=0):
        """Writes the line {"method", "world", "seed", "step", **metrics}.

        metrics: name → number, bool, text, or an array of one element, on any device.
        """
        metrics = files.plain(jax.device_get(metrics))
        run = {"method": method, "world": int(world), "seed": int(seed)}
        step = int(step)
        self._lines.append({**run, "step": step, **metrics})
        numeric = {k: v for k, v in metrics.items() if isinstance(v, numbers.Real)}
        for sink in self._sinks:
            sink.write(numeric, tuple(run.values()), step)

    def offset(self):
        """The length of metrics.jsonl in bytes, to store in a checkpoint."""
        for sink in self._sinks:
            sink.flush()
        return self._lines.offset()

    def close(self):
        """Closes every file; leaving the `with` block does so too."""
        self._lines.close()
        for sink in self._sinks:
            sink.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def read(path):
    """The objects of a JSON-lines file, with `null` as NaN; [] without a file.

    A last line that was only half written is left out. Raises ValueError, naming the
    line, where one is not JSON.
    """
    path = pathlib.Path(path)
    if not path.exists():
        return []
    rows = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        if not line.endswith(b"\n"):
            break
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}, line {number}, is not JSON: {error}") from error
    return [{k: math.nan if v is None else v for k, v in r.items()} for r in rows]


def truncate(path, offset=None):
    """Truncates a file of lines to `offset` bytes and to its last complete line.

    With None only a half-written last line is removed. Raises ValueError if the file is
    shorter than `offset`: lines written before the checkpoint are missing.
    """
    path = pathlib.Path(path)
    size = path.stat().st_size if path.exists() else 0
    if offset is not None and offset > size:
        raise ValueError(
            f"{path} holds {size} bytes, but the checkpoint was saved at {offset}: "
            "restore the file, or start over in a new folder"
        )
    if size == 0:
        return
    with path.open("r+b") as file:
        kept = file.read(size if offset is None else offset)
        file.truncate(kept.rfind(b"\n") + 1)


class _TensorBoard:
    def __init__(self, folder, last):
        self._folder, self._last, self._writers = folder, last, {}

    def write(self, metrics, run, step):
        if run not in self._writers:
            self._writers[run] = self._open(run)
        for name, value in metrics.items():
            self._writers[run].add_scalar(name, float(value), step)

    def _open(self, run):
        module = importlib.import_module("tensorboardX")  # 2 s: only when it is used
        method, world, seed = run
        return module.SummaryWriter(
            str(self._folder / method / f"world_{world}_seed_{seed}"),
            purge_step=self._last.get(run, -1) + 1,
        )

    def flush(self):
        for writer in self._writers.values():
            writer.flush()

    def close(self):
        for writer in self._writers.values():
            writer.close()


class _Wandb:
    def __init__(self, folder, options):
        try:
            self._module = importlib.import_module("wandb")
        except ImportError as error:
            raise ImportError(
                "logging to W&B needs the package wandb: pip install 'rlhf_jax[wandb]'"
            ) from error
        self._folder, self._options, self._runs = folder, options, {}

    def write(self, metrics, run, step):
        if run not in self._runs:
            self._runs[run] = self._open(*run)
        self._runs[run].log(metrics, step=step)

    def _open(self, method, world, seed):
        folder, name = self._folder.resolve(), f"{method}-world{world}-seed{seed}"
        # The same folder and run give the same id, so W&B resumes the run.
        digest = hashlib.sha256(f"{folder}/{name}".encode()).hexdigest()[:16]
        options = {
            "project": "rlhf_jax",
            "group": folder.name,
            "name": name,
            "id": digest,
            "resume": "allow",
            "dir": str(folder),
            "reinit": "create_new",
        }
        return self._module.init(**{**options, **self._options})

    def flush(self):
        pass

    def close(self):
        for run in self._runs.values():
            run.finish()
