"""Requests to a server that fails, is slow, limits its users, and costs money.

By the official `openai` client, an extra: pip install 'rlhf_jax[feedback]'. The key is
read from an environment variable and handed to the client, and is cut out of every
text that comes back: neither answers nor reasons for failure can hold it.
"""

import email.utils
import json
import os
import re
import time
from typing import NamedTuple
from urllib import parse

from rlhf_jax.feedback import pacing
from rlhf_jax.feedback.pacing import Refused, Usage

_PATIENCE = 600.0  # seconds that a server may ask to wait
_NO_KEY = "no-key"


class Unusable(Exception):
    """An answer that was paid for and cannot be read; the message is the reason."""


def sender(base_url, key_env, limits):
    """(send, URL), for any number of threads at once.

    `send(route, body, expected, read, closing, retries=None)` returns (what `read`
    makes of the parsed answer, the Usage of all attempts). An answer at which `read`
    raises Unusable is asked for once more. `send` raises Refused, with the reason, when
    there is no answer after all retries, when the budget is spent, or once the event
    `closing` is set.
    """
    post, url = _client(base_url, key_env, limits.timeout)
    wait, hold = pacing.pace(limits)
    reserve, settle = pacing.purse(limits)
    shut = []  # why no request can succeed any more

    def send(route, body, expected, read, closing, retries=None):
        retries = limits.retries if retries is None else min(retries, limits.retries)
        paid, unusable = Usage(0, 0), 0
        for attempt in range(retries + 1):
            if shut:
                raise Refused(shut[0])
            reserve(expected, closing)
            used = Usage(0, 0)
            try:
                wait(sum(expected), closing)
                text, failed = post(route, body)
                if failed is None:
                    answer, used, failed = _parsed(text, expected, read)
                elif failed.lost:
                    used = expected
            finally:
                settle(expected, used)
            paid = Usage(*(a + b for a, b in zip(paid, used, strict=True)))
            if failed is None:
                return answer, paid
            if failed.final:
                shut.append(failed.reason)
            unusable += failed.unusable
            if not failed.again or unusable > 1:
                raise Refused(failed.reason, failed.answered)
            if failed.wait > 0:
                hold(failed.wait)
            if attempt < retries:
                pacing.sleep(pacing.delay(limits.backoff, attempt), closing)
        raise Refused(f"{failed.reason}, {retries + 1} times", failed.answered)

    return send, url


class _Failed(NamedTuple):
    """One attempt."""

    reason: str
    again: bool = True  # may another attempt succeed?
    lost: bool = False  # it may have been charged all the same
    unusable: bool = False
    answered: bool = False  # the server said no to this request
    final: bool = False  # the account, not the request, is refused
    wait: float = 0.0  # seconds that the server asks everyone to wait


def _parsed(text, expected, read):
    """(answer, Usage, None) or (None, Usage, _Failed) of the text of an answer."""
    try:
        data = json.loads(text)
    except ValueError:
        return None, expected, _Failed("the answer is cut off: no whole JSON")
    used = expected
    try:
        counts = data.get("usage") or {}
        found = [counts.get(name) for name in Usage._fields]
        used = Usage(
            *(
                count if isinstance(count, int) and count >= 0 else guess
                for count, guess in zip(found, expected, strict=True)
            )
        )
        return read(data), used, None
    except Unusable as error:
        return None, used, _Failed(str(error), unusable=True, answered=True)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        reason = f"the answer has another form: {type(error).__name__} {error}"
        return None, used, _Failed(reason[:200], unusable=True, answered=True)


# The client.


