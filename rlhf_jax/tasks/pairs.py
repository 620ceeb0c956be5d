"""Preference rows as arrays, for reward models and preference optimisation."""

import re
from typing import NamedTuple

import numpy as np

from rlhf_jax.benchmarks import suites
from rlhf_jax.data import preferences, sources, spans, stop_tokens, tokenization
from rlhf_jax.tasks import models, rows
from rlhf_jax.types import Preferences

_FORMAT = re.compile(r"\.(jsonl|json|csv|parquet)(\.gz)?$")
_PARTS = 3  # widths that rows are scored at: all columns, a half, a quarter
_FEW = 64  # rows that are not worth a program of their own width


class Pairs(NamedTuple):
    """Tokens of both answers, and where the answers begin."""

    pairs: Preferences  # [N, L], margins set
    starts: np.ndarray  # [N] int32


class Measured(NamedTuple):
    """A preference set to test a reward model on."""

    pairs: Preferences  # [N, L]
    lengths: np.ndarray  # [N, 2] characters of the chosen and of the rejected answer


def read(dataset, data, model, tokenizer, *, chat=False, **how):
    """(training `Pairs`, held-out `Pairs`, lines about them).

    Args: dataset, data: as for `rows.read`; chat: as for `preferences.read`; how: as
    for `encode`.
    """
    how = {"length": models.length(data.length, model), **how}
    found = rows.parts(dataset, data, among=preferences.KINDS)
    encoded, about = [], list(found.about)
    for name, part in (("training", found.train), ("held-out", found.held)):
        texts = preferences.read(part, tokenizer, cue=data.cue, chat=chat)
        made = encode(texts, tokenizer, **how)
        encoded.append(made)
        width = made.pairs.chosen.shape[1]
        about.append(f"{len(made.starts)} {name} pairs of up to {width}")
        cut = spans.count_long(tokenizer, *texts[:3], length=how["length"])
        about[-1] += f"; {cut} cut to {how['length']} tokens" * (cut > 0)
    about.append(preferences.form(found.train, tokenizer, cue=data.cue, chat=chat))
    return *encoded, about


def read_sets(specs, data, model, tokenizer, *, count, chat=False, **how):
    """{name: `Measured`} of preference sets, called by their folders or files.

    Args: specs: "PATH" or "PATH:SPLIT" each, the split "test" by default; data: its
    cue, length and columns count; count: pairs of a set, at most, a random sample that
    is the same every time; chat: as for `preferences.read`; how: as for `encode`.
    Raises ValueError for two sets of one name, and for rows that are no pairs.
    """
    how = {"length": models.length(data.length, model), **how}
    read = {}
    for spec in specs:
        path, split = suites.path_and_split(spec)
        name = _FORMAT.sub("", suites.suite_name(spec))
        if name in read:
            raise ValueError(
                f"--test {' '.join(specs)}: two sets are called {name}; rename one"
            )
        columns = rows.renames(data.columns)
        part = sources.load(path, split=split, columns=columns, marked=True)
        part = rows.sample(part, count)
        try:
            texts = preferences.read(part, tokenizer, cue=data.cue, chat=chat)
        except ValueError as error:
            raise ValueError(f"--test {spec}: {error}") from None
        read[name] = measured(texts, encode(texts, tokenizer, **how))
    return read


def measured(texts, encoded):
    """`Measured` of `preferences.Pairs` and of the `Pairs` that they became."""
    lengths = [[len(text) for text in side] for side in (texts.chosen, texts.rejected)]
    return Measured(encoded.pairs, np.transpose(lengths))


def encode(texts, tokenizer, *, length, margin=0.0, ended=True):
    """`Pairs` of `preferences.Pairs`.

    Args: length: tokens of a row, at most; margin: for rows without one of their own;
    ended: append the end token to answers.
    """
    end = stop_tokens.end_id(tokenizer) if ended else ()
    pairs, starts = tokenization.pairs(
        tokenizer, *texts[:3], length=length, preference=texts.preference, end=end
    )
    margins = np.full(len(starts), margin) if texts.margin is None else texts.margin
    pairs = pairs._replace(margin=np.asarray(margins, np.float32))
    pairs = models.narrow(pairs, [pairs.chosen_mask, pairs.rejected_mask])
    return Pairs(pairs, starts)


def scores(score, params, pairs):
    """[N, 2]: scores of the chosen and of the rejected answers of `Preferences`.

    Short rows are scored without the columns that only long ones need, at a half and at
    a quarter of the width. score(params, (tokens, mask)) -> [rows] on the host.
    """
    tokens = np.concatenate([pairs.chosen, pairs.rejected])
    mask = np.concatenate([pairs.chosen_mask, pairs.rejected_mask])
    needed = (mask * np.arange(1, mask.shape[1] + 1)).max(-1)
    widths = [max(mask.shape[1] >> k, 1) for k in reversed(range(_PARTS))]
    found, open_ = np.empty(len(tokens)), np.ones(len(tokens), bool)
    for width in widths:
        part = np.flatnonzero(open_ & (needed <= width))
        if len(part) and (len(part) >= _FEW or width == widths[-1]):
            found[part] = score(params, (tokens[part, :width], mask[part, :width]))
            open_[part] = False
    return found.reshape(2, -1).T
