"""Multiple-choice questions, as texts and as arrays.

Rows have the columns question, choices (a list) and label (an index, from 0), or a
column text, from which a question is made: which of several endings is the right one?
"""

from typing import NamedTuple

import numpy as np

from rlhf_jax.data import kinds, sources, tokenization
from rlhf_jax.types import Tokens

COLUMNS = kinds.KINDS["choices"]
_ENDINGS = 4
_WORDS = 30  # of an ending; a prompt has twice as many


class Questions(NamedTuple):
    """Q questions as texts."""

    prompts: list[str]
    options: list[list[str]]  # at least two each; blanks before them are kept
    labels: list[int]  # the index of the right one


class Options(NamedTuple):
    """All options of all questions, concatenated: R rows."""

    rows: Tokens  # [R, T], targets: the option's tokens
    lengths: np.ndarray  # [R] int, characters of the option, blanks before it aside
    byte_lengths: np.ndarray  # [R] int, the same in bytes of UTF-8
    questions: np.ndarray  # [R] int, the question's index, ascending
    labels: np.ndarray  # [Q] int


def read(name, *, split, count, question="{question}"):
    """At most `count` `Questions` of a data set, a random but fixed sample.

    question: the format of a prompt; texts are not formatted. Raises ValueError for
    rows that are not multiple-choice questions.
    """
    rows = sources.load(name, split=split)
    where = f"{name}, split {split!r}"
    return of_rows(rows, where, count=count, question=question)


def of_rows(rows, where, *, count, question="{question}"):
    """`read` for a `datasets.Dataset`; where: what errors call it."""
    if not set(COLUMNS) <= set(rows.column_names):
        if "text" not in rows.column_names:
            raise ValueError(
                f"{where}: columns {', '.join(rows.column_names)}; multiple choice "
                "needs question, choices and label, or text"
            )
        return endings(list(drawn(rows, count)["text"]))
    rows = drawn(rows, count)
    prompts = [question.format(question=text) for text in rows["question"]]
    choices, labels = [list(x) for x in rows["choices"]], list(rows["label"])
    for i, (options, label) in enumerate(zip(choices, labels, strict=True)):
        if len(options) < 2 or not all(options) or label not in range(len(options)):
            raise ValueError(
                f"{where}: row {i} of those drawn has choices {options} and label "
                f"{label!r}: at least two are needed, none empty, label counted from 0"
            )
    options = [
        [_after(prompt, text) for text in texts]
        for prompt, texts in zip(prompts, choices, strict=True)
    ]
    return Questions(prompts, options, labels)


def endings(texts, *, options=_ENDINGS, seed=0):
    """A question per text: which of `options` endings continues it?

    Each text is cut in half at a blank, keeping the words near the cut; the wrong
    endings are the second halves of the next texts. A language model of such texts can
    do this even if it can answer no questions. Raises ValueError for too few texts.
    """
    halves = [_halves(text.split()) for text in texts if len(text.split()) >= 4]
    if len(halves) < options:
        raise ValueError(
            f"{len(halves)} texts of four words or more: {options} endings need as "
            "many; name a data set with more"
        )
    rng, questions = np.random.default_rng(seed), Questions([], [], [])
    for i, (first, second) in enumerate(halves):
        offered = [halves[(i + k) % len(halves)][1] for k in range(1, options)]
        label = int(rng.integers(options))
        offered.insert(label, second)
        questions.prompts.append(first)
        questions.options.append([f" {text}" for text in offered])
        questions.labels.append(label)
    return questions


def tokens(tokenizer, questions, *, length):
    """`Options` with at most `length` tokens per row, each after its question.

    See `tokenization.continuations`. Raises ValueError for an option that does not fit.
    """
    counts = [len(options) for options in questions.options]
    prompts = [
        p for p, n in zip(questions.prompts, counts, strict=True) for _ in [0] * n
    ]
    flat = [option for options in questions.options for option in options]
    texts = [option.lstrip() or option for option in flat]
    return Options(
        tokenization.continuations(tokenizer, prompts, flat, length=length),
        np.array([len(text) for text in texts]),
        np.array([len(text.encode()) for text in texts]),
        np.repeat(np.arange(len(counts)), counts),
        np.array(questions.labels),
    )


def drawn(rows, count):
    """At most `count` rows, in their order: a random but fixed sample."""
    order = np.random.default_rng(0).permutation(len(rows))[:count]
    return rows.select(np.sort(order))


def _after(prompt, option):
    """An option as it follows a prompt: a blank lies between them."""
    apart = prompt[-1:].isspace() or option[:1].isspace() or not prompt
    return option if apart else f" {option}"


def _halves(words):
    middle = len(words) // 2
    first = words[max(middle - 2 * _WORDS, 0) : middle]
    return " ".join(first), " ".join(words[middle : middle + _WORDS])
