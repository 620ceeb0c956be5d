"""What a labeler's tokens cost, as vendors quote it: money per million tokens."""

from typing import NamedTuple


class Prices(NamedTuple):
    """Prices in one currency, usually dollars."""

    prompt: float  # per million tokens read
    completion: float  # per million tokens written


def cost(prices, prompt_tokens, completion_tokens):
    """(prompt tokens · price + completion tokens · price)/10⁶; 0 without prices."""
    if prices is None:
        return 0.0
    prompt, completion = prices
    return (prompt_tokens * prompt + completion_tokens * completion) / 1e6