def _client(base_url, key_env, timeout):
    """(post, URL): `post(route, body)` returns (text, None) or (None, _Failed)."""
    try:
        import openai
    except ImportError as error:
        raise ImportError(
            "feedback.endpoint needs openai's client: pip install 'rlhf_jax[feedback]'"
        ) from error
    key = _key(base_url, key_env)
    client = openai.OpenAI(
        api_key=key, base_url=base_url, max_retries=0, timeout=timeout
    )
    url = _checked(str(client.base_url).rstrip("/"))
    routes = {"completions": client.completions, "chat": client.chat.completions}

    def hide(text):
        return text if key == _NO_KEY else text.replace(key, "[key]")

    def post(route, body):
        try:
            if route == "tokenize":  # of vLLM and others, which have it above /v1
                path = url.removesuffix("/v1") + "/tokenize"
                return json.dumps(client.post(path, cast_to=object, body=body)), None
            asked = {name: body[name] for name in body if name in _NAMED}
            extra = {name: body[name] for name in body if name not in _NAMED}
            create = routes[route].with_streaming_response.create
            with create(**asked, extra_body=extra) as response:
                return _received(response, timeout, hide)
        except openai.APITimeoutError:
            return None, _Failed("timed out", lost=True)
        except openai.APIConnectionError as error:
            cause = type(error.__cause__ or error).__name__
            return None, _Failed(f"no connection ({cause})")
        except openai.APIStatusError as error:
            return None, _refusal(error, hide)
        except openai.OpenAIError as error:
            return None, _Failed(f"the client raised {type(error).__name__}")

    return post, url


_NAMED = ("model", "prompt", "messages")  # parameters that `create` insists on


def _key(base_url, key_env):
    """The key, or a placeholder for a server of one's own that asks for none."""
    if not key_env:
        return _NO_KEY
    key = os.environ.get(key_env, "").strip()
    if key:
        return key
    if base_url is not None and key_env == "OPENAI_API_KEY":
        return _NO_KEY
    # A key that is handed over in place of a name must not be printed.
    name = key_env if re.fullmatch(r"[A-Z_][A-Z0-9_]{0,63}", key_env) else "key_env"
    raise ValueError(
        f"{name} names no environment variable that is set: put the key in one, and "
        "give its name as key_env (None: the server asks for no key)"
    )


def may_hold_secret(url):
    """Whether a URL has a user, a password or a query, any of which may be a key."""
    parts = parse.urlsplit(url)
    return bool(parts.username or parts.password or parts.query)


def _checked(url):
    """Raises ValueError if a URL may hold a secret, without repeating it."""
    if may_hold_secret(url):
        raise ValueError(
            "base_url holds a user, a password or a query: they would be written down "
            "with every answer. Give a key by its environment variable instead"
        )
    return url


def _received(response, timeout, hide):
    """The whole body within the time of the request, however slowly it drips."""
    end, parts = time.monotonic() + timeout, []
    try:
        for part in response.iter_bytes():
            parts.append(part)
            if time.monotonic() > end:
                return None, _Failed("timed out", lost=True)
    except Exception as error:  # of the client's own HTTP library
        reason = f"the answer is cut off ({type(error).__name__})"
        return None, _Failed(reason, lost=True)
    return hide(b"".join(parts).decode("utf-8", "replace")), None


def _refusal(error, hide):
    """What an HTTP status of 400 or more means for the next attempt."""
    status = error.status_code
    message = error.body.get("message") if isinstance(error.body, dict) else None
    message = message if isinstance(message, str) else str(error.message)
    reason = hide(f"HTTP {status}: {' '.join(message.split())}")[:200]
    quota = error.code == "insufficient_quota"
    again = (status in (408, 409, 425, 429) or status >= 500) and not quota
    wait = _retry_after(error.response.headers) if again else 0.0
    if wait > _PATIENCE:
        return _Failed(f"HTTP {status}: asks to wait for {wait:.0f} s", again=False)
    final = quota or status in (401, 403)
    answered = not final and status != 429
    return _Failed(reason, again, answered=answered, final=final, wait=wait)


def _retry_after(headers):
    """Seconds, by either form of Retry-After, or the client library's in ms."""
    for name, scale in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * scale)
        except (KeyError, ValueError):
            continue
    try:
        date = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, date.timestamp() - time.time())
    except (TypeError, ValueError):
        return 0.0
