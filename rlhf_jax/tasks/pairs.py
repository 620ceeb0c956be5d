"""Preference rows as arrays, for reward models and preference optimisation."""

from typing import NamedTuple

import numpy as np

from rlhf_jax.data import preferences, stop_tokens, tokenization
from rlhf_jax.tasks import models, rows
from rlhf_jax.types import Preferences


class Pairs(NamedTuple):
    """Tokens of both answers, and where the answers begin."""

    pairs: Preferences  # [N, L], margins set
    starts: np.ndarray  # [N] int32


def read(dataset, data, model, tokenizer, *, margin=0.0, ended=True):
    """(training `Pairs`, held-out `Pairs`, lines about them).

    Args: dataset, data: as for `rows.read`; margin: for rows without a column of that
    name; ended: append the end token to answers.
    """
    length = models.length(data.length, model)
    end = stop_tokens.end_id(tokenizer) if ended else ()
    encoded, about = [], []
    parts = rows.read(dataset, data)
    for name, part in zip(("training", "held-out"), parts, strict=True):
        texts = preferences.read(part, tokenizer, cue=data.cue)
        pairs, starts = tokenization.pairs(
            tokenizer, *texts[:3], length=length, preference=texts.preference, end=end
        )
        margins = np.full(len(starts), margin) if texts.margin is None else texts.margin
        pairs = pairs._replace(margin=np.asarray(margins, np.float32))
        pairs = models.narrow(pairs, [pairs.chosen_mask, pairs.rejected_mask])
        encoded.append(Pairs(pairs, starts))
        about.append(f"{len(starts)} {name} pairs of up to {pairs.chosen.shape[1]}")
    return *encoded, about
