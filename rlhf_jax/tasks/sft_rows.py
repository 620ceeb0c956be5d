"""Rows of supervised fine-tuning as arrays: texts, answers, conversations, tokens."""

from typing import NamedTuple

import numpy as np

from rlhf_jax.data import (
    examples,
    kinds,
    origins,
    packing,
    pretokenized,
    spans,
    stop_tokens,
    tokenization,
)
from rlhf_jax.tasks import models, rows
from rlhf_jax.types import Packed, Tokens

KINDS = ("tokens", *examples.LEARNED)  # what can be learned, of `kinds.KINDS`


class Form(NamedTuple):
    """How rows become tokens: see `experiments.sft`."""

    length: int
    truncate: str = "right"
    pack: bool = False
    cue: str = ""


def read(dataset, data, model, tokenizer, form):
    """(training rows, held-out rows, lines about them): `Tokens`, or `Packed` if rows
    with parts that are not learned are packed.

    Args: dataset, data: as for `rows.parts`; form: `Form`. Raises ValueError where no
    row has anything to learn.
    """
    found = rows.parts(dataset, data, among=KINDS)
    made, about = [], list(found.about)
    for name, part in (("training", found.train), ("held-out", found.held)):
        arrays, said = encoded(part, name, model, tokenizer, form)
        made.append(arrays)
        about.append(said)
    return *made, [*about, form_of(found.train, tokenizer, form.cue)]


def form_of(part, tokenizer, cue=""):
    """A line about the form in which texts are learned."""
    if kinds.of(part, among=KINDS) == "tokens":
        return "token ids are taken as they are, nothing is added"
    return examples.form(part, tokenizer, cue=cue)


def encoded(part, name, model, tokenizer, form):
    """(arrays of rows, a line about them).

    Args: part: `datasets.Dataset` of one of `KINDS`; name: what the line calls it.
    """
    kind = kinds.of(part, among=KINDS)
    if kind == "text" and form.pack:
        texts = list(part["text"])
        tokens = packing.documents(tokenizer, texts, length=form.length)
        tokens = Tokens(*(np.array(x) for x in tokens))
        return tokens, f"{tokens.tokens.size} {name} tokens in rows of {form.length}"
    whole = ragged(part, kind, model, tokenizer, form)
    short, cut = spans.shorten(
        whole,
        form.length,
        truncate=form.truncate,
        words=lambda i: origins.words(part, i),
    )
    kept = spans.useful(short)
    if not kept.ids:
        raise ValueError(
            f"{origins.words(part, 0)} and all others: within {form.length} tokens no "
            f"{name} row has anything to learn; raise --data.length, or cut prompts "
            "with --truncate left"
        )
    arrays, said = _arrays(kept, tokenizer, form)
    left = len(short.ids) - len(kept.ids)
    said = f"{len(kept.ids)} {name} rows{said}, {int(arrays.target_mask.sum())} tokens"
    said += " to learn"
    said += f"; {cut} cut to {form.length} tokens" * (cut > 0)
    return arrays, said + f"; {left} rows have none and are left out" * (left > 0)


def ragged(part, kind, model, tokenizer, form):
    """`spans.Rows` of a data set."""
    if kind == "tokens":
        return pretokenized.read(part, model.config.vocab_size)
    texts = examples.read(part, tokenizer, cue=form.cue)
    return spans.encode(tokenizer, texts, end=stop_tokens.end_id(tokenizer))


def _arrays(kept, tokenizer, form):
    """(`Tokens` or `Packed`, words about packing)."""
    pad = tokenization.pad_id(tokenizer)
    if not form.pack:
        tokens = spans.pad(kept, form.length, pad)
        return models.narrow(tokens, [tokens.mask]), ""
    packed = packing.pack(kept, form.length, pad)
    packed = models.narrow(packed, [packed.mask])
    share = 1 - packed.mask.mean()
    count, width = packed.tokens.shape
    said = f" packed into {count} of {width} tokens ({share:.0%} padding)"
    return Packed(*packed), said
