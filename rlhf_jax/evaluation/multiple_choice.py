"""Multiple choice: which of the answers offered does a policy find the likeliest?

How capabilities of a base model are read without generating anything (ARC, BoolQ, PIQA
as EleutherAI's harness has them). R options of all questions, one after another; Q
questions.
"""

import numpy as np


def pick(totals, lengths, questions):
    """argmax over a question's options of log π(option | question) / length: [Q] int.

    With lengths in characters it is the harness' `acc_norm`, with ones its `acc`. The
    first of equals is picked; a NaN counts as −inf, as an option never to be picked.

    Args: totals [R], nats; lengths [R] > 0; questions [R] int, 0 to Q − 1, ascending
    and each of them there. Returns the position of the pick among its own options.
    """
    totals, questions = np.asarray(totals, np.float64), np.asarray(questions)
    starts = np.flatnonzero(np.diff(questions, prepend=-1))
    scores = totals / np.asarray(lengths, np.float64)
    scores = np.where(np.isnan(scores), -np.inf, scores)
    best = np.maximum.reduceat(scores, starts)
    place = np.arange(len(scores)) - starts[questions]
    hits = np.where(scores == best[questions], place, len(scores))
    return np.minimum.reduceat(hits, starts)


def chance(questions):
    """What a blind guess scores: the mean of 1 / options over questions, a float.

    questions [R] as in `pick`.
    """
    _, options = np.unique(np.asarray(questions), return_counts=True)
    return float(np.mean(1.0 / options))
