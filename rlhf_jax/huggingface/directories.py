"""Loading and saving model directories: config.json, weights, tokenizer files.

`transformers` opens what `save` writes. `names` has the names of tensors, `read_config`
and `write_config` translate config.json, `weights` reads and writes tensors.
"""

import contextlib
import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp

from rlhf_jax.huggingface import (
    names,
    read_config,
    score_bias,
    tokenizer_files,
    weight_files,
    weights,
    write_config,
)
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder, heads
from rlhf_jax.runtime import files

_DOWNLOADS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja", "README.md")
SHARD = 5_000_000_000  # bytes, the default of transformers


def load(path, *, revision=None, dtype=None, sharding=None):
    """Loads a model of a family in `names.CLASSES`: `(model, params, tokenizer)`.

    Args:
      path: a directory, or a name on the Hugging Face hub at `revision`. An
        architecture that ends in ForSequenceClassification becomes a
        `heads.Classifier`; encoders (DistilBERT, BERT, RoBERTa) must have one.
      dtype: of parameters and compute, by default float32 whatever is on disk. To train
        in bfloat16, load float32 and give the model
        `dataclasses.replace(model.config, dtype="bfloat16")`.
      sharding: of the parameters: a `jax.sharding.Sharding`, a pytree of them, or a
        function (path, shape) → Sharding, with paths such as "layers/mlp/up/kernel"
        ("trunk/layers/..." for a classifier). Parameters are moved one by one as they
        are read: the host holds those that stay on it, and twice the largest.

    Embedding and tokenizer are as on disk; if the tokenizer has no padding token, or
    pads with EOS, pad with `data.tokenization.pad_id`. Raises ValueError naming a file
    that is missing or damaged, every tensor that is missing, misshapen or left over,
    one that is quantized or not finite, and tokens that the embedding does not have.
    """
    dtype = jnp.dtype("float32" if dtype is None else dtype)
    folder = resolve(path, revision)
    model, described = read_model(folder, dtype)
    check_generation(folder, model)
    tokenizer = load_tokenizer(folder)
    params = read_params(folder, model, described, sharding)
    tokenizer_files.check_ids(folder, tokenizer, model.config.vocab_size)
    return model, params, tokenizer


def read_model(folder, dtype="float32"):
    """(model, config.json) of a directory, whose weights are not read."""
    described = _read_config(folder)
    try:
        config = read_config.read(described)
        config = dataclasses.replace(config, dtype=jnp.dtype(dtype).name)
        return _model(config, described), described
    except KeyError as error:
        raise ValueError(f"{folder}/config.json has no {error}") from None
    except (ValueError, TypeError, AttributeError) as error:
        # The last two: an entry that is of another type than its kind should be.
        raise ValueError(f"{folder}/config.json: {error}") from None


def read_params(folder, model, described, sharding=None):
    """The parameters in a directory, of a model that `read_model` returned."""
    shapes, config = weights.shapes_of(model), model.config
    put, dtype = weights.device_put(shapes, sharding), jnp.dtype(config.dtype)
    kind = described["model_type"]
    return weights.read(folder, shapes, kind, config.heads, dtype, put)


def _model(config, described):
    architecture = described["architectures"][0]
    if architecture.endswith("ForSequenceClassification"):
        labels = described.get("id2label") or {"0": "", "1": ""}
        return heads.Classifier(config, described.get("num_labels") or len(labels))
    if isinstance(config, model_config.Encoder):
        raise ValueError(
            f"its architecture is {architecture!r}; of {described['model_type']} only "
            "…ForSequenceClassification is supported"
        )
    return decoder.Decoder(config)


def load_tokenizer(path, *, revision=None):
    """The tokenizer of a directory or hub name, unchanged."""
    return tokenizer_files.load(resolve(path, revision))


def save(path, model, params, tokenizer, *, max_shard_bytes=SHARD):
    """Writes a decoder or a classifier as a directory that `transformers` opens.

    Parameters keep their dtype; above `max_shard_bytes` they are split into several
    files. `transformers` has no bias in a decoder's head: a non-zero one moves into the
    final norm (`score_bias`), or where that has none is written as "score.bias", which
    only we read: config.json says under "score_offset" what `transformers` leaves out
    of all scores. The directory is written atomically. It replaces an older model;
    anything else in its place raises ValueError.
    """
    if isinstance(model, heads.Classifier):
        params = score_bias.folded(model, params)
    with fresh(path, model, params, tokenizer) as (folder, kind):
        weights.write(folder, params, kind, model.config.heads, max_shard_bytes)


