"""Answers in writing, compared with those that are right: texts in, numbers out.

Exact match and F1 are those of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250): over
the words left by `normalize`, the best of several right answers.
"""

import collections
import decimal
import re
import string

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMBER = re.compile(r"(?:(?<![\w)])-)?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_FINAL = "####"  # before the result, as in GSM8K


def normalize(text):
    """Lower case, without punctuation, articles, and blanks but one between words."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", text).split())


def exact_match(prediction, references):
    """1.0 if the normalised prediction is one of the normalised references, else 0.0.

    references: at least one.
    """
    return float(normalize(prediction) in map(normalize, references))


def f1(prediction, references):
    """max over references of 2PR/(P + R) of the words shared, counted with repeats.

    Without words on a side, 1.0 if there are none on the other either, else 0.0.
    references: at least one.
    """
    return max(_f1(normalize(prediction).split(), normalize(r).split())
               for r in references)  # fmt: skip


def final_number(text):
    """The number after the first "####", or else the last number; None without one.

    "$1,234.50" is Decimal("1234.5"); a minus sign counts unless it is a subtraction
    without blanks.
    """
    _, marked, result = text.partition(_FINAL)
    found = _NUMBER.findall(result if marked else text)
    if not found:
        return None
    number = found[0 if marked else -1]
    return decimal.Decimal(number.replace(",", "").replace("$", "")).normalize()


def same_number(prediction, references):
    """1.0 if the final numbers of prediction and a reference are equal, else 0.0."""
    number = final_number(prediction)
    right = number is not None and number in map(final_number, references)
    return float(right)


def _f1(predicted, right):
    if not predicted or not right:
        return float(predicted == right)
    shared = (collections.Counter(predicted) & collections.Counter(right)).total()
    return 2 * shared / (len(predicted) + len(right))
