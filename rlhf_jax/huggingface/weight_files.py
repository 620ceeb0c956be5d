"""The files of a model directory, opened and judged before anything is computed.

Each fault is one line that names the file, what is wrong with it, and what to do.
"""

import contextlib
import json
import pathlib
from typing import Any, NamedTuple

import numpy as np
import safetensors

from rlhf_jax.huggingface import names

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")
FLOATS_ARE_NEEDED = (
    "quantized and integer weights are not trained; give the model in float32, "
    "bfloat16 or float16 (in transformers: dequantize(), then save_pretrained)"
)
_POINTER = b"version https://git-lfs"
_OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx")


def read_json(file):
    """A JSON object in a file. Raises ValueError for anything else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{file} cannot be read as JSON ({error}): download or copy it again"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(
            f"{file} holds {type(content).__name__}, not an object with named entries: "
            "download or copy it again"
        )
    return content


def listed(folder):
    """The weight files of a directory, as its index lists them, or the only one.

    Raises ValueError for a broken index, a file that is missing, and for a directory
    with weights in another format or none.
    """
    index = folder / INDEX
    if not index.is_file():
        if (folder / WEIGHTS).is_file():
            return [WEIGHTS]
        raise ValueError(_without_weights(folder))
    where = read_json(index).get("weight_map")
    if not isinstance(where, dict) or not all(
        isinstance(file, str) for file in where.values()
    ):
        raise ValueError(
            f"{index} has no weight_map from tensors to files: download or copy it "
            "again"
        )
    for file in sorted(set(where.values())):
        if not (folder / file).is_file():
            raise ValueError(
                f"{folder} lacks {file}, which {INDEX} names: download or copy it there"
            )
    return sorted(set(where.values()))


def _without_weights(folder):
    others = sorted(file.name for kind in _OTHER_FORMATS for file in folder.glob(kind))
    only = f", only {', '.join(others[:4])}, which is not read here" * bool(others)
    return (
        f"{folder} has no {WEIGHTS}{only}: save the model again with transformers' "
        "save_pretrained, which writes safetensors"
    )


class Stored(NamedTuple):
    """A tensor in an open file."""

    content: Any  # the open file
    name: str  # in it
    file: pathlib.Path

    @property
    def shape(self):
        """A tuple; only the header is read."""
        return tuple(self.content.get_slice(self.name).get_shape())

    @property
    def dtype(self):
        """As safetensors spells it: "F32", "BF16", "I8"."""
        return self.content.get_slice(self.name).get_dtype()

    @property
    def is_float(self):
        """Whether it is of a type that is trained."""
        return self.dtype in _FLOATS

    def read(self):
        """The tensor as a numpy array."""
        return self.content.get_tensor(self.name)

    def check_finite(self, array):
        """Raises ValueError if what was read, perhaps cast, has NaN or inf."""
        if not finite(array):
            bad = np.count_nonzero(~np.isfinite(array.astype(np.float32)))
            raise ValueError(
                f"{self.file}: {self.name} has {bad} of {array.size} numbers that are "
                "NaN or infinite: the run that wrote it diverged, or the file is "
                "damaged; take an earlier checkpoint, or download it again"
            )


def finite(array):
    """Whether every number is finite.

    A sum is, unless it overflows, exactly if all numbers are: one pass at the speed of
    memory.
    """
    if array.dtype.name == "bfloat16":  # its sums are slow
        return ((array.view(np.uint16) & 0x7F80) != 0x7F80).all()
    with np.errstate(all="ignore"):
        return np.isfinite(array.sum()) or np.isfinite(array).all()


@contextlib.contextmanager
def opened(folder):
    """Yields {short name: `Stored`} of every tensor in a model directory."""
    tensors = {}
    with contextlib.ExitStack() as stack:
        for file in listed(folder):
            tensors |= _tensors(stack, folder / file)
        yield tensors


def read(file):
    """{short name: float array} of one file. Raises ValueError for other tensors."""
    with contextlib.ExitStack() as stack:
        tensors = _tensors(stack, file)
        for tensor in tensors.values():
            if not tensor.is_float:
                raise ValueError(
                    f"{file}: {tensor.name} is {tensor.dtype}: {FLOATS_ARE_NEEDED}"
                )
        arrays = {name: tensor.read() for name, tensor in tensors.items()}
        for name, tensor in tensors.items():
            tensor.check_finite(arrays[name])
        return arrays


def _tensors(stack, file):
    content = stack.enter_context(_open(file))
    return {names.short(x): Stored(content, x, file) for x in content.keys()}


def _open(file):
    """A safetensors file. Raises ValueError for a pointer, and for a damaged one."""
    try:
        with open(file, "rb") as beginning:
            if beginning.read(len(_POINTER)) == _POINTER:
                raise ValueError(
                    f"{file} is a git-lfs pointer in place of the weights: fetch them "
                    "with `git lfs pull` or `hf download`"
                )
        return safetensors.safe_open(file, "np")
    except (safetensors.SafetensorError, OSError) as error:
        size = file.stat().st_size
        raise ValueError(
            f"{file} ({size} bytes) is damaged or no safetensors file "
            f"({str(error).strip()}): download or copy it again"
        ) from None
