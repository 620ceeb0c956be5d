"""Checkpoints of training state: arrays written by orbax, verified by a manifest.

    folder/step_00000040/state/          arrays, see `packing`
    folder/step_00000040/manifest.json   format, config digest, step, extra, every
                                         leaf (path, shape, dtype), every file (digest)

A checkpoint is renamed into place once all of it is on disk, and is used only if every
digest matches, because orbax restores flipped bits without an error.

With several hosts the folder must be on a disk that all of them share. A checkpoint
does not depend on the layout: it is restored to any other, on any number of hosts.
"""

import contextlib
import errno
import hashlib
import json
import logging
import pathlib
import re

import jax

from rlhf_jax.runtime import files, packing, processes

_STEP = re.compile(r"step_(\d+)(?:\.(\d+))?")
_log = logging.getLogger(__name__)


class Checkpointer:
    """The checkpoints of one run.

    Args:
      folder: created if missing; leftovers of killed writers are deleted.
      keep: how many checkpoints to keep.
      config_digest: identifies the configuration; checkpoints of another are refused.
      report: called with one line of text when a damaged checkpoint is skipped.
    """

    def __init__(self, folder, *, keep=2, config_digest, report=_log.warning):
        if keep < 1:
            raise ValueError(f"keep={keep}: at least 1 checkpoint must be kept")
        self.folder = pathlib.Path(folder).absolute()
        self.keep = keep
        self.config_digest = config_digest
        self.report = report
        if processes.first():
            files.sweep(self.folder)

    def steps(self):
        """The steps that have a checkpoint, intact or not, ascending."""
        return sorted({step for step, _, _ in self._list()})

    def save(self, step, state, extra=None):
        """Writes a checkpoint and deletes older ones beyond `keep`.

        Checkpoints at `step` or later belong to a course of training that this one
        replaces, and are deleted too.

        Args:
          step: int.
          state: a pytree of arrays, typed keys and numbers.
          extra: small and JSON, such as the position in the data.
        Raises OSError if the disk is full; nothing half-written remains.
        """
        existing = self._list() if processes.first() else []
        attempts = [attempt for other, attempt, _ in existing if other == step]
        name = f"step_{step:08d}" + (f".{max(attempts) + 1}" if attempts else "")
        header = {"config": self.config_digest, "step": int(step), "extra": extra or {}}
        with _one_error(f"step {step}", self.folder):
            with files.shared_folder(self.folder / name) as temporary:
                packing.write(temporary, state, header)
        earlier = [path for other, _, path in existing if other < step]
        kept = earlier[max(len(earlier) + 1 - self.keep, 0) :]
        for _, _, path in existing:
            if path not in kept:
                files.remove(path)

    def restore(self, target):
        """The newest intact checkpoint, (step, state, extra), or None if there is none.

        target: a pytree like the state, of arrays or of `jax.ShapeDtypeStruct` with
        shardings; the state is restored with its structure, types and shardings.
        Raises ValueError if the checkpoint is of another configuration, or if all
        checkpoints are damaged.
        """
        newest = processes.broadcast_from_first(lambda: self._newest(self.report))
        if newest is None:
            return None
        path, manifest = pathlib.Path(newest[0]), newest[1]
        _compare(path, manifest, target)
        return manifest["step"], packing.read(path, manifest, target), manifest["extra"]

    def peek(self):
        """(step, extra) of the checkpoint that `restore` would choose, or None."""
        newest = processes.broadcast_from_first(lambda: self._newest(lambda line: None))
        return None if newest is None else (newest[1]["step"], newest[1]["extra"])

    def _newest(self, report):
        """[path, manifest] of the newest intact checkpoint, or None."""
        damaged = []
        for _, _, path in reversed(self._list()):
            try:
                manifest = files.unseal(path)
            except files.Damaged as error:
                damaged.append(f"{path.name} ({error})")
                continue
            if damaged:
                report(
                    f"{self.folder}: damaged and passed over: {', '.join(damaged)}; "
                    f"going on from {path.name}"
                )
            if (saved := manifest["config"]) != self.config_digest:
                line = f"config digest: saved {saved}, wanted {self.config_digest}"
                _refuse(path, [line])
            return [str(path), manifest]
        if damaged:
            raise ValueError(
                f"{self.folder}: no checkpoint is intact: {', '.join(damaged)}; delete "
                "that folder to have its part of the run done again"
            )
        return None

    def clear(self):
        """Deletes the folder and every checkpoint in it."""
        if processes.first():
            files.remove(self.folder)
        processes.barrier("cleared")

    def _list(self):
        """[(step, attempt, path)], oldest first."""
        matches = [(_STEP.fullmatch(p.name), p) for p in self.folder.glob("step_*")]
        return sorted((int(m[1]), int(m[2] or 0), p) for m, p in matches if m)