@contextlib.contextmanager
def fresh(path, model, like, tokenizer):
    """Yields (a folder to write weights into, their family), which becomes the model
    directory `path` when the block succeeds, as of `save`.

    like: the parameters, or anything with their dtypes.
    """
    path = pathlib.Path(path)
    if not isinstance(model, decoder.Decoder | heads.Classifier):
        raise ValueError(f"{type(model).__name__} has no file format: save a Decoder")
    if path.exists() and not replaceable(path):
        raise ValueError(f"{path} holds something other than a model: name a new path")
    described = _describe(model, like, tokenizer)
    with files.folder(path) as folder:
        yield folder, described["model_type"]
        tokenizer.save_pretrained(folder)
        _write_json(folder / "config.json", described)
        tokens = {key: described[key] for key in described if key.endswith("_token_id")}
        _write_json(folder / "generation_config.json", tokens)
        files.remove(path)


def _describe(model, params, tokenizer):
    """The content of config.json."""
    described = write_config.describe(model.config)
    task = "ForCausalLM"
    if isinstance(model, heads.Classifier):
        task = "ForSequenceClassification"
        labels = range(model.labels)
        described["id2label"] = {str(label): f"LABEL_{label}" for label in labels}
        described["label2id"] = {f"LABEL_{label}": label for label in labels}
        described |= _offset(model, params)
    name = names.CLASSES[described["model_type"]] + task
    described["architectures"] = [names.OTHER_CLASSES.get(name, name)]
    described["dtype"] = jax.tree.leaves(params)[0].dtype.name
    for token in ("bos", "eos", "pad"):
        token_id = getattr(tokenizer, f"{token}_token_id")
        if f"{token}_token_id" in described:
            continue  # RoBERTa's positions depend on it
        # transformers requires an embedding row for the padding token.
        known = token_id is not None and token_id < model.config.vocab_size
        described[f"{token}_token_id"] = token_id if known else None
    return described


def _offset(model, params):
    """What config.json says of a bias that `transformers` leaves out of scores."""
    if isinstance(model.config, model_config.Encoder):
        return {}
    bias = [float(x) for x in params["head"]["bias"]]
    return {"score_offset": bias} if any(bias) else {}


def replaceable(path):
    """Is this an empty or a model directory? A run directory has a config.json too."""
    files = (path / weight_files.WEIGHTS, path / weight_files.INDEX)
    model = (path / "config.json").is_file() and any(map(pathlib.Path.is_file, files))
    return path.is_dir() and (model or not any(path.iterdir()))


def resolve(path, revision=None):
    """The local directory of a path or of a hub name, downloaded if need be."""
    folder = pathlib.Path(path).expanduser()
    if folder.is_dir():
        return folder
    text = str(path)
    if text.startswith(("/", ".", "~")) or text.count("/") > 1:
        raise ValueError(f"no model directory {text}: give one with a config.json")
    import huggingface_hub

    try:
        downloaded = huggingface_hub.snapshot_download(
            text, revision=revision, allow_patterns=_DOWNLOADS
        )
    except (OSError, ValueError) as error:
        raise ValueError(
            f"no directory {text!r} here, and the hub did not give one "
            f"({_first_line(error)}): give a model directory, or fetch the model while "
            f"online with `hf download {text}`"
        ) from None
    return pathlib.Path(downloaded)


def _first_line(error):
    return str(error).strip().partition("\n")[0]


def _read_config(folder):
    """The content of config.json. Raises ValueError unless it is a model's."""
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"{folder} is not a model directory: it has no config.json")
    described = weight_files.read_json(file)
    if described.get("model_type") is None:
        raise ValueError(f"{file} has no model_type: copy it from the model's origin")
    quantized = described.get("quantization_config")
    if quantized:
        kind = quantized.get("quant_method") if isinstance(quantized, dict) else None
        raise ValueError(
            f"{file} has a quantization_config ({kind or quantized}): "
            f"{weight_files.FLOATS_ARE_NEEDED}"
        )
    classes = described.get("architectures") or [""]
    if not isinstance(classes, list) or not isinstance(classes[0], str):
        raise ValueError(f"{file}: architectures is {classes!r}: give a list of names")
    return described | {"architectures": classes}


def check_generation(folder, model):
    """Raises ValueError for a generation_config.json whose end tokens cannot be."""
    file = folder / "generation_config.json"
    if not file.is_file():
        return
    ends = weight_files.read_json(file).get("eos_token_id")
    for end in ends if isinstance(ends, list) else [ends]:
        known = isinstance(end, int) and 0 <= end < model.config.vocab_size
        if end is not None and not known:
            raise ValueError(
                f"{file}: eos_token_id {end!r} is no token of the model, which has "
                f"{model.config.vocab_size}"
            )


def _write_json(file, content):
    text = json.dumps(content, indent=2, sort_keys=True)
    file.write_text(text + "\n", encoding="utf-8")
