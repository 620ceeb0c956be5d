"""Loading and saving LoRA adapters in PEFT's format.

PEFT adapts the modules of the model files, we adapt the layers of our tree; `fused`
converts modules that hold query, key and value together.
"""

import json
import pathlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util

from rlhf_jax import trees
from rlhf_jax.huggingface import (
    adapter_tensors,
    fused,
    names,
    weight_files,
    weights,
    write_config,
)
from rlhf_jax.models import decoder, heads, lora
from rlhf_jax.runtime import files

CONFIG = "adapter_config.json"
# Settings that change the result but do not show in lora_A and lora_B.
_OTHER_KINDS = (
    "use_dora", "lora_bias", "use_qalora", "use_bdlora", "layer_replication",
    "alora_invocation_tokens", "arrow_config", "kasa_config", "target_parameters",
    "trainable_token_indices",
)  # fmt: skip
_OTHER_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga", "mica")


class _Module(NamedTuple):
    """An adapted module of the model files."""

    name: str  # {} stands for the layer
    down: np.ndarray  # [L, inputs, r]
    up: np.ndarray  # [L, r, outputs]


def load(folder, model):
    """(adapters, `lora.Config`) of a PEFT directory, for a model of `huggingface.load`.

    `lora.join(params, adapters, scale=config.scale)` computes what PEFT does. Adapters
    are float32. Layers without one get zeros; scales that differ between modules
    (rank_pattern, alpha_pattern) are multiplied into B. Whole parameters
    (modules_to_save, such as a head) are among the adapters, under their paths. Raises
    ValueError naming what is missing, misshapen or left over.
    """
    folder = pathlib.Path(folder).expanduser()
    described = _read_config(folder)
    tensors = adapter_tensors.read(folder)
    family, shapes = write_config.family(model.config), weights.shapes_of(model)
    reader = adapter_tensors.Reader(folder, described, tensors)
    table, flat, targets, ranks = names.TENSORS[family], {}, [], [1]
    for path in lora.modules(shapes):
        shape = _leaves(shapes)[f"{path}/kernel"].shape
        tensor = table[f"{names.inner(path)}/kernel"]
        pair = reader.module(tensor, shape, model.config.heads)
        if pair is not None:
            flat |= {f"{path}/{lora.A}": pair[0], f"{path}/{lora.B}": pair[1]}
            targets.append(path)
            ranks.append(pair[0].shape[-1])
    for path, leaf in _leaves(shapes).items():
        whole = reader.whole(table.get(names.inner(path)), leaf.shape)
        flat |= {} if whole is None else {path: whole}
    reader.check_all_read(family)
    rank, scale = max(ranks), reader.scale
    alpha = scale * (rank**0.5 if described["use_rslora"] else rank)
    if rank == described["r"]:
        alpha = float(described["lora_alpha"])
    config = lora.Config(rank, alpha, tuple(targets), described["use_rslora"])
    adapters = traverse_util.unflatten_dict(flat, sep="/")
    return jax.tree.map(jnp.asarray, adapters), config


def base(folder):
    """The base model that a PEFT directory names, a path or hub name, or None."""
    return _read_config(pathlib.Path(folder)).get("base_model_name_or_path")


def _read_config(folder):
    if not (folder / CONFIG).is_file():
        raise ValueError(
            f"{folder} is not an adapter directory: it has no {CONFIG}; fetch one from "
            "the hub with `hf download NAME`"
        )
    described = weight_files.read_json(folder / CONFIG)
    where = f"{folder}/{CONFIG}"
    if described.get("peft_type") != "LORA":
        kind = described.get("peft_type")
        raise ValueError(f"{where}: peft_type {kind!r} is not supported, only 'LORA'")
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


