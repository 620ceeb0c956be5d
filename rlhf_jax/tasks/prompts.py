"""A user's own prompts as a task: what is asked, what people wrote, what pays.

A prompt is a text, or a list of messages that the chat template writes. Where it is a
list, reward functions get lists too, as TRL hands them over.
"""

import functools

import numpy as np

from rlhf_jax import sampling
from rlhf_jax.data import examples, sources, stop_tokens, tokenization
from rlhf_jax.tasks import Task
from rlhf_jax.types import Tokens

_ASKED = "rlhf_jax.asked"  # the column in which prompts travel as they were given


def create(
    model, params, tokenizer, train, held, *, lengths, cue="", texts=None, **draw
):
    """The task of prompts; rewards are added by `dataclasses.replace`.

    Args: train, held: `datasets` rows with a column prompt; lengths: (of a prompt, of
    a response), the first None for what the longest needs; texts: what people wrote,
    by default the held-out completions, or the prompts themselves; draw: fields of
    `sampling.Config`.
    """
    stops = stop_tokens.stop_ids(tokenizer)
    room = model.config.max_length - lengths[1]
    if room < 1 or (lengths[0] or 1) > room:
        asked = f"prompts of {lengths[0]} and " if lengths[0] else "a prompt and "
        raise ValueError(
            f"{asked}responses of {lengths[1]} tokens exceed the model's context of "
            f"{model.config.max_length}; ask for fewer"
        )
    asked = [examples.prompts(rows, tokenizer, cue=cue) for rows in (train, held)]
    made = [_prompts(tokenizer, part, lengths[0] or room) for part in asked]
    width = lengths[0] or max(int(part.mask.sum(-1).max()) for part in made)
    made = [type(part)(*(x[:, -width:] for x in part)) for part in made]
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
        prompts=made[0],
        eval_prompts=made[1],
        heldout=_written(tokenizer, held, asked[1], texts, width + lengths[1], cue),
        best=None,
        decode=functools.partial(tokenization.texts, tokenizer),
        reward=None,
        facts={},
        columns=_columns(train),
        eval_columns=_columns(held),
    )


def as_asked(function):
    """A user's reward function, given prompts as they stand in the data.

    `host` of `tasks.Reward`: the decoded prompts are put aside, and where a prompt is a
    list of messages its completion becomes one, of one message.
    """

    def host(prompts, completions, **columns):
        prompts = columns.pop(_ASKED, prompts)
        completions = [
            text
            if isinstance(prompt, str)
            else [{"role": "assistant", "content": text}]
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        return function(prompts, completions, **columns)

    return host


def joined(host):
    """A score of texts (prompt and answer as decoded), deaf to all columns."""
    return lambda prompts, completions, **columns: host(prompts, completions)


def _prompts(tokenizer, texts, length):
    return tokenization.prompts(tokenizer, texts, length=length, truncate="left")


def _columns(rows):
    found = {k: list(rows[k]) for k in rows.column_names if k != "prompt"}
    return {**found, _ASKED: list(rows["prompt"])}


def _written(tokenizer, held, asked, texts, length, cue):
    """Human `Tokens` whose NLL is the drift: nothing here is ever trained on them."""
    if texts is not None:
        rows = [[(text, True)] for text in texts]
    elif {"prompt", "completion"} <= set(held.column_names):
        rows = examples.read(held, tokenizer, cue=cue)
    else:
        found = tokenization.prompts(
            tokenizer, asked, length=length, side="right", truncate="left"
        )
        return _useful(Tokens(*found, found.mask), "prompts")
    end = stop_tokens.end_id(tokenizer)
    found = tokenization.spans(tokenizer, rows, length=length, end=end)
    return _useful(found, "texts")


def _useful(tokens, what):
    """Rows with something to predict."""
    kept = np.asarray(tokens.target_mask)[:, 1:].any(-1)
    if not kept.any():
        raise ValueError(
            f"of the held-out {what} none has two tokens: drift cannot be read off "
            "them; name human text with --texts"
        )
    return Tokens(*(x[kept] for x in tokens))


def texts(name, split, count):
    """At most `count` texts of a data set with a column text."""
    rows = sources.load(name, split=split, columns=["text"])
    order = np.random.default_rng(0).permutation(len(rows))[:count]
    return list(rows.select(np.sort(order))["text"])
