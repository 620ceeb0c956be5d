"""How fast a server may be asked, and for how much: waits, rates and a budget."""

import dataclasses
import math
import random
import threading
import time
from typing import NamedTuple

from rlhf_jax.feedback import prices as money

_LONGEST_WAIT = 60.0  # seconds between two attempts, unless the server asks for more
_BYTES_A_TOKEN = 3  # English has 4 to 5: what is not counted yet is overestimated


class Refused(Exception):
    """No answer, and asking again would not help; the message is the reason.

    `answered`: the server was reached and said no to this request.
    """

    def __init__(self, reason, answered=False):
        super().__init__(reason)
        self.answered = answered


class Usage(NamedTuple):
    prompt_tokens: int
    completion_tokens: int


@dataclasses.dataclass(frozen=True)
class Limits:
    """How a server may be asked. The budget holds for all that a labeler asks."""

    concurrency: int = 8
    requests_per_minute: float = math.inf
    tokens_per_minute: float = math.inf
    retries: int = 6  # attempts after the first
    timeout: float = 120.0  # seconds an attempt, from its start to its last byte
    backoff: float = 1.0  # seconds before the first retry; twice as many each time
    budget_tokens: float = math.inf
    budget_money: float = math.inf  # in the currency of the prices
    prices: money.Prices | None = None

    def __post_init__(self):
        if self.concurrency < 1 or self.retries < 0 or self.timeout <= 0:
            raise ValueError(
                f"concurrency={self.concurrency}, retries={self.retries} and timeout="
                f"{self.timeout}: at least 1, at least 0, above 0"
            )
        if self.budget_money < math.inf and self.prices is None:
            raise ValueError("budget_money needs prices=(prompt, completion)")


def expected(text, written):
    """What a request may use, before the server has counted it: an overestimate."""
    size = len(text.encode("utf-8", "surrogatepass"))
    return Usage(-(-size // _BYTES_A_TOKEN), written)


def delay(backoff, attempt):
    """backoff · 2^attempt seconds, ± half, so that threads do not march in step."""
    return min(backoff * 2**attempt, _LONGEST_WAIT) * random.uniform(0.5, 1.5)


def sleep(seconds, closing):
    if closing.wait(max(seconds, 0.0)):
        raise Refused("stopped")


def pace(limits):
    """(wait, hold): `wait(tokens, closing)` returns when a request may go, spaced by
    requests and by tokens a minute; after `hold(seconds)` none goes for that long."""
    lock, at = threading.Lock(), {"request": 0.0, "tokens": 0.0, "held": 0.0}

    def wait(tokens, closing):
        with lock:
            turn = max(time.monotonic(), at["request"], at["tokens"])
            at["request"] = turn + 60.0 / limits.requests_per_minute
            at["tokens"] = turn + 60.0 * tokens / limits.tokens_per_minute
        sleep(turn - time.monotonic(), closing)
        while (left := at["held"] - time.monotonic()) > 0:
            sleep(left, closing)

    def hold(seconds):
        with lock:
            at["held"] = max(at["held"], time.monotonic() + seconds)

    return wait, hold


def purse(limits):
    """(reserve, settle): tokens are set aside for a request before it goes, and what it
    used is written down after it. `reserve` raises Refused when the budget is spent."""
    changed, sums = threading.Condition(), {"spent": [0, 0], "reserved": [0, 0]}

    def over(usage):
        tokens = [sum(x) for x in zip(*sums.values(), usage, strict=True)]
        paid = money.cost(limits.prices, *tokens)
        return sum(tokens) > limits.budget_tokens or paid > limits.budget_money

    def add(name, usage, sign=1):
        sums[name] = [a + sign * b for a, b in zip(sums[name], usage, strict=True)]

    def reserve(usage, closing):
        with changed:
            while over(usage):
                if not any(sums["reserved"]) or closing.is_set():
                    raise Refused(f"budget of {_budget(limits)} is spent")
                changed.wait(1.0)  # requests in flight may use less than is set aside
            add("reserved", usage)

    def settle(usage, used):
        with changed:
            add("reserved", usage, -1)
            add("spent", used)
            changed.notify_all()

    return reserve, settle


def _budget(limits):
    """The budget in words."""
    parts = []
    if limits.budget_tokens < math.inf:
        parts.append(f"{limits.budget_tokens:g} tokens")
    if limits.budget_money < math.inf:
        parts.append(f"{limits.budget_money:g} in money")
    return " and ".join(parts)
