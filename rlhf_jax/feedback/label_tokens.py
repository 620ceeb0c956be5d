"""Prompts and the labels that may follow them, as token ids.

Prompt and label are encoded as one text, as the model would see them, and all labels of
a prompt begin at one token boundary. Legend: L labels.
"""

import functools
from typing import NamedTuple

import numpy as np

from rlhf_jax.data import tokenization
from rlhf_jax.feedback.labelers import Failure

_NEAR = 32  # characters before a label on which its tokens depend


class Encoded(NamedTuple):
    """A prompt with its labels."""

    context: np.ndarray  # [n] int32: what is read before any label, BOS included
    labels: tuple[tuple[int, ...], ...]  # L × the ids of a label, at least one each
    prompt_tokens: int  # of the prompt alone, BOS included


def check(labels):
    """Raises ValueError unless labels are two or more different texts, none empty."""
    if isinstance(labels, str) or len(labels) < 2 or len(set(labels)) < len(labels):
        raise ValueError(f"labels {labels!r}: two or more different texts are needed")
    if not all(labels):
        raise ValueError(f"labels {labels!r}: one of them is empty")


def encode(tokenizer, prompts, labels):
    """[`Encoded` or `Failure`], one per prompt.

    A label's tokens are what prompt and label have together beyond the context. That is
    the prompt, unless white space at its end belongs to the labels' first tokens, as a
    blank does in GPT-2's vocabulary: then it is left out. A prompt whose last words
    would merge with a label is a Failure, and so are labels with the same tokens.
    """
    before, _ = tokenization.frame(tokenizer)
    rows = tokenization.encode(tokenizer, prompts)
    # Each label is encoded with the end of the prompt alone: whole prompts would have
    # to be encoded L + 1 times.
    ends = _ends(tokenizer, [prompt[-_NEAR:] for prompt in prompts], labels)
    found = []
    for prompt, row, end in zip(prompts, rows, ends, strict=True):
        sure = len(end.prompt) // 2  # in its first half the text before may matter
        checked = end.prompt[sure:]
        same = np.array_equal(row[len(row) - len(checked) :], checked)
        if len(prompt) > _NEAR and (end.shared < sure or not same):
            (end,) = _ends(tokenizer, [prompt], labels)
        found.append(_one(tokenizer, before, row, end, labels))
    return found


class _End(NamedTuple):
    prompt: np.ndarray  # ids of the end of a prompt
    joined: tuple[np.ndarray, ...]  # L × ids of that and a label
    shared: int  # tokens that all of these begin with


def _ends(tokenizer, texts, labels):
    """`_End` of each text; equal ones are encoded once."""
    once = list(dict.fromkeys(texts))
    flat = [text + label for text in once for label in ("", *labels)]
    ids, size = tokenization.encode(tokenizer, flat), len(labels) + 1
    groups = (ids[i : i + size] for i in range(0, len(ids), size))
    ends = {
        text: _End(group[0], tuple(group[1:]), shared(group))
        for text, group in zip(once, groups, strict=True)
    }
    return [ends[text] for text in texts]


def _one(tokenizer, before, row, end, labels):
    tokens = tuple(tuple(joined[end.shared :].tolist()) for joined in end.joined)
    cut = len(end.prompt) - end.shared
    lost = tokenizer.decode(end.prompt[end.shared :].tolist()) if cut else ""
    if lost.strip():
        return Failure(
            f"the prompt's end {lost!r} and a label of {', '.join(labels)} are one "
            "token: end the prompt with a blank or a new line"
        )
    if not all(tokens) or len(set(tokens)) < len(tokens):
        return Failure(f"two labels of {', '.join(labels)} have the same tokens")
    context = np.concatenate([before, row[: len(row) - cut]])
    if not len(context):
        first = tokenization.prefix_id(tokenizer)
        context = np.array([first], np.int32)
    return Encoded(context, tokens, len(before) + len(row))


def shared(rows):
    """How many tokens all rows (1-D arrays) begin with."""
    shortest = min(map(len, rows))
    same = functools.reduce(
        np.logical_and, (row[:shortest] == rows[0][:shortest] for row in rows)
    )
    return shortest if same.all() else int(same.argmin())
