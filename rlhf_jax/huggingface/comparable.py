"""Two model directories whose weights can be averaged: checked before any are read.

`after` was trained from `before`: a directory of its own, or a PEFT adapter on top.
Errors name models by the flags that experiments have for them.
"""

import dataclasses
import pathlib
from typing import Any, NamedTuple

from rlhf_jax.huggingface import adapters, directories, weight_files, weights
from rlhf_jax.models import decoder, lora

# Fields of a configuration that may differ: how far a context reaches, how to compute.
_FREE = ("max_length", "dtype", "remat", "attention")
_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


class Pair(NamedTuple):
    """Two models of one shape."""

    model: decoder.Decoder  # applies both; its context is the shorter one
    before: pathlib.Path  # directories
    after: pathlib.Path
    adapter: tuple | None  # (adapters, their `lora.Config`) where `after` is one
    described: tuple[dict, dict]  # config.json of each; an adapter has its base's
    tokenizer: Any  # that of `after`, unless an adapter has none
    notes: tuple[str, ...]  # differences that do not matter to weights

    @property
    def dtype(self):
        """What the weights of `after` are stored in, by its config.json."""
        described = self.described[1]
        return described.get("dtype") or described.get("torch_dtype") or "float32"


def read(before, after, *, dtype="float32"):
    """The `Pair` of two directories or hub names; of weights only headers are read.

    Args: dtype: of compute and of parameters in memory.

    Raises ValueError, one line naming both sides, where families, shapes, vocabularies,
    tokenizers or tensors differ, for a classifier, and for an adapter that does not
    fit.
    """
    folders = [directories.resolve(path) for path in (before, after)]
    if folders[0].resolve() == folders[1].resolve():
        raise ValueError(
            f"--before and --after are both {after}: give the model as it was before "
            "alignment, and the aligned one"
        )
    if _is_adapter(folders[0]):
        raise ValueError(
            f"--before {before} is an adapter: give the base model that --after "
            f"{after} was trained from"
        )
    model, described = directories.read_model(folders[0], dtype)
    _check_decoder("--before", before, model)
    adapter, notes = None, []
    if _is_adapter(folders[1]):
        adapter = _adapter(before, after, folders, model, notes)
        found = described, described
    else:
        other, theirs = directories.read_model(folders[1], dtype)
        _check_decoder("--after", after, other)
        model = _shared(before, after, model, other, described, theirs, notes)
        found = described, theirs
    whole = folders[: 1 if adapter else 2]
    for folder, config in zip(whole, found, strict=False):
        with weight_files.opened(folder) as tensors:
            shapes = weights.shapes_of(model)
            weights.check(folder, tensors, shapes, config["model_type"])
    tokenizer = _tokenizer(before, after, folders, adapter, notes)
    return Pair(model, *folders, adapter, found, tokenizer, tuple(notes))


def load(pair, *, sharding=None):
    """(parameters before, after) in the dtype of the pair's model; adapters merged.

    sharding: as for `huggingface.load`.
    """
    first = directories.read_params(
        pair.before, pair.model, pair.described[0], sharding
    )
    if pair.adapter is not None:
        factors, config = pair.adapter
        return first, lora.merge(first, factors, scale=config.scale)
    return first, directories.read_params(
        pair.after, pair.model, pair.described[1], sharding
    )


def _is_adapter(folder):
    """Whether a directory holds adapters and no whole model."""
    whole = (folder / weight_files.WEIGHTS, folder / weight_files.INDEX)
    return (folder / adapters.CONFIG).is_file() and not any(x.is_file() for x in whole)


def _check_decoder(flag, name, model):
    if not isinstance(model, decoder.Decoder):
        raise ValueError(f"{flag} {name} is a classifier, not a language model")


def _adapter(before, after, folders, model, notes):
    """The adapters in the second folder, which must fit the model in the first."""
    try:
        factors, config = adapters.load(folders[1], model)
    except ValueError as error:
        raise ValueError(
            f"--after {after} does not fit --before {before}: {error}; give the base "
            "model that it was trained on"
        ) from None
    base = adapters.base(folders[1])
    if base is not None and str(base) not in (str(before), str(folders[0])):
        notes.append(
            f"the adapter names {base} as its base; its shapes fit {before}, which is "
            "taken in its place"
        )
    return factors, config


def _shared(before, after, model, other, described, theirs, notes):
    """The model that applies both sets of weights."""
    kinds = described["model_type"], theirs["model_type"]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"--before {before} is of family {kinds[0]}, --after {after} of {kinds[1]}:"
            " only weights of one architecture can be averaged; give the model that "
            f"{after} was trained from"
        )
    mine, yours = dataclasses.asdict(model.config), dataclasses.asdict(other.config)
    apart = [k for k in mine if mine[k] != yours[k] and k not in _FREE]
    learned = model.config.positions == "learned"
    if learned and mine["max_length"] != yours["max_length"]:
        apart.append("max_length")
    if apart:
        listed = ", ".join(f"{k} {mine[k]} against {yours[k]}" for k in apart)
        raise ValueError(
            f"--before {before} and --after {after} differ: {listed}; weights are "
            f"averaged one by one, so give the model that {after} was trained from"
        )
    lengths = mine["max_length"], yours["max_length"]
    if lengths[0] != lengths[1]:
        notes.append(
            f"contexts of {lengths[0]} and {lengths[1]} tokens: {min(lengths)} are used"
        )
    config = dataclasses.replace(other.config, max_length=min(lengths))
    return decoder.Decoder(config)


def _tokenizer(before, after, folders, adapter, notes):
    """The tokenizer for both. Raises ValueError unless the vocabularies are equal."""
    first = directories.load_tokenizer(folders[0])
    own = any((folders[1] / name).is_file() for name in _TOKENIZER)
    if adapter is not None and not own:
        notes.append(f"the adapter has no tokenizer: that of {before} is used")
        return first
    second = directories.load_tokenizer(folders[1])
    one, two = first.get_vocab(), second.get_vocab()
    if one != two:
        token = min(t for t in {*one, *two} if one.get(t) != two.get(t))
        raise ValueError(
            f"the tokenizers of --before {before} ({len(one)} tokens) and --after "
            f"{after} ({len(two)}) differ, first in {token!r} "
            f"({one.get(token, 'missing')} against {two.get(token, 'missing')}): the "
            "same text would be other tokens; give the model that it was trained from"
        )
    if first.chat_template != second.chat_template:
        notes.append(f"chat templates differ: both models are asked in that of {after}")
    return second
