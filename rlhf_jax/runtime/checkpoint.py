"""Training state on disk, written by orbax and vouched for by a manifest.

    folder/step_00000040/state/          arrays, as orbax writes them
    folder/step_00000040/manifest.json   format, config digest, step, extra, every
                                         leaf (path, shape, dtype), every file (digest)

orbax spends about two milliseconds a leaf, and a training state has hundreds of small
ones: they travel as one array of bytes, at offsets that the manifest tells; a leaf of
`ALONE` bytes or more stands on its own, sharded as it is. A step appears by one rename
once all of it is on the disk, and is believed only while every digest agrees: orbax
restores flipped bits without a word.

Of many hosts each writes and reads the parts of large leaves that it holds, in a folder
that all of them see; the first one does the rest. What is saved knows no layout: it is
restored to any other, on any number of hosts.
"""

import contextlib
import errno
import hashlib
import json
import logging
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from rlhf_jax import trees
from rlhf_jax.runtime import files, processes, shared

FORMAT = 1
ALONE = 4 * 1024**2  # bytes
_STEP = re.compile(r"step_(\d+)(?:\.(\d+))?")
_log = logging.getLogger(__name__)


class Checkpointer:
    """The checkpoints of one run.

    Args: folder: where they stand, made when missing; what a killed writer left there
    is removed; keep: how many are kept; config_digest: names the configuration, and a
    checkpoint of another one is refused; report: is told, in one line, that a damaged
    checkpoint was passed over.
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
        return sorted({step for step, _, _ in self._found()})

    def save(self, step, state, extra=None):
        """Writes a checkpoint, then deletes those that it makes superfluous.

        Args: step: int; state: a pytree of arrays, typed keys and numbers; extra:
        small and JSON, such as the position in the data. Kept are the newest `keep`;
        what stands at `step` or later is of a course that this one takes the place
        of. Raises OSError when the disk is full: nothing half-written remains then.
        """
        found = self._found() if processes.first() else []
        attempts = [attempt for other, attempt, _ in found if other == step]
        name = f"step_{step:08d}" + (f".{max(attempts) + 1}" if attempts else "")
        header = {"config": self.config_digest, "step": int(step), "extra": extra or {}}
        with _one_error(f"step {step}", self.folder):
            with shared.folder(self.folder / name) as temporary:
                _write(temporary, state, header)
        earlier = [path for other, _, path in found if other < step]
        kept = earlier[max(len(earlier) + 1 - self.keep, 0) :]
        for _, _, path in found:
            if path not in kept:
                files.remove(path)

    def restore(self, target):
        """The newest intact checkpoint: (step, state, extra), or None without any.

        target: a pytree like the state, of arrays or of `jax.ShapeDtypeStruct` with
        shardings; what is restored has its structure, types and shardings. Raises
        ValueError when the checkpoint is of another configuration, or all are damaged.
        """
        newest = processes.told(lambda: self._newest(self.report))
        if newest is None:
            return None
        path, manifest = pathlib.Path(newest[0]), newest[1]
        _compare(path, manifest, target)
        return manifest["step"], _read(path, manifest, target), manifest["extra"]

    def peek(self):
        """(step, extra) of what `restore` would choose, or None without any."""
        newest = processes.told(lambda: self._newest(lambda line: None))
        return None if newest is None else (newest[1]["step"], newest[1]["extra"])

    def _newest(self, report):
        """[path, manifest] of the newest intact checkpoint, None without any."""
        damaged = []
        for _, _, path in reversed(self._found()):
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
        """Removes the folder and every checkpoint in it."""
        if processes.first():
            files.remove(self.folder)
        processes.wait("cleared")

    def _found(self):
        """[(step, attempt, path)], oldest first."""
        matches = [(_STEP.fullmatch(p.name), p) for p in self.folder.glob("step_*")]
        return sorted((int(m[1]), int(m[2] or 0), p) for m, p in matches if m)


def save_params(folder, params, extra=None):
    """Puts weights at `folder`, in the place of what is there unless it is the same.

    extra: small and JSON, kept beside them. Returns the `digest` of the weights.
    """
    folder = pathlib.Path(folder).absolute()
    header = {"config": digest(params), "extra": extra or {}}
    if not processes.told(lambda: _holds(folder, header)):
        try:
            with _one_error("weights", folder), shared.folder(folder) as temporary:
                _write(temporary, params, header)
                if processes.first():
                    files.remove(folder)
        except OSError:
            if not _holds(folder, header):  # as when another process was faster
                raise
    return header["config"]


def _holds(folder, header):
    try:
        manifest = files.unseal(folder)
    except files.Damaged:
        return False
    return all(manifest.get(name) == value for name, value in header.items())


def load_params(folder, target):
    """The weights at `folder`, in the types and shardings of `target`; None without.

    Raises ValueError when they are damaged, or not like `target`.
    """
    folder = pathlib.Path(folder).absolute()
    manifest = processes.told(lambda: _manifest(folder))
    if manifest is None:
        return None
    _compare(folder, manifest, target)
    return _read(folder, manifest, target)


def _manifest(folder):
    if not folder.exists():
        return None
    try:
        return files.unseal(folder)
    except files.Damaged as error:
        raise ValueError(
            f"{folder}: the saved weights are damaged ({error}); delete the folder and "
            "have them made again"
        ) from None


def digest(tree):
    """SHA-256, as hex, of the paths, shapes, types and bytes of a pytree's leaves."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        total.update(json.dumps(_describe(path, leaf)).encode())
        total.update(_bytes(processes.values(_data(leaf))))
    return total.hexdigest()