def save(folder, model, adapters, config, *, base=None):
    """Writes adapters as a directory that PEFT opens on the same base model.

    Args: model: a decoder or a classifier; adapters: from `lora.init`, with a head if
    one was trained; config: their `lora.Config`; base: name or path of the base model,
    for the record. The directory is written atomically. It replaces older adapters;
    anything else in its place raises ValueError.
    """
    folder = pathlib.Path(folder)
    if not isinstance(model, decoder.Decoder | heads.Classifier):
        kind = type(model).__name__
        raise ValueError(f"{kind} has no file format: save adapters of a Decoder")
    if folder.exists() and not _replaceable(folder):
        raise ValueError(
            f"{folder} holds something other than adapters: name a new path"
        )
    family = write_config.family(model.config)
    modules, whole = _modules(model, adapters, family)
    tensors = dict(whole)
    for module in modules:
        for layer, (down, up) in enumerate(zip(module.down, module.up, strict=True)):
            name = adapter_tensors.PREFIX + module.name.format(layer)
            tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(down.T)
            tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(up.T)
    described = _describe(model, modules, whole, config, family, base)
    with files.folder(folder) as fresh:
        safetensors.numpy.save_file(
            tensors, fresh / adapter_tensors.WEIGHTS, {"format": "pt"}
        )
        text = json.dumps(described, indent=2, sort_keys=True)
        (fresh / CONFIG).write_text(text + "\n", encoding="utf-8")
        files.remove(folder)


def _replaceable(folder):
    known = (folder / CONFIG).is_file()
    return folder.is_dir() and (known or not any(folder.iterdir()))


def _modules(model, adapters, family):
    """(modules of the files, {name: tensor} of whole parameters)."""
    table, count = names.TENSORS[family], model.config.heads
    parts, whole = {}, {}
    for path, leaf in _leaves(adapters).items():
        above, _, last = path.rpartition("/")
        array = np.asarray(leaf, np.float32)
        if last in (lora.A, lora.B):
            tensor = table[f"{names.inner(above)}/kernel"]
            name = tensor.name.removesuffix(".weight")
            parts.setdefault(name, {}).setdefault(tensor.form, {})[last] = array
        elif names.inner(path) not in table or "{}" in table[names.inner(path)].name:
            raise ValueError(f"adapters of {family} cannot hold the parameter {path}")
        else:
            tensor = table[names.inner(path)]
            array = array.T if tensor.form == "transposed" else array
            if tensor.name != names.OPTIONAL or array.any():
                whole[adapter_tensors.PREFIX + tensor.name] = np.ascontiguousarray(
                    array
                )
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
    others = {t: ranks[n] for n in ranks if ranks[n] != common for t in targets[n]}
    saved = sorted(
        {n.removeprefix(adapter_tensors.PREFIX).rpartition(".")[0] for n in whole}
    )
    task = "CAUSAL_LM" if isinstance(model, decoder.Decoder) else None
    return {
        "peft_type": "LORA",
        "task_type": "SEQ_CLS" if "score" in saved else task,
        "base_model_name_or_path": base,
        "r": common,
        "lora_alpha": _alpha(config, common),
        "use_rslora": config.rslora,
        "rank_pattern": others,
        "alpha_pattern": {t: _alpha(config, rank) for t, rank in others.items()},
        "target_modules": sorted(t for each in targets.values() for t in each),
        "modules_to_save": saved or None,
        "fan_in_fan_out": family == "gpt2",
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _alpha(config, rank):
    """The α for a rank that gives the configuration's scale."""
    alpha = config.scale * (rank**0.5 if config.rslora else rank)
    if rank == config.rank and config.alpha is not None:
        alpha = config.alpha  # as it was given, without a rounding
    return int(alpha) if alpha == int(alpha) else alpha


def _targets(name, modules, family):
    """The shortest suffix of a module's name that identifies it in the family.

    If there is none, the names of the module in every layer.
    """
    others = {t.name.rpartition(".")[0] for t in names.TENSORS[family].values()}
    others = {f".{other}" for other in others - {name}}
    words = name.rpartition("{}.")[2].split(".")
    for length in range(1, len(words) + 1):
        suffix = ".".join(words[-length:])
        if not any(other.endswith(f".{suffix}") for other in others):
            return [suffix]
    depth = next(len(module.down) for module in modules if module.name == name)
    return [name.format(layer) for layer in range(depth)]


def _leaves(tree):
    return dict(zip(trees.paths(tree), jax.tree.leaves(tree), strict=True))
