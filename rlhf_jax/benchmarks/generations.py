"""Suites whose answers are written: greedy generations, scored against references."""

import functools
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax import sampling
from rlhf_jax.benchmarks import programs
from rlhf_jax.data import references, stop_tokens, tokenization
from rlhf_jax.evaluation import answers, diversity, translation
from rlhf_jax.types import Prompts


class Exercises(NamedTuple):
    """Q prompts as arrays, with what it takes to read the answers to them."""

    rows: Prompts  # [Q, P], padded on the right
    references: references.References
    tokenizer: Any
    config: sampling.Config


def tokens(tokenizer, asked, *, length):
    """`Exercises` of `References`; prompt and answer have at most `length` tokens.

    An answer may take half of that; a prompt that is too long loses its beginning.
    """
    new = min(asked.kind.new_tokens, length // 2)
    rows = tokenization.prompts(
        tokenizer, asked.prompts, length=length - new, side="right"
    )
    longest = rows.mask.sum(-1).max()
    rows = Prompts(*(x[:, :longest] for x in rows))
    config = greedy(tokenizer, new, asked.kind.stops)
    return Exercises(rows, asked, tokenizer, config)


def greedy(tokenizer, new_tokens, stops=(), **settings):
    """A `sampling.Config` that ends a row at its end token or with a stop string.

    Only a token that holds a whole stop string ends it; `cut` does the rest. settings:
    fields of the config, such as a temperature.
    """
    ends = stop_tokens.stop_ids(tokenizer)
    ends = tuple(sorted({*ends, *_holding(tokenizer, tuple(stops))}))
    return sampling.Config(
        max_new_tokens=new_tokens,
        eos_ids=ends,
        pad_id=tokenization.pad_id(tokenizer, ends),
        vocab_limit=len(tokenizer),
        **{"temperature": 0.0, **settings},
    )


def cut(text, stops):
    """A text up to the first of any stop string."""
    ends = [text.find(stop) for stop in stops if stop and stop in text]
    return text[: min(ends)] if ends else text


def measure(model, params, exercises, *, layout):
    """(metrics, items, texts) of the answers that a model writes, greedily.

    metrics: means in [0, 1] of the items, which are [Q] each: "exact_match" and "f1" as
    SQuAD has them; "number", right where the final one is; "bleu" of the corpus, whose
    items are `translation.bleu_counts` [Q, 10]. "distinct_2" tells how diverse answers
    are.
    """
    asked, tokenizer = exercises.references, exercises.tokenizer
    written = programs.complete(
        model, params, exercises.rows, config=exercises.config, layout=layout
    )
    texts = tokenization.texts(tokenizer, *written)
    texts = [cut(text, asked.kind.stops).strip() for text in texts]
    pairs = list(zip(texts, asked.answers, strict=True))
    compared = {"exact_match": answers.exact_match, "f1": answers.f1}
    if "number" in asked.kind.metrics:
        compared["number"] = answers.same_number
    items = {k: np.array([fn(*pair) for pair in pairs]) for k, fn in compared.items()}
    metrics = {name: float(scores.mean()) for name, scores in items.items()}
    if "bleu" in asked.kind.metrics:
        items["bleu"] = translation.bleu_counts(texts, asked.answers)
        metrics["bleu"] = translation.bleu(items["bleu"].sum(0)) / 100
    metrics["distinct_2"] = diversity.distinct(*written, n=2)
    return metrics, items, texts


@functools.lru_cache(maxsize=32)
def _holding(tokenizer, stops):
    """The ids of tokens whose text holds one of some strings."""
    stops = [stop for stop in stops if stop]
    if not stops:
        return ()
    texts = tokenizer.batch_decode([[i] for i in range(len(tokenizer))])
    return tuple(i for i, text in enumerate(texts) if any(s in text for s in stops))
