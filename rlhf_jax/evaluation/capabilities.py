"""What a policy can still do: exact match, answer by answer and skill by skill."""

from typing import NamedTuple

import numpy as np


class Accuracy(NamedTuple):
    """A share of right answers."""

    mean: float  # in [0, 1]
    error: float  # binomial standard error
    count: int


def same_tokens(tokens, mask, answers, answer_mask):
    """Does the response hold exactly the tokens of the answer?

    Args: tokens, mask [N, T]; answers, answer_mask [N, A]; the valid tokens of each row
    are compared, whatever the padding. Returns [N] bool.
    """
    pairs = zip(_sequences(tokens, mask), _sequences(answers, answer_mask), strict=True)
    return np.array([given == wanted for given, wanted in pairs], bool)


def same_text(completions, answers):
    """Is the completion the answer (or one of its answers), white space and case apart?

    completions [N] str; answers [N] str, or sequences of str. Returns [N] bool.
    """
    hits = []
    for completion, answer in zip(completions, answers, strict=True):
        accepted = [answer] if isinstance(answer, str) else answer
        hits.append(_folded(completion) in {_folded(text) for text in accepted})
    return np.array(hits, bool)


def accuracy(correct, groups=None):
    """{"all": Accuracy, <group>: Accuracy, ...}, "all" over rows.

    correct [N] bool; groups [N], the skill each row asks for.
    """
    correct = np.asarray(correct, np.float64)
    result = {"all": _accuracy(correct)}
    if groups is not None:
        groups = np.asarray(groups)
        for group in np.unique(groups).tolist():
            result[str(group)] = _accuracy(correct[groups == group])
    return result


def answer_logps(logps, mask):
    """Σ log π of each answer's tokens: what accuracy of 0 or 1 cannot show any more.

    logps [N, T], mask [N, T]. Returns [N] nats.
    """
    valid = np.asarray(mask) != 0
    return np.where(valid, np.asarray(logps, np.float64), 0.0).sum(-1)


def _accuracy(correct):
    if len(correct) == 0:
        return Accuracy(float("nan"), float("nan"), 0)
    share = float(correct.mean())
    return Accuracy(share, (share * (1 - share) / len(correct)) ** 0.5, len(correct))


def _folded(text):
    return " ".join(text.split()).casefold()


def _sequences(tokens, mask):
    tokens, mask = np.asarray(tokens), np.asarray(mask) != 0
    return [row[valid].tolist() for row, valid in zip(tokens, mask, strict=True)]
