"""A user's own prompts as a task: prompts, human text, and the reward's columns.

A prompt is a text, or a list of messages for the chat template. Reward functions get
lists where prompts are lists, as in TRL.
"""

import functools

import numpy as np

from rlhf_jax import sampling
from rlhf_jax.data import examples, origins, spans, stop_tokens, tokenization
from rlhf_jax.studies.task import Task
from rlhf_jax.tasks import rows as rows_of
from rlhf_jax.types import Tokens

GIVEN = "rlhf_jax.given"  # a column: prompts as they are in the data


def create(
    model, params, tokenizer, train, held, *, lengths, cue="", texts=None, **draw
):
    """The task of prompts; rewards are added by `dataclasses.replace`.

    Args: train, held: `datasets` rows with a column prompt; lengths: (of a prompt, of
    a response), the first None for what the longest needs; texts: human text for
    drift, by default the held-out completions, or the prompts themselves;
    draw: fields of `sampling.Config`.
    """
    stops = stop_tokens.stop_ids(tokenizer)
    room = model.config.max_length - lengths[1]
    if room < 1 or (lengths[0] or 1) > room:
        start = f"prompts of {lengths[0]} and " if lengths[0] else "a prompt and "
        raise ValueError(
            f"{start}responses of {lengths[1]} tokens exceed the model's context of "
            f"{model.config.max_length}; ask for fewer"
        )
    written = [examples.prompts(rows, tokenizer, cue=cue) for rows in (train, held)]
    encoded = [_prompts(tokenizer, part, lengths[0] or room) for part in written]
    longest = lengths[0] or room
    cut = spans.count_long(tokenizer, written[0], length=longest, end=0)
    width = lengths[0] or max(int(part.mask.sum(-1).max()) for part in encoded)
    encoded = [type(part)(*(x[:, -width:] for x in part)) for part in encoded]
    return Task(
        model=model,
        params=params,
        tokenizer=tokenizer,
        sampling=sampling.Config(
            max_new_tokens=lengths[1],
            eos_ids=stops,
            pad_id=tokenization.pad_id(tokenizer, stops),
            vocab_limit=min(len(tokenizer), model.config.vocab_size),
            **draw,
        ),
        prompts=encoded[0],
        eval_prompts=encoded[1],
        heldout=_human(tokenizer, held, written[1], texts, width + lengths[1], cue),
        best=None,
        decode=functools.partial(tokenization.texts, tokenizer),
        rewards={},
        facts={"about": [f"{cut} prompts cut to {longest} tokens"] if cut else []},
        columns=_columns(train),
        eval_columns=_columns(held),
    )


def as_given(function):
    """`Reward.host` of a user's function, which sees prompts as the data has them.

    Where a prompt is a list of messages, its completion becomes a list of one message.
    """

    def host(prompts, completions, **columns):
        prompts = columns.pop(GIVEN, prompts)
        completions = [
            text
            if isinstance(prompt, str)
            else [{"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        return function(prompts, completions, **columns)

    return host


def of_texts(host):
    """`Reward.host` of a model that scores texts and takes no columns."""
    return lambda prompts, completions, **columns: host(prompts, completions)


def _prompts(tokenizer, texts, length):
    return tokenization.prompts(tokenizer, texts, length=length, truncate="left")


def _columns(rows):
    columns = {k: list(rows[k]) for k in origins.visible(rows) if k != "prompt"}
    return {**columns, GIVEN: list(rows["prompt"])}


def _human(tokenizer, held, prompts, texts, length, cue):
    """Human `Tokens` whose NLL is the drift; nothing is ever trained on them."""
    if texts is not None:
        rows = [[(text, True)] for text in texts]
    elif {"prompt", "completion"} <= set(held.column_names):
        rows = examples.read(held, tokenizer, cue=cue)
    else:
        tokens = tokenization.prompts(
            tokenizer, prompts, length=length, side="right", truncate="left"
        )
        return _useful(Tokens(*tokens, tokens.mask), "prompts")
    end = stop_tokens.end_id(tokenizer)
    tokens = spans.tokens(tokenizer, rows, length=length, end=end)
    return _useful(tokens, "texts")


def _useful(tokens, what):
    """Rows with at least one token to predict."""
    kept = np.asarray(tokens.target_mask)[:, 1:].any(-1)
    if not kept.any():
        raise ValueError(
            f"none of the held-out {what} has two tokens, so they show no drift; "
            "name human text with --texts"
        )
    return Tokens(*(x[kept] for x in tokens))


def texts(source, split, count):
    """At most `count` texts of rows with a column text; source: as for `rows.load`."""
    rows = rows_of.load(source, split=split, columns=["text"])
    return list(rows_of.sample(rows, count)["text"])
