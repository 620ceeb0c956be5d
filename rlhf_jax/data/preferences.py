"""Preference pairs in the forms that data sets keep them in, as texts."""

import os
from typing import NamedTuple

from rlhf_jax.data import conversations


class Pairs(NamedTuple):
    """Texts for `tokenization.pairs`, row by row."""

    prompts: list[str]
    chosen: list[str]
    rejected: list[str]
    preference: list[float] | None  # probability that chosen is better; None: 1


def read(rows, tokenizer=None, *, cue=""):
    """`Pairs` from a data set with columns chosen and rejected, and perhaps prompt.

    With a prompt, the two others are answers to it; without, they are conversations
    that begin alike. Each is a text or a list of messages (see `conversations`). A
    column `preference` holds soft labels. cue: appended to prompts that are texts, for
    instance `conversations.CUE` where it is missing.
    """
    columns = rows[:]
    sides = columns["chosen"], columns["rejected"]
    asked = columns.get("prompt", [None] * len(sides[0]))
    found = []
    for i, (prompt, *both) in enumerate(zip(asked, *sides, strict=True)):
        try:
            if prompt is None:
                found.append(_shared(*both, tokenizer))
            else:
                found.append(_answers(prompt, both, tokenizer, cue))
        except ValueError as error:
            raise ValueError(f"row {i} (counted from 0): {error}") from None
    prompts, chosen, rejected = (list(column) for column in zip(*found, strict=True))
    preference = columns.get("preference")
    return Pairs(prompts, chosen, rejected, preference and list(preference))


def _answers(prompt, both, tokenizer, cue):
    """(prompt, chosen, rejected) of answers to a prompt."""
    text = conversations.prompt(prompt, tokenizer)
    if isinstance(prompt, str):
        return text + cue, *(x if isinstance(x, str) else _last(x) for x in both)
    both = [_last(x) if not isinstance(x, str) else x for x in both]
    return text, *(conversations.reply(x, tokenizer) for x in both)


def _last(messages):
    if not messages or messages[-1].get("role") != "assistant":
        raise ValueError("an answer must end with a message whose role is assistant")
    return messages[-1]["content"]


def _shared(chosen, rejected, tokenizer):
    """(prompt, chosen, rejected) of two conversations that begin alike."""
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
