"""Adapters in and out as PEFT has them: adapter_config.json and a file of tensors.

PEFT adapts the modules of the files, we the layers of our tree: `huggingface_fused`
says what becomes of query, key and value where they are one module.
"""

import json
import pathlib
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from rlhf_jax import trees
from rlhf_jax.huggingface import fused, names, write_config
from rlhf_jax.models import decoder, heads, lora
from rlhf_jax.runtime import files

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_LISTED = 8  # faults that a message names
# What changes the answer in ways that lora_A and lora_B do not tell.
_OTHER_KINDS = (
    "use_dora", "lora_bias", "use_qalora", "use_bdlora", "layer_replication",
    "alora_invocation_tokens", "arrow_config", "kasa_config", "target_parameters",
    "trainable_token_indices",
)  # fmt: skip
_OTHER_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")


class _Module(NamedTuple):
    """A module of the files: {} in its name is the layer."""

    name: str
    down: np.ndarray  # [L, inputs, r]
    up: np.ndarray  # [L, r, outputs]


# In


def load(folder, model):
    """(adapters, `lora.Config`) of a PEFT directory, for a model as `huggingface` loads
    it: `lora.join(params, adapters, scale=config.scale)` is what PEFT computes with.

    float32. Layers without an adapter get zeros, and strengths that differ from module
    to module (rank_pattern, alpha_pattern) are multiplied into B. What was trained
    whole (modules_to_save: a head) is among the adapters under its path. Raises
    ValueError naming what is missing, misshapen or left over.
    """
    folder = pathlib.Path(folder).expanduser()
    described = _read_config(folder)
    tensors = _read_tensors(folder)
    family, shapes = write_config.family(model.config), _shapes(model)
    file = _File(folder, described, tensors)
    table, flat, targets, ranks = names.TENSORS[family], {}, [], [1]
    for path in lora.modules(shapes):
        shape = _leaves(shapes)[f"{path}/kernel"].shape
        tensor = table[f"{_inner(path)}/kernel"]
        found = file.module(tensor, shape, model.config.heads)
        if found is not None:
            flat |= {f"{path}/{lora.A}": found[0], f"{path}/{lora.B}": found[1]}
            targets.append(path)
            ranks.append(found[0].shape[-1])
    for path, leaf in _leaves(shapes).items():
        whole = file.whole(table.get(_inner(path)), leaf.shape)
        flat |= {} if whole is None else {path: whole}
    file.check_all_read(family)
    rank, scale = max(ranks), file.scale
    alpha = scale * (rank**0.5 if described["use_rslora"] else rank)
    if rank == described["r"]:
        alpha = float(described["lora_alpha"])
    config = lora.Config(rank, alpha, tuple(targets), described["use_rslora"])
    adapters = traverse_util.unflatten_dict(flat, sep="/")
    return jax.tree.map(jnp.asarray, adapters), config


