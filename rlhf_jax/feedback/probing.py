"""What an OpenAI-compatible endpoint can do, found by asking it once."""

import threading

from rlhf_jax.feedback import pacing, ways
from rlhf_jax.feedback.transport import Unusable

_TOPS = (20, 5, 1)  # how many likeliest tokens to ask for: the most that is allowed
_LENGTHS = ("max_tokens", "max_completion_tokens")  # vendors changed its name in chat
_SAME = 0.1  # nats by which an echo may differ from what the next token's table says
_CHECKED = 3  # likeliest tokens on which an echo is checked
_UNLIKELY = (" the", " A", " B", " of", " 7", "!", "?")
_WHY = {
    "ids": "log-probs of tokens that are named are told: one request for many labels",
    "echo": "the echo's log-probs are those of the next token: labels of any length "
    "are scored exactly",
    "top": "the likeliest next tokens are told: a label that is not among them is not",
    "votes": "no log-probs are told: labels are scored by shares of samples",
}


def probe(server, kind, example):
    """The facts of a `ways.Server`: a dictionary that JSON can hold.

    `kind` and `way` are what was chosen, `why` is the reason, `tried` what each attempt
    came to. Raises ValueError if the server is not reached or answers nothing of use.
    """
    if kind not in ("auto", "completions", "chat"):
        raise ValueError(f"kind={kind!r}: auto, completions or chat")
    kinds = ("completions", "chat") if kind == "auto" else (kind,)
    tried = {}
    for attempt in (_by_log_probs, _by_samples):
        for each in kinds:
            facts = attempt(server, each, example, tried)
            if facts is not None:
                return facts | {"why": _WHY[facts["way"]], "tried": tried}
    raise ValueError(
        f"{server.model} answers nothing that labels can be read from: {tried}"
    )


def _attempt(server, facts, tried, name, call):
    """What `call(asker)` returns, or None where the server says no."""
    asker = ways.asker(server, facts, threading.Event(), retries=1)
    try:
        found = call(asker)
    except Unusable as error:
        tried[name] = str(error)
        return None
    except pacing.Refused as error:
        if not error.answered:
            raise ValueError(f"the server cannot be probed: {error}") from None
        tried[name] = str(error)
        return None
    tried[name] = "works"
    return found


def _by_log_probs(server, kind, example, tried):
    for length in _LENGTHS[: 2 if kind == "chat" else 1]:
        for top in _TOPS:
            facts = {"kind": kind, "way": "top", "top": top, "length": length}
            name = f"{kind}, {length}, top {top}"
            found = _attempt(
                server, facts, tried, name,
                lambda x, facts=facts: ways.likeliest(x.ask, facts, example),
            )  # fmt: skip
            if found is None and tried[name].startswith("HTTP"):
                continue
            if found is None:  # fewer would not be told either
                return None
            table, _ = found
            facts["told"] = len(table)
            if kind == "completions" and _names(server, facts, example, table, tried):
                facts["way"] = "ids"
            elif kind == "completions" and _echoes(
                server, facts, example, table, tried
            ):
                facts["way"] = "echo"
            return facts
    return None


def _names(server, facts, example, table, tried):
    """Whether the server tells of tokens that are named, likely or not."""
    unlikely = [token for token in _UNLIKELY if token not in table][:1]
    likely, name = max(table, key=table.get), "logprob_token_ids"
    found = _attempt(
        server, facts, tried, name,
        lambda x: ways.by_ids(x, facts, example, (likely, *unlikely), {})(x.usage()),
    )  # fmt: skip
    if found is None:
        return False
    right = abs(found.logps[0] - table[likely]) <= _SAME
    if not (unlikely and right and found.told.all()):
        tried[name] = "ignored: the tokens that were named are not told"
        return False
    return True


def _echoes(server, facts, example, table, tried):
    """Whether echoed log-probs are the next token's, on its likeliest values."""
    likeliest = sorted((t for t in table if t.strip()), key=table.get, reverse=True)
    right = 0
    for token in likeliest[:_CHECKED]:
        name = f"echo of {token!r}"
        scored = _attempt(
            server, facts, tried, name,
            lambda asker, token=token: ways.echo(asker.ask, example, token),
        )  # fmt: skip
        if scored is None or scored.tokens != (token,):
            continue  # perhaps the tokenizer joins it to the prompt
        if abs(scored.logp - table[token]) > _SAME:
            tried[name] = (
                f"wrong: {scored.logp:.3f} nats, and {table[token]:.3f} as a next token"
            )
            return False
        right += 1
    return right > 0


def _by_samples(server, kind, example, tried):
    for length in _LENGTHS[: 2 if kind == "chat" else 1]:
        for many in (True, False):
            facts = {"kind": kind, "way": "votes", "length": length, "many": many}
            name = f"{kind}, {length}, {'n samples' if many else 'a sample'}"
            found = _attempt(
                server, facts, tried, name,
                lambda asker, many=many: ways.sampled(asker.ask, example, 2, many),
            )  # fmt: skip
            if found is not None:
                return facts
    return None
