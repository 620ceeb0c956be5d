"""The ways to read labels from an OpenAI-compatible endpoint, one prompt each.

Every way asks, and returns a function that makes the result from what was used: the
requests of one prompt are counted together.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from rlhf_jax.feedback import pacing, replies
from rlhf_jax.feedback.labelers import Written
from rlhf_jax.feedback.transport import Unusable

VOTE_TOKENS = 8  # of a sample, which is to begin with its label
_ENDING = 16  # characters of a prompt that decide how a label behind it is spelled
_ECHO_TOP = 5  # likeliest tokens to compare the echoes of labels by


@dataclasses.dataclass(frozen=True)
class Server:
    """A model behind `transport.sender`'s `send`."""

    send: Callable
    model: str
    system: str | None = None  # a system message, in chat


class Asker(NamedTuple):
    """One prompt's requests."""

    ask: Callable  # (prompt, read, new, **body): a request for at most `new` tokens
    tokenize: Callable  # text -> ids, where a server has such a route
    usage: Callable  # () -> the Usage of all requests


def asker(server, facts, closing, retries=None):
    """An `Asker`; what a request returns is `read` by a function of `replies`."""
    used = [pacing.Usage(0, 0)]

    def ask(prompt, read, new, samples=1, **body):
        chat = facts["kind"] == "chat"
        system = (server.system or "") if chat else ""
        if chat:
            turns = [("system", system)] * bool(system) + [("user", prompt)]
            body["messages"] = [{"role": who, "content": what} for who, what in turns]
        else:
            body["prompt"] = prompt
        body |= {"model": server.model, facts.get("length", "max_tokens"): new}
        body |= {"n": samples} if samples > 1 else {}
        expected = pacing.expected(system + prompt, new * samples)
        answer, usage = server.send(
            facts["kind"], body, expected, read, closing, retries
        )
        used.append(usage)
        return answer

    def tokenize(text):
        body = {"model": server.model, "prompt": text, "add_special_tokens": False}
        free = pacing.Usage(0, 0)
        return server.send("tokenize", body, free, replies.ids, closing, retries)[0]

    def usage():
        return pacing.Usage(*map(sum, zip(*used, strict=True)))

    return Asker(ask, tokenize, usage)


def write(ask, prompt, decoding):
    """A text by a `Decoding`."""
    body = {"temperature": decoding.temperature, "seed": decoding.seed}
    body |= {"top_k": decoding.top_k} if decoding.top_k else {}
    body |= {"stop": list(decoding.stop)} if decoding.stop else {}

    def read(data):
        return replies.text(replies.choices(data)[0])

    text = ask(prompt, read, decoding.max_tokens, **body)
    return lambda usage: Written(text, *usage)


def by_echo(ask, prompt, labels):
    """log p(label | prompt) from the echo of prompt + label, a request a label."""
    scored = [echo(ask, prompt, label) for label in labels]
    replies.agreed(scored)
    return lambda usage: replies.reading(scored, usage)


def echo(ask, prompt, label):
    """`replies.echoed` of one label; one more token is asked for, as few servers take
    0 and llama-cpp-python writes on to the end of its context then."""

    def read(data):
        return replies.echoed(data, prompt, label)

    return ask(prompt + label, read, 1, echo=True, logprobs=_ECHO_TOP, temperature=0)


def by_top(ask, facts, prompt, labels, pieces):
    """log p(label | prompt) from the likeliest next tokens.

    Args: pieces: {label: tokens}, filled in by the server's counts of what it read: a
    label of one token is never read as the sum of others.
    """
    tables = {}

    def after(consumed, level):
        """({token: log-prob}, tokens read) after the prompt and a part of a label."""
        if consumed not in tables:
            tables[consumed] = likeliest(ask, facts, prompt + consumed)
        return tables[consumed]

    forced = facts["kind"] == "completions"
    scored = [_walk(after, label, pieces, forced) for label in labels]
    return lambda usage: replies.reading(scored, usage)


def by_ids(asker, facts, prompt, labels, spellings):
    """log p(label | prompt) by vLLM's `logprob_token_ids`: one request for all labels,
    and one more for each token after which a label goes on.

    Args: spellings: {(end of a prompt, label): its ids}, filled in as they are known.
    """
    spelled = {x: _spelling(asker.tokenize, prompt, x, spellings) for x in labels}
    pieces, tables = {label: len(ids) for label, ids in spelled.items()}, {}

    def after(consumed, level):
        if consumed not in tables:
            wanted = {
                ids[level]
                for label, ids in spelled.items()
                if label.startswith(consumed) and len(ids) > level
            }
            tables[consumed] = likeliest(
                asker.ask, facts, prompt + consumed, logprob_token_ids=sorted(wanted)
            )
        return tables[consumed]

    scored = [_walk(after, label, pieces, True) for label in labels]
    return lambda usage: replies.reading(scored, usage)


def _spelling(tokenize, prompt, label, spellings):
    """The ids of a label behind a prompt; prompts that end alike share them."""
    key = prompt[-_ENDING:], label
    if key not in spellings:
        before, whole = tokenize(prompt), tokenize(prompt + label)
        if whole[: len(before)] != before:
            raise Unusable(f"the label {label!r} and the prompt's end are one token")
        spellings[key] = whole[len(before) :]
    return spellings[key]


def likeliest(ask, facts, prompt, **more):
    """({token: log-prob} of the next token, tokens that the server read or None)."""

    def read(data):
        size = (data.get("usage") or {}).get("prompt_tokens")
        return replies.next_tokens(data), size

    body = {"logprobs": facts["top"]}
    if facts["kind"] == "chat":
        body = {"logprobs": True, "top_logprobs": facts["top"]}
    return ask(prompt, read, 1, temperature=0, **body, **more)


def _walk(after, label, pieces, forced):
    """The label's `Scored`, or None where the server does not tell it."""
    (table, size), rest, tokens, logp = after("", 0), label, (), 0.0
    if label not in table:
        if not forced or not _beginnings(table, label):
            return None
        if label not in pieces:
            whole = after(label, 1)[1]
            pieces[label] = 1 if None in (size, whole) else whole - size
        if pieces[label] < 2:
            return None
    while rest not in table:
        begun = _beginnings(table, rest)
        if not begun:
            return None
        token = max(begun, key=len)
        tokens, logp, rest = (*tokens, token), logp + table[token], rest[len(token) :]
        table, _ = after(label[: len(label) - len(rest)], len(tokens))
    tokens = (*tokens, rest)
    if len(tokens) != pieces.get(label, len(tokens)):
        return None  # spelled otherwise than the server's tokenizer does
    return replies.Scored(tokens, logp + table[rest])


def _beginnings(table, text):
    return [token for token in table if token and text.startswith(token)]


def by_votes(ask, facts, prompt, labels, votes):
    """Shares of sampled answers that begin with each label."""
    texts = sampled(ask, prompt, votes, facts.get("many", False))
    return lambda usage: replies.votes(texts, labels, usage)


def sampled(ask, prompt, votes, many):
    """Samples at temperature 1, several a request where the server takes `n`."""

    def read(data):
        return [replies.text(choice) for choice in replies.choices(data)]

    texts = []
    while len(texts) < votes:
        left = votes - len(texts) if many else 1
        body = {"temperature": 1.0, "seed": len(texts), "samples": left}
        texts += ask(prompt, read, VOTE_TOKENS, **body)[:left]
    return texts
