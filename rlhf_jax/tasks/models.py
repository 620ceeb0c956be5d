"""Models of the plain recipes: read, given a compute type, adapted, and exported."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax import huggingface, trees
from rlhf_jax.cli import options as cli_options
from rlhf_jax.data import stop_tokens
from rlhf_jax.huggingface import adapters as hf_adapters
from rlhf_jax.models import decoder, heads, lora
from rlhf_jax.runtime import metrics_log

_LONGEST = 1024  # tokens of a row, unless more are asked for


def read_decoder(flag, name, dtype):
    """(model, params, tokenizer) of a language model, computing in `dtype`."""
    model, params, tokenizer = huggingface.load(name, dtype="float32")
    if not isinstance(model, decoder.Decoder):
        raise ValueError(f"{flag} {name} is a classifier, not a language model")
    return computing(model, dtype), params, tokenizer


def computing(model, dtype):
    """The same model with another compute type; parameters keep theirs."""
    return model.clone(config=dataclasses.replace(model.config, dtype=dtype))


def read_classifier(flag, name, dtype, seed):
    """(reward model, params, tokenizer): with a fresh head on a language model.

    A classifier with one label goes on from its own head.
    """
    model, params, tokenizer = huggingface.load(name, dtype="float32")
    if isinstance(model, heads.Classifier):
        if model.labels != 1:
            raise ValueError(
                f"{flag} {name} tells {model.labels} classes apart; a reward model has "
                "one score: give a language model, or a reward model to go on with"
            )
        return computing(model, dtype), params, tokenizer
    scorer = heads.Classifier(dataclasses.replace(model.config, dtype=dtype), labels=1)
    head = heads.init_head(scorer, jax.random.key(seed))
    return scorer, heads.from_decoder(params, head), tokenizer


def length(asked, model):
    """How many tokens a row may have: what is asked, within the model's context."""
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

    Widths are multiples of 8, so that few of them exist. masks: arrays [N, T].
    """
    width = masks[0].shape[1]
    longest = max(int((mask * np.arange(1, width + 1)).max()) for mask in masks)
    keep = min(-(-longest // 8) * 8, width)
    return jax.tree.map(
        lambda x: x[:, :keep] if x.ndim == 2 and x.shape[1] == width else x, tree
    )


@dataclasses.dataclass(frozen=True)
class Trained:
    """What of a model is trained: all of it, or adapters beside it.

    `start` is the pytree that learns; with `adapter`, `base` are the frozen weights.
    """

    model: object
    start: object
    base: object = ()
    adapter: lora.Config | None = None

    def bind(self, base):
        """The model as a compiled step applies it to what is trained."""
        if self.adapter is None:
            return self.model
        return lora.Bound(self.model, base, self.adapter.scale)

    def joined(self, params):
        """Parameters for `model` itself, of which none is a copy."""
        if self.adapter is None:
            return params
        return lora.join(self.base, params, scale=self.adapter.scale)

    def merged(self, params):
        """Plain weights, as a model directory holds them."""
        if self.adapter is None:
            return params
        return lora.merge(self.base, params, scale=self.adapter.scale)

    def about(self):
        """What is trained, for a person."""
        count = trees.size(self.start)
        if self.adapter is None:
            return f"all {count:,} weights are trained"
        return f"{count:,} weights are trained: adapters of rank {self.adapter.rank}"


def trained(model, params, options, layout, *, seed, whole=()):
    """`Trained` as --lora asks. whole: parts that learn besides adapters, as "head"."""
    adapter = cli_options.adapter(options, params)
    if adapter is None:
        return Trained(model, jax.device_get(params))  # the device holds the state's
    key = jax.random.key(seed)
    start = lora.init(params, key, rank=adapter.rank, targets=adapter.targets)
    start |= {name: trees.copy(params[name]) for name in whole}
    return Trained(model, start, layout.place(params), adapter)


def export(folder, model, params, tokenizer, console):
    """A model directory that `transformers` opens, with every token that stops it.

    Weights are float32, whatever was computed in.
    """
    plain = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), jax.device_get(params))
    huggingface.save(folder, model, plain, tokenizer)
    file = folder / "generation_config.json"
    if isinstance(model, decoder.Decoder) and file.exists():
        stops = list(stop_tokens.stop_ids(tokenizer))
        said = json.loads(file.read_text(encoding="utf-8"))
        said["eos_token_id"] = stops[0] if len(stops) == 1 else stops
        metrics_log.write_json(file, said)
    console.print(f"saved {folder}", highlight=False, markup=False, soft_wrap=True)


def export_adapters(folder, model, adapters, config, base, console):
    """A directory that PEFT opens on the model named `base`; a `lora.Config`."""
    hf_adapters.save(folder, model, jax.device_get(adapters), config, base=base)
    console.print(f"saved {folder}", highlight=False, markup=False, soft_wrap=True)
