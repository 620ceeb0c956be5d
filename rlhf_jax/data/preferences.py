"""Preference pairs as texts, from the formats that data sets have."""

import os
from typing import NamedTuple

from rlhf_jax.data import conversations, origins

KINDS = ("preference", "conversations")  # of `kinds.KINDS`


class Pairs(NamedTuple):
    """Texts for `tokenization.pairs`, row by row."""

    prompts: list[str]
    chosen: list[str]
    rejected: list[str]
    preference: list[float] | None = None  # probability that chosen wins; None: 1
    margin: list[float] | None = None  # margin to win by; None: 0


def read(rows, tokenizer=None, *, cue="", chat=False):
    """`Pairs` from a data set with columns chosen, rejected and optionally prompt.

    With a prompt, chosen and rejected are answers to it; without, they are
    conversations with a common beginning. Each is a text or a list of messages (see
    `conversations`). Optional columns: `preference` (soft labels) and `margin`. cue:
    appended to prompts that are texts, such as `conversations.CUE` if they lack it.
    chat: prompts that are texts are a user's turn in the tokenizer's chat template.

    Raises ValueError, naming the row, for an answer that is neither text nor messages.
    """
    columns = rows[:]
    for name in ("chosen", "rejected"):
        if name not in columns:
            raise ValueError(
                f"columns {', '.join(origins.visible(rows))}: needed are chosen and "
                "rejected, and prompt if they are answers; name yours with columns "
                f"{name}=..."
            )
    sides = columns["chosen"], columns["rejected"]
    asked = columns.get("prompt", [None] * len(sides[0]))
    pairs = []
    for i, (prompt, *both) in enumerate(zip(asked, *sides, strict=True)):
        try:
            for name, answer in zip(("chosen", "rejected"), both, strict=True):
                _check(name, answer)
            if prompt is None:
                pairs.append(_shared(*both, tokenizer))
            else:
                prompt = conversations.turn(prompt) if chat else prompt
                pairs.append(_answers(prompt, both, tokenizer, cue))
        except ValueError as error:
            raise ValueError(f"{origins.words(rows, i)}: {error}") from None
    prompts, chosen, rejected = (list(column) for column in zip(*pairs, strict=True))
    extra = (_numbers(rows, name) for name in ("preference", "margin"))
    return Pairs(prompts, chosen, rejected, *extra)


def form(rows, tokenizer, *, cue="", chat=False):
    """A line about how rows become texts; cue, chat: as for `read`."""
    first = rows[0]
    asked = first.get("prompt", first["chosen"])
    texts = isinstance(asked, str) and not (chat and "prompt" in first)
    return conversations.form(tokenizer, texts=texts, cue=cue)


def _numbers(rows, name):
    """A column of numbers as floats, None if there is no such column."""
    if name not in rows.column_names:
        return None
    numbers = []
    for i, value in enumerate(rows[name]):
        try:
            numbers.append(float(value))
        except (TypeError, ValueError):
            raise ValueError(
                f"{origins.words(rows, i)}: {name} {value!r} is not a number"
            ) from None
    return numbers


def _check(name, answer):
    if not isinstance(answer, str | list):
        raise ValueError(
            f"{name} is {answer!r}, a {type(answer).__name__}; an answer is a text, in "
            "quotes, or a list of messages"
        )


def _answers(prompt, both, tokenizer, cue):
    """(prompt, chosen, rejected) of answers to a prompt."""
    text = conversations.prompt(prompt, tokenizer)
    if isinstance(prompt, str):
        return text + cue, *(x if isinstance(x, str) else _last(x) for x in both)
    both = [_last(x) if not isinstance(x, str) else x for x in both]
    return text, *(conversations.reply(prompt, x, tokenizer) for x in both)


def _last(messages):
    return conversations.last_answer(messages, "an answer")


def _shared(chosen, rejected, tokenizer):
    """(prompt, chosen, rejected) of two conversations with a common beginning."""
    if isinstance(chosen, str):
        prompt, _ = conversations.split(os.path.commonprefix([chosen, rejected]))
        return prompt, chosen[len(prompt) :], rejected[len(prompt) :]
    prompt, better = conversations.split(chosen, tokenizer)
    other, worse = conversations.split(rejected, tokenizer)
    if prompt != other:
        raise ValueError(
            "chosen and rejected differ before the last answer; give what they have "
            "in common as a column prompt"
        )
    return prompt, better, worse
