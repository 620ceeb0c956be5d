"""A judge of text that is no neural network: naive Bayes on words and pairs of words.

Wang & Manning 2012, "Baselines and Bigrams: Simple, Good Sentiment and Topic
Classification". It learns from any number of texts in seconds, and what fools a network
need not fool it: a gold reward of another architecture.
"""

import collections
import math
import re
from typing import NamedTuple

import numpy as np

_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?|n't|[!?]")


class Bigrams(NamedTuple):
    """What a text's features say for the label against all others, in nats."""

    weights: dict[str, float]
    bias: float


def fit(texts, labels, *, label=1, smoothing=1.0):
    """`Bigrams` of labelled texts.

        w_f = log (α + n_f)/Σ_g (α + n_g) − log (α + m_f)/Σ_g (α + m_g),
        b = log N/M

    n_f counts the N texts of the label that hold feature f, m_f the M others.

    Args: texts, labels: [N]; label: the class to tell; smoothing: α > 0.
    Raises ValueError where the label is that of all texts, or of none.
    """
    labels = np.asarray(labels) == label
    if len(labels) != len(texts) or labels.all() or not labels.any():
        raise ValueError(
            f"label {label}: {labels.sum()} of {len(texts)} texts have it; some must, "
            "and some must not"
        )
    counts = collections.Counter(), collections.Counter()
    for text, own in zip(texts, labels, strict=True):
        counts[int(own)].update(features(text))
    known = set(counts[0]) | set(counts[1])
    totals = [math.log(sum(c.values()) + smoothing * len(known)) for c in counts]
    weights = {
        f: math.log(counts[1][f] + smoothing) - math.log(counts[0][f] + smoothing)
        - totals[1] + totals[0]
        for f in known
    }  # fmt: skip
    return Bigrams(weights, math.log(labels.sum() / (~labels).sum()))


def log_odds(model, texts):
    """log P(label | text)/P(other | text) in nats: [N]. Unknown features say nothing.

    Features of a text are taken as independent, so it is too sure; and more so the
    longer a text is. Its sign, and its order at equal length, are what it is good for.
    """
    weights = model.weights
    return np.array(
        [model.bias + sum(weights.get(f, 0.0) for f in features(x)) for x in texts]
    )


def features(text):
    """The words of a text and its pairs of neighbouring words: a set, in lower case."""
    words = _WORD.findall(text.lower())
    return set(words) | {f"{a} {b}" for a, b in zip(words, words[1:], strict=False)}
