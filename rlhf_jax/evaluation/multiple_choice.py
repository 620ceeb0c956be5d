"""Multiple choice: which option does a policy find the likeliest?

This measures capabilities of a base model without generation (ARC, BoolQ, PIQA, as in
EleutherAI's harness). Q questions; R options of all questions, concatenated.
"""

import numpy as np


def pick(totals, lengths, questions):
    """argmax over a question's options of log π(option | question) / length: [Q] int.

    With lengths in characters this is the harness's `acc_norm`, with ones its `acc`.
    The first of ties is picked; NaN counts as −inf.

    Args: totals [R], nats; lengths [R] > 0; questions [R] int, ascending, with every
    number from 0 to Q − 1. Returns the index of the pick among the question's options.
    """
    totals, questions = np.asarray(totals, np.float64), np.asarray(questions)
    starts = np.flatnonzero(np.diff(questions, prepend=-1))
    scores = totals / np.asarray(lengths, np.float64)
    scores = np.where(np.isnan(scores), -np.inf, scores)
    best = np.maximum.reduceat(scores, starts)
    index = np.arange(len(scores)) - starts[questions]
    hits = np.where(scores == best[questions], index, len(scores))
    return np.minimum.reduceat(hits, starts)


def probabilities(totals, questions):
    """π(option | question) / Σ over the question's options: [R], each question's sum 1.

    NaN counts as −inf; where all options are −inf they are equally likely. Arguments as
    in `pick`.
    """
    totals, questions = np.asarray(totals, np.float64), np.asarray(questions)
    starts = np.flatnonzero(np.diff(questions, prepend=-1))
    totals = np.where(np.isnan(totals), -np.inf, totals)
    best = np.maximum.reduceat(totals, starts)[questions]
    hopeless = np.isneginf(best)
    weights = np.exp(np.where(hopeless, 0.0, totals - np.where(hopeless, 0.0, best)))
    return weights / np.add.reduceat(weights, starts)[questions]


def chance(questions):
    """The accuracy of guessing: the mean of 1 / options over questions, a float.

    questions [R] as in `pick`.
    """
    _, options = np.unique(np.asarray(questions), return_counts=True)
    return float(np.mean(1.0 / options))
