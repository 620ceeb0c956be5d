"""Preference rows as arrays, for reward models and for learning from pairs alike."""

from typing import NamedTuple

import numpy as np

from rlhf_jax.cli import recipes
from rlhf_jax.data import preferences, stop_tokens, tokenization
from rlhf_jax.tasks import models
from rlhf_jax.types import Preferences


class Pairs(NamedTuple):
    """Tokens of both answers, and where the answers begin."""

    pairs: Preferences  # [N, L], margins set
    starts: np.ndarray  # [N] int32


def read(config, model, tokenizer, *, margin=0.0, ended=True):
    """(training `Pairs`, held-out `Pairs`, lines about them).

    margin: of rows without a column of that name; ended: answers end with the token
    that ends answers.
    """
    length = models.length(config.data.length, model)
    found, about = [], []
    for name, rows in zip(("training", "held-out"), recipes.rows(config), strict=True):
        texts = preferences.read(rows, tokenizer, cue=config.data.cue)
        pairs, starts = tokenization.pairs_from(
            tokenizer,
            *texts[:3],
            length=length,
            preference=texts.preference,
            end=stop_tokens.end_id(tokenizer) if ended else (),
        )
        margins = np.full(len(starts), margin) if texts.margin is None else texts.margin
        pairs = pairs._replace(margin=np.asarray(margins, np.float32))
        pairs = models.narrow(pairs, [pairs.chosen_mask, pairs.rejected_mask])
        found.append(Pairs(pairs, starts))
        about.append(f"{len(starts)} {name} pairs of up to {pairs.chosen.shape[1]}")
    return *found, about
