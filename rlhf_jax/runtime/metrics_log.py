"""metrics.jsonl: one JSON object a logged step, in step with TensorBoard and W&B.

NaN and infinities are not JSON. They are written as `null` and read back as NaN: a run
that diverged keeps its line, and every JSON reader can read it.
"""

import hashlib
import importlib
import json
import math
import numbers
import os
import pathlib

import jax
import numpy as np

from rlhf_jax.runtime import processes


class Lines:
    """A file of JSON lines that can be cut back to where a checkpoint left it.

    `resume_offset`: cut the file there first (0 starts over); None appends, after a
    half-written last line, if any, has been removed. Of many hosts the first writes.
    """

    def __init__(self, path, *, resume_offset=None):
        self.path = pathlib.Path(path)
        if processes.first():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            cut(self.path, resume_offset)
        self._file = open(self.path if processes.first() else os.devnull, "ab")

    def append(self, row):
        """Writes one object as one line and flushes it to the system."""
        line = json.dumps(plain(row), ensure_ascii=False, allow_nan=False)
        self._file.write(line.encode() + b"\n")
        self._file.flush()

    def offset(self):
        """The length in bytes, once everything is on disk: store it in a checkpoint."""
        if not processes.first():
            return 0
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self):
        """Closes the file; a log is closed by leaving its `with` block, too."""
        self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Log(Lines):
    """The metrics of a run folder: metrics.jsonl, TensorBoard events, W&B if asked.

    TensorBoard and W&B get one run for each method and seed, so that their own
    overlays compare methods.

    Args:
      folder: the run folder.
      resume_offset: see `Lines`; events past the cut are hidden from TensorBoard.
      tensorboard: write event files to `folder/tensorboard/<method>/<seed>`.
      wandb: None, or a dictionary of arguments for `wandb.init` ({} is enough).
    """

    def __init__(self, folder, *, resume_offset=None, tensorboard=True, wandb=None):
        folder = pathlib.Path(folder)
        super().__init__(folder / "metrics.jsonl", resume_offset=resume_offset)
        self._last = {(r["method"], r["seed"]): r["step"] for r in read(self.path)}
        self._sinks = []
        if not processes.first():
            return
        if tensorboard:
            self._sinks.append(_TensorBoard(folder / "tensorboard", self._last))
        if wandb is not None:
            self._sinks.append(_Wandb(folder, dict(wandb)))

    def write(self, metrics, *, method, seed, step):
        """One line {"method", "seed", "step", **metrics}.

        metrics: name → number, bool, text, or an array of one element, on any device.
        """
        metrics = plain(jax.device_get(metrics))
        seed, step = int(seed), int(step)
        self.append({"method": method, "seed": seed, "step": step, **metrics})
        numeric = {k: v for k, v in metrics.items() if isinstance(v, numbers.Real)}
        for sink in self._sinks:
            sink.write(numeric, method, seed, step)

    def offset(self):
        for sink in self._sinks:
            sink.flush()
        return super().offset()

    def close(self):
        super().close()
        for sink in self._sinks:
            sink.close()


def read(path):
    """The objects of a JSON-lines file, `null` as NaN, a half-written last line left
    out; [] when there is no file."""
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


def cut(path, offset=None):
    """Shortens a file of lines to `offset` bytes, and then to the end of a whole line.

    With None only a half-written last line goes. Raises ValueError when the file is
    shorter than `offset`: lines that a checkpoint counted on are gone.
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


def plain(value):
    """Numbers and arrays of one element to Python's; NaN and infinities to None.

    Goes through dictionaries, lists and tuples. Raises ValueError at anything else.
    """
    if isinstance(value, dict):
        return {str(k): _named(k, v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, np.bool_):
        return bool(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biuf" and array.dtype != "bfloat16":
        raise ValueError(f"not a number: {type(value).__name__} {array.shape}")
    number = array.item()
    return number if isinstance(number, int) or math.isfinite(number) else None


def compact(records, names, *, digits=5):
    """Records with `names` alone besides their place, numbers to so many digits.

    For a recording that others redraw. A name stands for its halves `_a`, `_b` too; a
    record with none of them is left out. records as `read` has them. Returns a list.
    """
    known = {name + half for name in names for half in ("", "_a", "_b")}
    place, result = ("method", "seed", "step"), []
    for record in records:
        kept = {
            key: float(f"{value:.{digits}g}") if isinstance(value, float) else value
            for key, value in record.items()
            if key in known
        }
        if kept:
            result.append({**{key: record[key] for key in place}, **kept})
    return result


def write_text(path, text):
    """Writes a file whole or not at all: a temporary neighbour, then a rename."""
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(text if isinstance(text, bytes) else text.encode())
    os.replace(temporary, path)
    return path


def write_json(path, value):
    """Writes `plain(value)` as indented JSON, whole or not at all."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False)
    return write_text(path, text + "\n")


def _named(key, value):
    try:
        return plain(value)
    except ValueError as error:
        raise ValueError(f"{key!r}: {error}; log one number a name") from error


class _TensorBoard:
    def __init__(self, folder, last):
        self._folder, self._last, self._writers = folder, last, {}

    def write(self, metrics, method, seed, step):
        if (method, seed) not in self._writers:
            self._writers[method, seed] = self._open(method, seed)
        for name, value in metrics.items():
            self._writers[method, seed].add_scalar(name, float(value), step)

    def _open(self, method, seed):
        module = importlib.import_module("tensorboardX")  # 2 s: only when it is used
        return module.SummaryWriter(
            str(self._folder / method / f"seed_{seed}"),
            purge_step=self._last.get((method, seed), -1) + 1,
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

    def write(self, metrics, method, seed, step):
        if (method, seed) not in self._runs:
            self._runs[method, seed] = self._open(method, seed)
        self._runs[method, seed].log(metrics, step=step)

    def _open(self, method, seed):
        folder, name = self._folder.resolve(), f"{method}-seed{seed}"
        # The same folder, method and seed is the same run: resuming goes on in it.
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
