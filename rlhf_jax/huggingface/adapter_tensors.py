"""Reading the tensors of a PEFT adapter file, module by module, each accounted for."""

import re

import numpy as np

from rlhf_jax.huggingface import fused, names, weight_files, weights

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."


def read(folder):
    """{name: float32 array} of a directory's adapter file, names without prefixes.

    Raises ValueError if there is no such file.
    """
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder} has no {WEIGHTS}: save the adapters again with PEFT's "
            "save_pretrained, which writes safetensors"
        )
    return {
        names.short(name.removeprefix(PREFIX)): tensor.astype(np.float32)
        for name, tensor in weight_files.read(folder / WEIGHTS).items()
    }


class Reader:
    """An adapter file, and which of its tensors have been read.

    Args: folder, for messages; described: the content of adapter_config.json; tensors
    from `read`.
    """

    def __init__(self, folder, described, tensors):
        self._folder, self._described, self._tensors = folder, described, tensors
        self._read = set()
        self.scale = self._scale(described["r"], described["lora_alpha"])

    def module(self, tensor, shape, heads):
        """(A, B) of a `names.Tensor`, layers stacked, or None without an adapter.

        shape: [L, inputs, outputs] of our kernel.
        """
        depth, inputs, outputs = shape
        outputs *= fused.parts(tensor.form)
        name = tensor.name.removesuffix(".weight")
        layers = [
            self._layer(name.format(layer), inputs, outputs) for layer in range(depth)
        ]
        rank = max((down.shape[-1] for down, _ in filter(None, layers)), default=0)
        down = np.zeros((depth, inputs, rank), np.float32)
        up = np.zeros((depth, rank, outputs), np.float32)
        for layer, pair in enumerate(layers):
            if pair is not None:
                size = pair[0].shape[-1]
                down[layer, :, :size], up[layer, :size] = pair
        down, up = fused.take(down, up, tensor.form, heads)
        return (down, up) if down.shape[-1] else None

    def _layer(self, name, inputs, outputs):
        keys = [f"{names.short(name)}.lora_{x}.weight" for x in "AB"]
        present = [key in self._tensors for key in keys]
        if not any(present):
            return None
        config = self._described  # PEFT's patterns of modules come before its defaults
        rank = _by_pattern(config["rank_pattern"], name, config["r"])
        alpha = _by_pattern(config["alpha_pattern"], name, config["lora_alpha"])
        scale = self._scale(rank, alpha)
        shapes = ((rank, inputs), (outputs, rank))
        for key, known, shape in zip(keys, present, shapes, strict=True):
            if not known:
                raise ValueError(f"{self._folder}/{WEIGHTS} lacks {key}")
            self._check_shape(key, shape)
        self._read.update(keys)
        down, up = (self._tensors[key].T for key in keys)
        return down, up * np.float32(scale / self.scale)

    def _scale(self, rank, alpha):
        """α/r, or α/√r of rank-stabilised adapters."""
        return alpha / (rank**0.5 if self._described["use_rslora"] else rank)

    def whole(self, tensor, shape):
        """A parameter that was trained as a whole, or None if it was not."""
        key = tensor and names.short(tensor.name)
        if key not in self._tensors or "{}" in key:
            return None
        transposed = tensor.form == "transposed"
        self._check_shape(key, shape[::-1] if transposed else shape)
        self._read.add(key)
        return self._tensors[key].T if transposed else self._tensors[key]

    def _check_shape(self, key, shape):
        actual = self._tensors[key].shape
        if actual != tuple(shape):
            raise ValueError(
                f"{self._folder}/{WEIGHTS}: {key} is {actual}, not {tuple(shape)}: it "
                "was made for another model or rank"
            )

    def check_all_read(self, family):
        """Raises ValueError if a tensor was not read, or if there was none at all."""
        left = sorted(set(self._tensors) - self._read)
        if not left and self._read:
            return
        shown = weights.shortened(left) or "it is empty"
        raise ValueError(
            f"{self._folder}/{WEIGHTS}: {shown}: no layer of this {family} model has "
            f"that name; adapters may be on {', '.join(known_targets(family))}"
        )


def known_targets(family):
    """PEFT's names of the modules that can be adapted in a family."""
    table = names.TENSORS[family]
    stacked = [path for path in table if re.fullmatch(r"layers/.*/kernel", path)]
    suffixes = (table[path].name.rpartition("{}.")[2] for path in stacked)
    return dict.fromkeys(name.removesuffix(".weight") for name in suffixes)


def _by_pattern(patterns, name, default):
    matches = (x for x in patterns if re.match(rf"(.*\.)?({x})$", name))
    return patterns.get(next(matches, None), default)
