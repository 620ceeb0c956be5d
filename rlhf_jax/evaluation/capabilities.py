"""Exact match and log-probs of answers: what a policy can still do."""

import numpy as np


def same_text(completions, answers):
    """Is each completion its answer, or one of its answers, up to white space and case?

    completions [N] str; answers [N] str, or sequences of str. Returns [N] bool.
    """
    hits = []
    for completion, answer in zip(completions, answers, strict=True):
        accepted = [answer] if isinstance(answer, str) else answer
        hits.append(_folded(completion) in {_folded(text) for text in accepted})
    return np.array(hits, bool)


def answer_logps(logps, mask):
    """Σ log π over each answer's tokens; it still changes where accuracy is 0 or 1.

    logps, mask [N, T]. Returns [N] in nats.
    """
    valid = np.asarray(mask) != 0
    return np.where(valid, np.asarray(logps, np.float64), 0.0).sum(-1)


def _folded(text):
    return " ".join(text.split()).casefold()