class _File:
    """The content of a directory, and what of it has been read."""

    def __init__(self, folder, described, tensors):
        self._folder, self._described, self._tensors = folder, described, tensors
        self._read = set()
        self.scale = self._strength(described["r"], described["lora_alpha"])

    def module(self, tensor, shape, heads):
        """(A, B) of the part that a tensor names, layers stacked; None without any.

        shape: of our kernel, [L, inputs, outputs].
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
                own = pair[0].shape[-1]
                down[layer, :, :own], up[layer, :own] = pair
        down, up = fused.take(down, up, tensor.form, heads)
        return (down, up) if down.shape[-1] else None

    def _layer(self, name, inputs, outputs):
        keys = [f"{names.short(name)}.lora_{x}.weight" for x in "AB"]
        there = [key in self._tensors for key in keys]
        if not any(there):
            return None
        rank, scale = self._scale(name)
        shapes = ((rank, inputs), (outputs, rank))
        for key, known, shape in zip(keys, there, shapes, strict=True):
            if not known:
                raise ValueError(f"{self._folder}/{WEIGHTS} lacks {key}")
            self._check_shape(key, shape)
        self._read.update(keys)
        down, up = (self._tensors[key].T for key in keys)
        return down, up * np.float32(scale / self.scale)

    def _scale(self, name):
        """(rank, α/r or α/√r) of a module, as PEFT finds it by its patterns."""
        told = self._described
        rank = _by_pattern(told["rank_pattern"], name, told["r"])
        alpha = _by_pattern(told["alpha_pattern"], name, told["lora_alpha"])
        return rank, self._strength(rank, alpha)

    def _strength(self, rank, alpha):
        return alpha / (rank**0.5 if self._described["use_rslora"] else rank)

    def whole(self, tensor, shape):
        """A parameter that was trained whole; None where it was not."""
        key = tensor and names.short(tensor.name)
        if key not in self._tensors or "{}" in key:
            return None
        turned = tensor.form == "transposed"
        self._check_shape(key, shape[::-1] if turned else shape)
        self._read.add(key)
        return self._tensors[key].T if turned else self._tensors[key]

    def _check_shape(self, key, shape):
        found = self._tensors[key].shape
        if found != tuple(shape):
            raise ValueError(
                f"{self._folder}/{WEIGHTS}: {key} is {found}, not {tuple(shape)}: it "
                "was made for another model or rank"
            )

    def check_all_read(self, family):
        """Raises ValueError when something was left over, or nothing was there."""
        left = sorted(set(self._tensors) - self._read)
        if not left and self._read:
            return
        shown = ", ".join(left[:_LISTED]) or "nothing is in it"
        more = f" and {len(left) - _LISTED} more" if len(left) > _LISTED else ""
        raise ValueError(
            f"{self._folder}/{WEIGHTS}: {shown}{more}: no layer of this {family} model "
            f"has that name; adapters may be on {', '.join(_known_targets(family))}"
        )


def _read_config(folder):
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder} is no adapter directory: it has no {CONFIG}; one on the hub is "
            "fetched by `hf download NAME`"
        )
    described = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    where = f"{folder}/{CONFIG}"
    if described.get("peft_type") != "LORA":
        kind = described.get("peft_type")
        raise ValueError(f"{where}: peft_type {kind!r} is not read, only 'LORA' is")
    for name in _OTHER_KINDS:
        if described.get(name):
            raise ValueError(
                f"{where} has {name}={described[name]!r}: not supported; merge the "
                "adapters in PEFT (merge_and_unload) and load the merged model"
            )
    start = described.get("init_lora_weights", True)
    if str(start).startswith(_OTHER_BASES):
        raise ValueError(
            f"{where} has init_lora_weights={start!r}, which changes the base weights: "
            "save it converted (PEFT's path_initial_model_for_weight_conversion)"
        )
    plain = {"rank_pattern": {}, "alpha_pattern": {}, "use_rslora": False}
    described = {**described, **{k: described.get(k) or v for k, v in plain.items()}}
    for name in ("r", "lora_alpha"):
        if not described.get(name, 0) > 0:
            raise ValueError(
                f"{where} has {name}={described.get(name)!r}: more than 0 is needed"
            )
    return described


def _read_tensors(folder):
    if not (folder / WEIGHTS).is_file():
        raise ValueError(
            f"{folder} has no {WEIGHTS}: save it once more with PEFT's "
            "save_pretrained, which writes safetensors"
        )
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    return {
        names.short(name.removeprefix(_PREFIX)): tensor.astype(np.float32)
        for name, tensor in tensors.items()
    }


def _by_pattern(patterns, name, default):
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


# Out


def save(folder, model, adapters, config, *, base=None):
    """Write adapters as a directory that PEFT opens on the same base model.

    Args: model: a decoder or a classifier; adapters: of `lora.init` and training, with
    a head beside them where one was trained; config: their `lora.Config`; base: name or
    path of the base model, for the record. The directory appears whole or not at all;
    older adapters in its place are replaced, anything else refused.
    """
    folder = pathlib.Path(folder)
    if not isinstance(model, decoder.Decoder | heads.Classifier):
        kind = type(model).__name__
        raise ValueError(f"{kind} has no form on disk: save adapters of a Decoder")
    if folder.exists() and not _replaceable(folder):
        raise ValueError(
            f"{folder} holds something other than adapters: name a new path"
        )
    family = write_config.family(model.config)
    modules, whole = _modules(model, adapters, family)
    tensors = dict(whole)
    for module in modules:
        for layer, (down, up) in enumerate(zip(module.down, module.up, strict=True)):
            name = _PREFIX + module.name.format(layer)
            tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(down.T)
            tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(up.T)
    described = _describe(model, modules, whole, config, family, base)
    with files.folder(folder) as fresh:
        safetensors.numpy.save_file(tensors, fresh / WEIGHTS, {"format": "pt"})
        text = json.dumps(described, indent=2, sort_keys=True)
        (fresh / CONFIG).write_text(text + "\n", encoding="utf-8")
        files.remove(folder)


def _replaceable(folder):
    known = (folder / CONFIG).is_file()
    return folder.is_dir() and (known or not any(folder.iterdir()))


def _modules(model, adapters, family):
    """(modules of the files, {name: tensor} of what was trained whole)."""
    table, count = names.TENSORS[family], model.config.heads
    parts, whole = {}, {}
    for path, leaf in _leaves(adapters).items():
        above, _, last = path.rpartition("/")
        array = np.asarray(leaf, np.float32)
        if last in (lora.A, lora.B):
            tensor = table[f"{_inner(above)}/kernel"]
            name = tensor.name.removesuffix(".weight")
            parts.setdefault(name, {}).setdefault(tensor.form, {})[last] = array
        elif _inner(path) not in table or "{}" in table[_inner(path)].name:
            raise ValueError(f"{path} has no place among the adapters of {family}")
        else:
            tensor = table[_inner(path)]
            array = array.T if tensor.form == "transposed" else array
            if tensor.name != names.OPTIONAL or array.any():
                whole[_PREFIX + tensor.name] = np.ascontiguousarray(array)
    made = []
    for name, forms in parts.items():
        pairs = {form: (part[lora.A], part[lora.B]) for form, part in forms.items()}
        made.append(_Module(name, *fused.join(pairs, count)))
    return made, whole


def _describe(model, modules, whole, config, family, base):
    """The content of adapter_config.json."""
    ranks = {module.name: module.down.shape[-1] for module in modules}
    common = config.rank if config.rank in ranks.values() else max(ranks.values())
    targets = {name: _targets(name, modules, family) for name in ranks}
    odd = {t: ranks[n] for n in ranks if ranks[n] != common for t in targets[n]}
    saved = sorted({n.removeprefix(_PREFIX).rpartition(".")[0] for n in whole})
    task = "CAUSAL_LM" if isinstance(model, decoder.Decoder) else None
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if saved == ["score"] else task,
        "base_model_name_or_path": base,
        "r": common,
        "lora_alpha": _alpha(config, common),
        "use_rslora": config.rslora,
        "rank_pattern": odd,
        "alpha_pattern": {t: _alpha(config, rank) for t, rank in odd.items()},
        "target_modules": sorted(t for each in targets.values() for t in each),
        "modules_to_save": saved or None,
        "fan_in_fan_out": family == "gpt2",
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _alpha(config, rank):
    """α of a rank such that the scale is the configuration's."""
    alpha = config.scale * (rank**0.5 if config.rslora else rank)
    alpha = config.alpha if rank == config.rank else alpha
    return int(alpha) if alpha == int(alpha) else alpha


def _targets(name, modules, family):
    """The shortest end of a module's name that no other module of the family has; all
    of its names where every end is another's too."""
    others = {t.name.rpartition(".")[0] for t in names.TENSORS[family].values()}
    others = {f".{other}" for other in others - {name}}
    words = name.rpartition("{}.")[2].split(".")
    for length in range(1, len(words) + 1):
        end = ".".join(words[-length:])
        if not any(other.endswith(f".{end}") for other in others):
            return [end]
    depth = next(len(module.down) for module in modules if module.name == name)
    return [name.format(layer) for layer in range(depth)]


def _known_targets(family):
    """PEFT's names for what can be adapted in a family."""
    table = names.TENSORS[family]
    stacked = [path for path in table if re.fullmatch(r"layers/.*/kernel", path)]
    found = (table[path].name.rpartition("{}.")[2] for path in stacked)
    return dict.fromkeys(name.removesuffix(".weight") for name in found)


def _inner(path):
    return path.removeprefix("trunk/")


def _leaves(tree):
    return dict(zip(trees.paths(tree), jax.tree.leaves(tree), strict=True))


def _shapes(model):
    """The parameter tree as shapes and types, without computing anything."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    return jax.eval_shape(model.init, jax.random.key(0), tokens)["params"]