def save_params(folder, params, extra=None):
    """Saves weights as `folder`, replacing others there. Returns their `digest`.

    extra: small and JSON, saved with them. Nothing is written if `folder` already has
    the same weights and the same `extra`.
    """
    folder = pathlib.Path(folder).absolute()
    header = {"config": digest(params), "extra": extra or {}}
    if not processes.broadcast_from_first(lambda: _holds(folder, header)):
        try:
            with (
                _one_error("weights", folder),
                files.shared_folder(folder) as temporary,
            ):
                packing.write(temporary, params, header)
                if processes.first():
                    files.remove(folder)
        except OSError:
            if not _holds(folder, header):  # another process may have been faster
                raise
    return header["config"]


def _holds(folder, header):
    try:
        manifest = files.unseal(folder)
    except files.Damaged:
        return False
    return all(manifest.get(name) == value for name, value in header.items())


def load_params(folder, target):
    """The weights at `folder`, with the types and shardings of `target`, or None.

    Raises ValueError if they are damaged or do not match `target`.
    """
    folder = pathlib.Path(folder).absolute()
    manifest = processes.broadcast_from_first(lambda: _manifest(folder))
    if manifest is None:
        return None
    _compare(folder, manifest, target)
    return packing.read(folder, manifest, target)


def _manifest(folder):
    if not folder.exists():
        return None
    try:
        return files.unseal(folder)
    except files.Damaged as error:
        raise ValueError(
            f"{folder}: the saved weights are damaged ({error}); delete the folder to "
            "have them made again"
        ) from None


def digest(tree):
    """SHA-256, as hex, of the paths, shapes, types and bytes of a pytree's leaves."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        total.update(json.dumps(packing.describe(path, leaf)).encode())
        total.update(packing.to_bytes(leaf))
    return total.hexdigest()


@contextlib.contextmanager
def _one_error(what, folder):
    """Turns failures to write into one OSError; tensorstore's is a long ValueError."""
    logger = logging.getLogger("absl")  # orbax logs the same trace there four times
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except (OSError, ValueError) as error:
        native = re.search(r"os_error_code='(\d+)'", str(error))
        code = int(native[1]) if native else getattr(error, "errno", None)
        if not code:
            raise
        full = code in (errno.ENOSPC, errno.EDQUOT)
        raise OSError(
            code,
            f"cannot save {what} at {folder}: {'the disk is full' if full else error}; "
            "nothing half-written remains and earlier checkpoints are intact: free "
            "some space, or choose another folder",
        ) from None
    finally:
        logger.setLevel(level)


def _compare(folder, manifest, target):
    """Raises ValueError, naming the differences, unless a checkpoint fits `target`."""
    if manifest["format"] != packing.FORMAT:
        raise ValueError(
            f"{folder}: checkpoint format {manifest['format']}, this version reads "
            f"{packing.FORMAT}; use the version that wrote it"
        )
    leaves = jax.tree_util.tree_leaves_with_path(target)
    described = [packing.describe(*leaf) for leaf in leaves]
    saved, wanted = (
        {leaf["path"]: f"{leaf['dtype']}{leaf['shape']}" for leaf in listed}
        for listed in (manifest["leaves"], described)
    )
    differences = [
        f"{path}: saved {saved.get(path, 'nothing')}, "
        f"wanted {wanted.get(path, 'nothing')}"
        for path in saved | wanted
        if saved.get(path) != wanted.get(path)
    ]
    if differences:
        _refuse(folder, differences)


def _refuse(folder, differences):
    if len(differences) > 8:
        differences[8:] = [f"and {len(differences) - 8} more"]
    raise ValueError(
        f"{folder} is of another configuration: {'; '.join(differences)}. Resume "
        "with the flags that made it, or choose another folder for this run"
    )
