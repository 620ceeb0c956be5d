"""Models of the recipes: read, given a compute type, adapted, and exported."""

import copy
import dataclasses
import json
import os
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import huggingface
from rlhf_jax.data import stop_tokens
from rlhf_jax.huggingface import score_bias, tokenizer_files
from rlhf_jax.models import config, decoder, heads
from rlhf_jax.runtime import files
from rlhf_jax.studies.trainable import Trainable

_LONGEST = 1024  # tokens per row, unless more are asked for


def read(flag, source):
    """(model, params, tokenizer) with float32 weights and computation.

    Args: flag: its name in errors; source: a directory, a hub name, or the tuple that
    `huggingface.load` or a recipe returned.
    """
    if isinstance(source, str | os.PathLike):
        model, params, tokenizer = huggingface.load(source, dtype="float32")
        tokenizer_files.check_template(where(flag, source), tokenizer)
        return model, params, tokenizer
    known = isinstance(source, tuple) and len(source) >= 3
    if not known or not isinstance(source[0], decoder.Decoder | heads.Classifier):
        raise ValueError(
            f"{flag} of type {type(source).__name__}: give a directory, a hub name, "
            "(model, params, tokenizer), or what a recipe returned"
        )
    model, params, tokenizer = source[:3]
    tokenizer_files.check_template(flag, tokenizer)
    return with_dtype(model, "float32"), _float32(params), tokenizer


def read_decoder(flag, source, dtype):
    """(model, params, tokenizer) of a language model, computing in `dtype`."""
    model, params, tokenizer = read(flag, source)
    if not isinstance(model, decoder.Decoder):
        raise ValueError(f"{where(flag, source)} is a classifier, not a language model")
    return with_dtype(model, dtype), params, tokenizer


def read_classifier(flag, source, dtype, seed):
    """(reward model, params, tokenizer); a language model gets a new head.

    A classifier with one label keeps its head, but not a bias in it that `transformers`
    does not read: pairs cannot tell, and what is exported scores alike there.
    """
    model, params, tokenizer = read(flag, source)
    if isinstance(model, heads.Classifier):
        if model.labels != 1:
            raise ValueError(
                f"{where(flag, source)} has {model.labels} classes; a reward model has "
                "one score: give a language model, or a reward model to train further"
            )
        return with_dtype(model, dtype), score_bias.removed(model, params), tokenizer
    scorer = heads.Classifier(dataclasses.replace(model.config, dtype=dtype), labels=1)
    head = heads.init_head(scorer, jax.random.key(seed))
    return scorer, heads.from_decoder(params, head), tokenizer


def with_dtype(model, dtype):
    """The same model with another compute type; parameters keep theirs."""
    return model.clone(config=dataclasses.replace(model.config, dtype=dtype))


def where(flag, source):
    """How errors name a model: by its flag, and by its name where it has one."""
    return f"{flag} {source}" if isinstance(source, str | os.PathLike) else flag


def _float32(params):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)


def length(asked, model):
    """Tokens per row: as many as asked for, within the model's context."""
    most = model.config.max_length
    if asked is None:
        return min(most, _LONGEST)
    if not 2 <= asked <= most:
        raise ValueError(
            f"--data.length {asked}: the model's context is {most}; choose from 2 to "
            f"{most}"
        )
    return asked


def narrow(tree, masks):
    """[N, T, ...] arrays without the columns that are padding in every row.

    Widths are multiples of 8, so that few shapes are compiled. masks: arrays [N, T].
    """
    width = masks[0].shape[1]
    longest = max(int((mask * np.arange(1, width + 1)).max()) for mask in masks)
    keep = min(-(-longest // 8) * 8, width)
    return jax.tree.map(
        lambda x: x[:, :keep] if x.ndim == 2 and x.shape[1] == width else x, tree
    )


def trainable(params, adapter, layout, *, whole=()):
    """`Trainable` of all weights, or of adapters next to frozen ones.

    Args: adapter: lora.Config, or None; whole: parts trained in full besides adapters,
    such as "head". Frozen weights are put on the devices; trained ones stay on the host
    here, as the run's state has them on the devices.
    """
    if adapter is None:
        return Trainable(jax.device_get(params))
    return Trainable(layout.put(params), adapter, whole)


def base(name, source):
    """The base model that saved adapters name; None if it was given in memory.

    Args: name: the model as the run's config spells it; source: as it was given.
    """
    in_memory = isinstance(source, tuple) and len(source) == 3
    return None if in_memory else name


def export(folder, model, params, tokenizer):
    """Writes a model directory that `transformers` opens, with all its stop tokens.

    Weights are float32, whatever the compute type. Returns them.
    """
    params = _float32(jax.device_get(params))
    if isinstance(model, decoder.Decoder):
        huggingface.save(folder, model, params, tokenizer)
        write_stops(folder, tokenizer)
    else:
        huggingface.save(folder, model, params, scoring_tokenizer(model, tokenizer))
    return params


def scoring_tokenizer(model, tokenizer):
    """The tokenizer of a classifier, whose padding `transformers` must not confuse.

    There, a decoder's score is read at the last token that is not the padding token. If
    that ends answers as well, padding becomes another special token, or else none:
    `transformers` then refuses to pad, and scores rows one by one.
    """
    if isinstance(model.config, config.Encoder):
        return tokenizer
    ends = {tokenizer.eos_token_id, stop_tokens.end_of_turn(tokenizer)}
    pad = tokenizer.pad_token_id
    if pad is not None and pad not in ends and pad < model.config.vocab_size:
        return tokenizer
    special = {*tokenizer.all_special_ids}
    special |= {i for i, x in tokenizer.added_tokens_decoder.items() if x.special}
    usable = sorted(i for i in special - ends if i < model.config.vocab_size)
    tokenizer = copy.deepcopy(tokenizer)
    first = tokenizer.convert_ids_to_tokens(usable[0]) if usable else None
    tokenizer.pad_token = first
    return tokenizer


def write_stops(folder, tokenizer):
    """Writes all stop tokens into the generation_config.json of a model directory."""
    file = pathlib.Path(folder) / "generation_config.json"
    if file.exists():
        stops = list(stop_tokens.stop_ids(tokenizer))
        settings = json.loads(file.read_text(encoding="utf-8"))
        settings["eos_token_id"] = stops[0] if len(stops) == 1 else stops
        files.write_json(file, settings)
