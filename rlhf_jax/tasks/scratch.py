"""A tokenizer and a language model from scratch, on a user's own text."""

import pathlib

from rlhf_jax import optim
from rlhf_jax.data import bpe, packing, sources
from rlhf_jax.models import config as model_config
from rlhf_jax.models import decoder
from rlhf_jax.tasks import pretraining

PRETRAINING = optim.Config(schedule="cosine", warmup=100, weight_decay=0.01)


def pretrained(config, dataset, preset, *, layout, cache, report, signals):
    """(model, params, tokenizer) trained on the dataset's text, cached.

    Args: config: as `text.Config`; preset: of `models.config`; report as in
    `tasks.microworld`.
    """
    fields = vars(config).items()
    keep = {k: v for k, v in fields if k.startswith("pretrain") or k == "vocabulary"}
    length = max(
        config.pretrain_length, config.prompt_length + config.max_new_tokens,
        config.heldout_length,
    )  # fmt: skip
    asked = [keep, preset, length, pretraining.identity(dataset), repr(PRETRAINING)]
    name = f"text-{pathlib.Path(dataset).name}-{preset}-{pretraining.digest(asked)}"
    folder = pathlib.Path(cache) / name
    texts = sources.load(dataset, split=config.pretrain_split, columns=["text"])["text"]
    if (folder / "tokenizer" / "tokenizer.json").exists():
        import transformers

        tokenizer = transformers.AutoTokenizer.from_pretrained(
            str(folder / "tokenizer")
        )
    else:
        report("learning a tokenizer ...")
        tokenizer = bpe.train(texts, config.vocabulary, folder / "tokenizer")
    shape = model_config.preset(preset, vocab_size=len(tokenizer), max_length=length)
    model = decoder.Decoder(shape)

    def data():
        report(f"encoding {len(texts)} texts ...")
        return packing.documents(tokenizer, texts, length=config.pretrain_length)

    params = pretraining.cached(
        model,
        data,
        folder / "model",
        config=PRETRAINING,
        steps=config.pretrain_steps,
        rows=config.pretrain_rows,
        learning_rate=config.pretrain_learning_rate,
        layout=layout,
        report=report,
        signals=signals,
    )
    return model, params, tokenizer
