"""Single answers with labels as arrays, for KTO; pairs become two answers each."""

import numpy as np

from rlhf_jax.algorithms import unpaired
from rlhf_jax.data import origins, preferences
from rlhf_jax.tasks import models, pairs, rows

_COLUMNS = ("prompt", "completion", "label")


def read(dataset, data, model, tokenizer):
    """(training `unpaired.Batch`, held-out one, lines about them), without what a
    reference says.

    Rows hold prompt, completion and label (true: desirable), or are pairs as
    `preferences.read` takes them, whose chosen answers are desirable and whose rejected
    ones are not. Args: dataset, data: as for `rows.read`. Raises ValueError, naming the
    row, for a label that is none.
    """
    length, made, about = models.length(data.length, model), [], []
    parts = rows.read(dataset, data)
    for name, part in zip(("training", "held-out"), parts, strict=True):
        texts, labels = _texts(part, tokenizer, data.cue)
        made.append(encode(texts, labels, tokenizer, length=length))
        width = made[-1].own.tokens.shape[1]
        count = f"{len(labels)} {name} answers of up to {width}"
        about.append(f"{count}, {int(labels.sum())} of them desirable")
    return *made, about


def encode(texts, labels, tokenizer, *, length):
    """`unpaired.Batch` of (prompts, answers) and labels [N] of 0 and 1.

    The mismatched answer of a row is that of another one, whose prompt differs where
    any does. length: tokens of a row, at most.
    """
    prompts, answers = texts
    others = [answers[i] for i in mismatched(prompts)]
    both = preferences.Pairs(prompts, answers, others)
    both, starts = pairs.encode(both, tokenizer, length=length)
    reference = np.zeros((len(starts), 2), np.float32)
    return unpaired.Batch(
        unpaired.Rows(both.chosen, both.chosen_mask, starts),
        unpaired.Rows(both.rejected, both.rejected_mask, starts),
        np.asarray(labels, np.float32),
        reference,
        reference[:, 0],
    )


def mismatched(prompts, *, tries=64):
    """Which row's answer each prompt is put beside for KTO's baseline: [N] int.

    The rows are turned round by the fewest places that put no prompt beside an answer
    of its own, or beside as few as possible in so many tries.
    """
    index = np.unique(prompts, return_inverse=True)[1].reshape(-1)
    shifts = range(1, min(len(prompts), tries + 1))
    same = {shift: (index == np.roll(index, shift)).sum() for shift in shifts}
    return np.roll(np.arange(len(prompts)), min(same, key=same.get, default=0))


def _texts(part, tokenizer, cue):
    """((prompts, answers), labels [N] of 0 and 1) of rows of either kind."""
    names = part.column_names
    if not set(_COLUMNS) <= set(names) and {"chosen", "rejected"} <= set(names):
        both = preferences.read(part, tokenizer, cue=cue)
        _check_hard(both.preference)
        labels = np.repeat([1.0, 0.0], len(part))
        return (both.prompts * 2, both.chosen + both.rejected), labels
    if missing := [name for name in _COLUMNS if name not in names]:
        raise ValueError(
            f"columns {', '.join(names)}: KTO needs prompt, completion and label, or "
            f"pairs in chosen and rejected; there is no {missing[0]}; name yours with "
            f"columns {missing[0]}=..."
        )
    answers = list(part["completion"])
    for i, answer in enumerate(answers):
        if not isinstance(answer, str | list):
            raise ValueError(
                f"{origins.words(part, i)}: completion is {answer!r}; it is a text or "
                "a list of messages"
            )
    labels = [_label(part, i, label) for i, label in enumerate(part["label"])]
    sides = {"prompt": list(part["prompt"]), "chosen": answers, "rejected": answers}
    both = preferences.read(type(part).from_dict(sides), tokenizer, cue=cue)
    return (both.prompts, both.chosen), np.array(labels)


def _check_hard(preference):
    odd = [p for p in preference or () if p != 1]
    if odd:
        raise ValueError(
            f"preference is {odd[0]:g} in {len(odd)} rows: KTO takes answers that are "
            "desirable or not; leave the column out, or choose a loss with soft labels"
        )


def _label(part, row, label):
    if not isinstance(label, bool | int | float) or label not in (0, 1):
        raise ValueError(
            f"{origins.words(part, row)}: label is {label!r}; write true for a "
            "desirable answer and false for another"
        )
    return float(label)