@contextlib.contextmanager
def _one_error(what, folder):
    """Turns a disk's refusal into one OSError; tensorstore's is a long ValueError."""
    logger = logging.getLogger("absl")  # where orbax logs the same trace four times
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
    """Raises ValueError naming what sets a checkpoint apart from what is wanted."""
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"{folder}: checkpoint format {manifest['format']}, this version reads "
            f"{FORMAT}; use the version that wrote it"
        )
    saved = {leaf["path"]: _kind(leaf) for leaf in manifest["leaves"]}
    leaves = jax.tree_util.tree_leaves_with_path(target)
    wanted = {leaf["path"]: _kind(leaf) for leaf in (_describe(*x) for x in leaves)}
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


def _kind(description):
    return f"{description['dtype']}{description['shape']}"


def _describe(path, leaf):
    """What the manifest says about a leaf, wherever it is held."""
    name = trees.path_name(path)
    leaf = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
    if isinstance(leaf.dtype, np.dtype) and leaf.dtype.kind in "OSUMm":
        raise ValueError(
            f"{name}: a leaf of type {leaf.dtype} cannot be saved as an array; text "
            "and the like belong into `extra`"
        )
    return {"path": name, "shape": list(leaf.shape), "dtype": str(leaf.dtype)}


def _is_key(leaf):
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf):
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _bytes(value):
    return np.ascontiguousarray(value).reshape(-1).view(np.uint8)


def _alone(leaf):
    """Whether a leaf is saved as an array of its own."""
    if _is_key(leaf) or not isinstance(leaf, jax.Array):
        return False
    local = leaf.is_fully_addressable or leaf.is_fully_replicated
    return leaf.nbytes >= ALONE or not local


def _pack(tree):
    """({"packed": uint8 [n], index of a leaf: the leaf, ...}, manifest of leaves)."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    entries = [_describe(path, leaf) for path, leaf in leaves]
    arrays = {str(i): leaf for i, (_, leaf) in enumerate(leaves) if _alone(leaf)}
    small = [i for i in range(len(leaves)) if str(i) not in arrays]
    parts, offset = [np.zeros(1, np.uint8)], 1  # orbax refuses an empty array
    values = jax.device_get([_data(leaves[i][1]) for i in small])
    for i, value in zip(small, values, strict=True):
        parts.append(_bytes(value))
        entries[i] |= {"offset": offset, "bytes": parts[-1].size}
        offset += parts[-1].size
        if _is_key(leaves[i][1]):
            entries[i]["key"] = str(jax.random.key_impl(leaves[i][1]))
    return arrays | {"packed": np.concatenate(parts)}, entries


def _orbax():
    """Without OCDBT: for few arrays that takes half the time, and one folder each."""
    return ocp.Checkpointer(ocp.PyTreeCheckpointHandler(use_ocdbt=False))


def _write(folder, tree, header):
    """Fills the empty `folder` with a pytree and its manifest."""
    arrays, leaves = _pack(tree)
    with processes.all_or_none():
        _orbax().save(folder / "state", args=ocp.args.PyTreeSave(arrays))
    body = {"format": FORMAT, **header, "leaves": leaves}
    processes.told(lambda: files.seal(folder, body))


def _read(folder, manifest, target):
    """The pytree that `_write` put into `folder`, placed like `target`."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(target)
    entries = {
        leaf["path"]: (str(i), leaf) for i, leaf in enumerate(manifest["leaves"])
    }
    entries = [entries[trees.path_name(path)] for path, _ in leaves]
    how = {"packed": ocp.RestoreArgs(restore_type=np.ndarray)}
    for (name, entry), (_, leaf) in zip(entries, leaves, strict=True):
        if "offset" not in entry:
            how[name] = ocp.ArrayRestoreArgs(sharding=_sharding(leaf))
    args = ocp.args.PyTreeRestore(restore_args=how)
    arrays = _orbax().restore(folder / "state", args=args)
    packed = arrays.pop("packed")
    values = [
        _like(leaf, arrays[name] if name in arrays else _unpack(packed, entry))
        for (name, entry), (_, leaf) in zip(entries, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, values)


def _unpack(packed, entry):
    """One leaf out of the packed bytes, in memory of its own."""
    value = packed[entry["offset"] : entry["offset"] + entry["bytes"]].copy()
    if "key" in entry:
        data = value.view(np.uint32).reshape(*entry["shape"], -1)
        return jax.random.wrap_key_data(data, impl=entry["key"])
    return value.view(jnp.dtype(entry["dtype"])).reshape(entry["shape"])


def _sharding(leaf):
    default = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return getattr(leaf, "sharding", None) or default


def _like(leaf, value):
    """A restored value as the kind of thing, and in the place, that `leaf` is."""
    if isinstance(leaf, np.ndarray):
        return np.asarray(value)
    if not hasattr(leaf, "sharding"):  # a number, Python's or numpy's
        return type(leaf)(np.asarray(value).item())
    if getattr(leaf, "weak_type", False) and value.ndim == 0:
        value = value.item()  # what is weakly typed decides the type of later results
    sharding = _sharding(leaf)
    if getattr(value, "sharding", None) == sharding:
        return value
    return processes.put(value, sharding)
