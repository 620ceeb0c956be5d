"""What an OpenAI-compatible server's answers say of labels: JSON in, numbers out.

Every function raises `transport.Unusable`, with the reason, rather than read a number
into an answer that does not hold it: servers leave log-probs out, cut them short, shift
them by a token, or answer another prompt.
"""

import math
import re
from typing import NamedTuple

import numpy as np

from rlhf_jax import labeling
from rlhf_jax.feedback.labelers import Reading
from rlhf_jax.feedback.transport import Unusable

_ROUNDING = 1e-3  # nats above 0 that a log-prob may have
_NOISE = 0.25  # nats by which a server may differ from itself on the same context


class Scored(NamedTuple):
    """A label as the server's tokens."""

    tokens: tuple[str, ...]
    logp: float
    likeliest: dict[str, float] | None = None  # at the label's first token


def choices(data):
    """The answer's choices by their index; equal duplicates count once."""
    found = {}
    for position, choice in enumerate(data["choices"]):
        index = choice.get("index", position)
        if found.setdefault(index, choice) != choice:
            raise Unusable("two different answers to one prompt")
    if not found:
        raise Unusable("an answer without choices")
    return [found[index] for index in sorted(found)]


def text(choice):
    """What a choice says, of either kind of endpoint; a refusal to speak is no text."""
    message = choice.get("message")
    found = choice.get("text") if message is None else message.get("content")
    if not isinstance(found, str):
        raise Unusable("an answer without text")
    return found


def next_tokens(data):
    """{text: log-prob in nats} of the likeliest first tokens of an answer.

    Tokens of the same text add up, where a server tells them apart.
    """
    logprobs = choices(data)[0].get("logprobs") or {}
    if logprobs.get("content"):  # as in chat; llama.cpp's own completions, too
        top = logprobs["content"][0].get("top_logprobs") or []
        pairs = [(entry["token"], entry["logprob"]) for entry in top]
    else:
        tables = logprobs.get("top_logprobs") or [None]
        pairs = list((tables[0] or {}).items())
    if not pairs:
        raise Unusable("no log-probs of the next token")
    table = {}
    for token, logp in pairs:
        table[token] = np.logaddexp(table.get(token, -math.inf), _logp(logp))
    return {token: float(logp) for token, logp in table.items()}


def ids(data):
    """The ids that a tokenizer's route tells."""
    found = data["tokens"]
    if not all(isinstance(x, int) for x in found):
        raise Unusable("ids that are no integers")
    return list(found)


def _logp(value):
    """A log-prob; servers write −9999 or so for what is impossible."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unusable("a log-prob is missing")
    if math.isnan(value) or value > _ROUNDING:
        raise Unusable(f"{value} is no log-prob")
    return min(float(value), 0.0)


def echoed(data, prompt, label):
    """The label's `Scored` in an echo of prompt + label and at most one more token.

    It is found from the end, by the texts of tokens: their offsets are unreliable where
    a server drops BOS or halves of characters.
    """
    choice, whole = choices(data)[0], prompt + label
    entries = choice.get("logprobs") or {}
    tokens, logps = entries.get("tokens") or [], entries.get("token_logprobs") or []
    if not text(choice).startswith(whole):
        raise Unusable("the prompt is not echoed")
    if not tokens or len(tokens) != len(logps):
        raise Unusable("no log-probs of the echo, or not one a token")
    count = (data.get("usage") or {}).get("completion_tokens")
    written = count if isinstance(count, int) else text(choice) != whole
    start = end = len(tokens) - written
    rest = label
    while rest and start > 0:
        start -= 1
        if not tokens[start] or not rest.endswith(tokens[start]):
            if tokens[start] and tokens[start].endswith(rest):
                raise Unusable(
                    f"the label {label!r} and the prompt's end are one token"
                )
            raise Unusable("the echoed tokens are not the prompt's")
        rest = rest[: -len(tokens[start])]
    if rest or start == 0:
        raise Unusable("the echo is shorter than the prompt")
    before = tokens[start - 1]
    if not prompt.endswith(before) and "\ufffd" not in before:  # half a character
        raise Unusable("the echoed tokens are not the prompt's")
    tables = entries.get("top_logprobs") or []
    return Scored(
        tuple(tokens[start:end]),
        sum(_logp(logp) for logp in logps[start:end]),
        tables[start] if len(tables) == len(tokens) else None,
    )


def agreed(scored):
    """Raises Unusable unless all labels were read after one and the same context.

    The distribution of their first token is the same for all of them then; where a
    server's echo is shifted by a token, it is that of what follows the label.
    """
    tables = [x.likeliest for x in scored if x is not None and x.likeliest]
    for table in tables[1:]:
        for token in {max(tables[0], key=tables[0].get), max(table, key=table.get)}:
            one, other = tables[0].get(token), table.get(token)
            if one is None or other is None or abs(one - other) > _NOISE:
                raise Unusable("log-probs of the echo are not those after the prompt")


def reading(scored, usage):
    """The Reading of labels: a `Scored` each, or None for one that was not told.

    Labels exclude each other: where "10" is "1" and "0", p("1") is what is left of it
    without a 0 after it (`labeling.exclusive`). `outside` is 1 − Σ p, and is not known
    if a label was not told. Raises Unusable if the sum exceeds 1.
    """
    logps = np.array([-math.inf if x is None else x.logp for x in scored], np.float64)
    told = np.array([x is not None for x in scored])
    paths = [(i, None) if x is None else x.tokens for i, x in enumerate(scored)]
    alone = np.asarray(labeling.exclusive(logps[None], paths)[0], np.float64)
    logps = np.where(alone == np.float32(logps), logps, alone)  # most are as they were
    inside = float(np.exp(logps).sum())
    if inside > 1 + 1e-2:
        raise Unusable(f"the labels' probabilities sum to {inside:.3g}")
    outside = max(0.0, 1.0 - inside) if told.all() else math.nan
    return Reading(logps, told, outside, *usage)


def votes(texts, labels, usage):
    """The Reading of samples: log of the share that begins with each label.

    A label that no sample gave is not told: its probability is small, and not 0.
    """
    counts = np.zeros(len(labels))
    order = sorted(range(len(labels)), key=lambda i: -len(labels[i].strip()))
    for sample in texts:
        for i in order:
            if re.match(rf"{re.escape(labels[i].strip())}(?!\w)", sample.strip()):
                counts[i] += 1
                break
    with np.errstate(divide="ignore"):
        logps = np.log(counts / len(texts))
    return Reading(logps, counts > 0, float(1 - counts.sum() / len(texts)), *usage)
